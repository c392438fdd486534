"""Texts in, findings out: whatever the classifier takes for a read must change nothing on the real engine.

A finding is a line that says how to make the text again: `python -m tests.fuzz --dialect D --seed S --only N`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from dbward.domain.model import Dialect, Operation
from dbward.domain.sql.classify import classify
from dbward.domain.sql.redact import redact
from dbward.errors import Invalid
from tests.fuzz.texts import text
from tests.truth import worlds
from tests.truth.corpus import Read
from tests.truth.judging import Maker, survey
from tests.truth.worlds import World

GROUP = 200
"""Reads between two photographs."""


@dataclass(slots=True)
class Bag:
    """What came of a hunt. `ran`: reads that the engine understood; `findings` is empty when all is well."""

    texts: int = 0
    reads: int = 0
    ran: int = 0
    findings: list[str] = field(default_factory=list)


def hunt(make: Maker, dialect: Dialect, seed: str, numbers: Iterable[int]) -> Bag:
    """Judges the texts of these numbers. `make` gives worlds in which nothing but the classification protects data."""
    bag = Bag()
    found: list[Read] = []
    for number in numbers:
        bag.texts += 1
        name = f"--dialect {dialect} --seed {seed} --only {number}"
        sql = text(f"{seed}:{number}", dialect)
        try:
            read = _read(sql, dialect)
        except Exception as broken:
            bag.findings.append(f"{name} {sql!a} broke it: {broken!r}")
            continue
        if read is not None:
            bag.reads += 1
            if not read[1]:  # a SET would stay on the connection, as it says
                found.append(Read(name, *read))
    bag.ran, changed = survey(make, found, group_size=GROUP)
    bag.findings += changed
    return bag


def _read(sql: str, dialect: Dialect) -> tuple[tuple[str, ...], bool] | None:
    """What would run if it is a read. Raises whatever the classifier should not, AssertionError included."""
    redact(sql, dialect)
    try:
        found = classify(sql, dialect)
    except Invalid:
        return None
    for statement in found.statements:
        again = classify(statement.text, dialect)
        assert again.texts == (statement.text,), f"what runs reads differently from what was judged: {again.texts!a}"
        assert again.statements[0].kind is statement.kind, f"what runs is {again.statements[0].kind}"
    if found.operation is not Operation.EXECUTE_SELECT:
        return None
    return found.texts, any(statement.verb == "SET" for statement in found.statements)


def maker(dialect: Dialect, server: str | None, directory: Path) -> Maker:
    """Bare worlds, on the server at this admin URL or in new directories below this one."""

    def make() -> AbstractContextManager[World]:
        match dialect, server:
            case Dialect.POSTGRESQL, str():
                return worlds.postgresql(server, bare=True)
            case Dialect.MYSQL, str():
                return worlds.mysql(server, bare=True)
            case _:
                return worlds.sqlite(_new(directory), bare=True)

    return make


def _new(parent: Path) -> Path:
    made = parent / str(sum(1 for _ in parent.iterdir()))
    made.mkdir()
    return made


def forever(start: int, size: int) -> Iterator[range]:
    """Numbers from `start` on, `size` at a time."""
    while True:
        yield range(start, start + size)
        start += size
