"""Log lines: one record is one line, ids are bound, nothing drives a terminal."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Literal

import pytest

from dbward import logs
from dbward.settings.logging import LogSettings

Lines = Callable[[], list[str]]


@pytest.fixture
def configured() -> Iterator[Callable[[Literal["text", "json"], str], Lines]]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level

    def configure(form: Literal["text", "json"], level: str = "info") -> Lines:
        stream = io.StringIO()
        logs.configure(LogSettings(level, form), stream)
        return lambda: stream.getvalue().splitlines()

    yield configure
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def test_text(configured: Callable[..., Lines]) -> None:
    lines = configured("text")
    log = logging.getLogger("dbward.test")
    with logs.bound(request_id="r1"), logs.bound(execution_id="e1"):
        log.info("hello %s", "world", extra={"action": "greet"})
    log.debug("not shown")
    log.warning("alone")
    first, second = lines()
    assert first.endswith(" INFO dbward.test: hello world request_id=r1 execution_id=e1 action=greet")
    assert first[10] == "T"
    assert first.split()[0].endswith("Z")
    assert second.endswith(" WARNING dbward.test: alone")


def test_json(configured: Callable[..., Lines]) -> None:
    lines = configured("json")
    with logs.bound(request_id="r1"):
        try:
            raise ValueError("bad\nthing")
        except ValueError:
            logging.getLogger("dbward.test").exception("it broke", extra={"level": "forged", "n": 1})
    (line,) = lines()
    made = json.loads(line)
    assert (made["level"], made["message"], made["request_id"], made["n"]) == ("error", "it broke", "r1", 1)
    assert "ValueError" in made["exception"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_nobody_can_forge_a_line(configured: Callable[..., Lines], form: str) -> None:
    lines = configured(form)
    logging.getLogger("dbward.test").info("a\nFAKE \x1b[2J b\r\x9b %s", "c\u2028d\x85")
    (line,) = lines()
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in line)


def test_ids_belong_to_one_thread(configured: Callable[..., Lines]) -> None:
    lines = configured("text")
    with logs.bound(request_id="r1"):
        other = threading.Thread(target=lambda: logging.getLogger("dbward.test").info("other"))
        other.start()
        other.join()
    assert "r1" not in lines()[0]


def test_what_others_attach_is_left_out(configured: Callable[..., Lines]) -> None:
    lines = configured("text")
    logging.getLogger("celery.worker").info("started", extra={"data": {"kwargs": "everything"}})
    logging.getLogger("celery.worker.strategy").info("received")
    assert [line.partition("celery.worker: ")[2] for line in lines()] == ["started"]
