"""Work in a child process: its answer, its errors and its death reach the caller."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from dbward.errors import Misconfigured
from web.apart import ChildDied, in_child


def test_the_result_comes_from_another_process() -> None:
    assert in_child(os.getpid) != os.getpid()


def test_nothing_the_work_started_is_left_here() -> None:
    def work() -> int:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return threading.active_count()

    before = threading.active_count()
    assert in_child(work) > 1
    assert threading.active_count() == before


def test_an_expected_error_keeps_its_code_and_hint() -> None:
    def work() -> None:
        raise Misconfigured("no", code="state_newer", hint="run the newer one")

    with pytest.raises(Misconfigured) as caught:
        in_child(work)
    assert (caught.value.message, caught.value.code, caught.value.hint) == ("no", "state_newer", "run the newer one")


def test_an_error_of_the_system_is_passed_on() -> None:
    def work() -> None:
        raise PermissionError(13, "Permission denied", "/state")

    with pytest.raises(PermissionError, match="Permission denied: '/state'"):
        in_child(work)


def test_a_bug_in_the_work_is_shown_and_reported(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ChildDied, match="status 1"):
        in_child(work)
    assert "ZeroDivisionError: a bug" in capfd.readouterr().err


def test_a_killed_child_is_reported() -> None:
    with pytest.raises(ChildDied, match=f"status -{int(signal.SIGKILL)}"):
        in_child(lambda: os.kill(os.getpid(), signal.SIGKILL))
