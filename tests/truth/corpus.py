"""What dbward calls a read, of the corpus and of ordinary reads, in the texts that it would have signed and run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dbward.domain.model import Dialect, Operation
from dbward.domain.sql.classify import classify
from dbward.errors import Invalid

_DATA = Path(__file__).parents[1] / "unit" / "data"


@dataclass(frozen=True, slots=True)
class Read:
    """A request that would run on the read path. `sets`: it changes a setting of its own session on purpose."""

    id: str
    texts: tuple[str, ...]
    sets: bool


def texts(dialect: Dialect) -> list[tuple[str, str]]:
    """Id and SQL of every case of the corpus, and of the reads that people write every day."""
    cases = [json.loads(line) for line in (_DATA / "sql_corpus.jsonl").read_text("utf-8").splitlines()]
    ordinary = [line.partition("\t") for line in (_DATA / "ordinary_reads.tsv").read_text("utf-8").splitlines()]
    return [(case["id"], case["sql"]) for case in cases if case["dialect"] == dialect] + [
        (f"ordinary line {number}", sql) for number, (of, _, sql) in enumerate(ordinary, 1) if of == dialect
    ]


def reads(dialect: Dialect) -> list[Read]:
    found = ((name, read_of(sql, dialect)) for name, sql in texts(dialect))
    return [Read(name, *read) for name, read in found if read is not None]


def read_of(sql: str, dialect: Dialect) -> tuple[tuple[str, ...], bool] | None:
    """The texts of a read and whether a SET is among them; None for anything else."""
    try:
        found = classify(sql, dialect)
    except Invalid:
        return None
    if found.operation is not Operation.EXECUTE_SELECT:
        return None
    return found.texts, any(statement.verb == "SET" for statement in found.statements)
