"""Large results and large values: the agent's memory does not grow with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dbward.domain.model import Dialect
from tests.worker.targets import TargetDb, empty, limits, run
from worker.drivers.errors import ResultTooLarge

ROWS = 1_000_000
GROWTH_BYTES = 40_000_000
"""The rows are about 120 MB on the wire and many times that as Python objects."""

SCRIPT = """
import sys
from datetime import timedelta
from resource import RUSAGE_SELF, getrusage
from dbward.domain.model import Limits
from worker.drivers import open_driver

class Counting:
    rows_ = 0
    def columns(self, columns): pass
    def rows(self, rows): self.rows_ += len(rows)

def go(sql):
    sink = Counting()
    with open_driver(url).open() as session:
        outcome = session.run(
            [sql], read_only=True, limits=Limits(timedelta(0), max_rows=10**9, max_bytes=10**12), sink=sink
        )
    assert outcome.row_count == sink.rows_ and not outcome.truncated
    return sink.rows_

url, warm_up, sql = sys.argv[1:]
go(warm_up)
before = getrusage(RUSAGE_SELF).ru_maxrss
rows = go(sql)
print(rows, (getrusage(RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.fixture(params=["postgresql", "mysql", "sqlite"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> TargetDb:
    made = empty(request.param, request, tmp_path / "target.db")
    if made.dialect is Dialect.SQLITE:
        made.direct("CREATE TABLE t (a)")
    return made


def test_a_million_rows(db: TargetDb) -> None:
    wide = "SELECT n, '" + "x" * 100 + "' AS x FROM ({}) q"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, db.url]
        + [wide.format(db.numbers.format(n=rows)) for rows in (2000, ROWS)],
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    rows, growth = map(int, done.stdout.split())
    assert rows == ROWS
    assert growth < GROWTH_BYTES


def test_a_row_of_a_hundred_megabytes(db: TargetDb) -> None:
    sql = {
        "postgresql": "SELECT repeat('x', 100000000)",
        "mysql": "SELECT repeat('x', 10000000)",  # its max_allowed_packet is 16 MB
        "sqlite": "SELECT replace(printf('%100000000s', ''), ' ', 'x')",
    }[db.dialect]
    with pytest.raises(ResultTooLarge) as failed:
        run(db.url, sql, limits=limits(max_bytes=5_000_000))
    assert failed.value.code == "result.row_too_large"


def test_a_cut_result_leaves_no_statement_behind(db: TargetDb) -> None:
    if db.dialect == "sqlite":
        return
    endless = db.numbers.format(n=1_000_000_000)
    outcome, _ = run(db.url, endless + " /* endless */", limits=limits(max_rows=3))
    assert outcome.truncated
    while db.busy():
        pass
