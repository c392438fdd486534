"""kill -9 of agent or server at every step between resume and completion, on both kinds of state.

Whatever dies when: afterwards no request is stuck, nothing ran twice (counted in the target database), nothing is lost,
the audit chain verifies, and the state is true.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.conftest import State
from tests.e2e.crashing import POINTS
from tests.e2e.people import CONFIG, People
from tests.support.processes import DBWARD, Farm

pytestmark = pytest.mark.e2e

CRASHING = Path(__file__).with_name("crashing.py")
WITHOUT_PLANS = CONFIG.replace(
    'environment = "production"\n[[workflows.steps', 'environment = "production"\nexplain = false\n[[workflows.steps'
)
"""The first message is the execution: the plans of a pending request would be what a server is killed over."""
ROWS = 8_000
INSERT = f"INSERT INTO effects (filler) SELECT repeat('x', 300) FROM generate_series(1, {ROWS}) RETURNING id, filler"
"""Writes rows that can be counted, and returns over a megabyte: more than one part of a result."""
SLOW = f"INSERT INTO effects (filler) SELECT 'x' FROM generate_series(1, {ROWS}), pg_sleep(5)"


@dataclass(frozen=True)
class Outcome:
    """What must be true in the end: the status, and whether the statement took effect (None: either)."""

    status: str
    effect: bool


EXECUTED = Outcome("executed", effect=True)
LOST_WITHOUT_EFFECT = Outcome("execution_lost", effect=False)
LOST_WITH_EFFECT = Outcome("execution_lost", effect=True)

EXPECTED = {
    "agent-fetched": EXECUTED,
    "agent-claimed": EXECUTED,
    "agent-about-to-start": EXECUTED,
    "agent-started": LOST_WITHOUT_EFFECT,
    "agent-uploaded-half": LOST_WITHOUT_EFFECT,
    "agent-committed": LOST_WITH_EFFECT,
    "agent-completed": EXECUTED,
    **{name: EXECUTED for name in POINTS if name.startswith("server-")},
}


@pytest.fixture
def effects(postgres_url: str) -> str:
    """A target database with an empty table to count in."""
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute("CREATE TABLE effects (id bigserial PRIMARY KEY, filler text)")
    return postgres_url


def count(url: str) -> int:
    with psycopg.connect(url) as conn:
        row = conn.execute("SELECT count(*) FROM effects").fetchone()
    assert row is not None
    return int(row[0])


def test_every_point_has_its_expectation() -> None:
    assert set(EXPECTED) == set(POINTS)


@pytest.mark.parametrize("point", sorted(POINTS))
def test_kill_at(point: str, farm: Farm, state: State, effects: str, tmp_path: Path) -> None:
    victim = point.partition("-")[0]
    marker = tmp_path / "killed"
    deadly = (sys.executable, str(CRASHING), point, str(marker))
    server = farm.server(
        config=WITHOUT_PLANS,
        state_url=state.url,
        env=People.tokens_env(),
        program=deadly if victim == "server" else DBWARD,
    )
    agent = farm.agent(server, {("app", "production"): effects}, program=deadly if victim == "agent" else DBWARD)
    people = People(server)

    request_id = people.submit_and_approve(INSERT)
    people.resume_despite_outage(request_id)

    died = server.process if victim == "server" else agent
    farm.until(lambda: not died.alive, f"{victim} died at {point}", secs=60)
    assert marker.exists()
    if victim == "server":
        server.start_again()
        people.resume_if_it_was_not(request_id)
    else:
        farm.agent(server, {("app", "production"): effects})

    expected = EXPECTED[point]
    seen = people.await_end(request_id)
    assert (seen, count(effects)) == (expected.status, ROWS if expected.effect else 0)
    people.assert_record_is_whole(request_id)
    assert people.queue_is_empty()


@pytest.mark.parametrize("victim", ["agent", "server"])
def test_kill_while_the_statement_runs(victim: str, farm: Farm, state: State, effects: str) -> None:
    server = farm.server(config=CONFIG, state_url=state.url, env=People.tokens_env())
    agent = farm.agent(server, {("app", "production"): effects})
    people = People(server)
    request_id = people.submit_and_approve(SLOW)
    people.resume_despite_outage(request_id)
    farm.until(lambda: is_running(effects), "the statement runs")

    if victim == "agent":
        agent.kill()
        farm.agent(server, {("app", "production"): effects})
    else:
        server.process.kill()
        server.start_again()

    expected = LOST_WITHOUT_EFFECT if victim == "agent" else EXECUTED
    seen = people.await_end(request_id)
    farm.until(lambda: not is_running(effects), "the database has let go of the statement")
    assert (seen, count(effects)) == (expected.status, ROWS if expected.effect else 0)
    people.assert_record_is_whole(request_id)


def is_running(url: str) -> bool:
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'"
            " AND query LIKE 'INSERT INTO effects%'"
        ).fetchone()
    return row is not None and row[0] > 0
