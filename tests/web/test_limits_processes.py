"""The limit of a token over two server processes on one PostgreSQL state."""

from __future__ import annotations

import json
import shutil
from itertools import takewhile

import pytest
import sqlalchemy as sa

from dbward.db.tables import allowances
from tests.support.processes import POLICY, Farm, Server, call

pytestmark = pytest.mark.e2e

READS = 40


def test_what_one_server_let_through_counts_at_the_other(farm: Farm, postgres_url: str) -> None:
    results = json.dumps(str(farm.dir / "results"))
    config = f"[limits]\nreads_per_minute = {READS}\n{POLICY}root_dir = {results}\n"
    first = farm.server(name="first", config=config, state_url=postgres_url)
    shutil.copytree(first.state_dir, farm.dir / "second-state")
    second = farm.server(name="second", config=config, state_url=postgres_url)
    engine = sa.create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg2://"))

    def told(name: str) -> list[int]:
        """What the processes have said that they counted of this name."""
        with engine.connect() as conn:
            return list(conn.execute(sa.select(allowances.c["count"]).where(allowances.c.name == name)).scalars())

    def attempt() -> int | None:
        """How many calls the second let through after the first had let through all; None when a new minute began."""
        made = new_token(first)
        name, token = f"reads:{made['id']}", made["token"]
        if let_through(first, token) != READS:
            return None
        farm.until(
            lambda: told(name) == [READS] or let_through(first, token, most=1), "the first has told of its calls"
        )
        here = let_through(second, token, most=1)
        farm.until(lambda: len(told(name)) == 2 or let_through(first, token, most=1), "the second has asked for them")
        here += let_through(second, token)
        return None if let_through(first, token, most=1) else here

    try:
        found = next(found for _ in range(4) if (found := attempt()) is not None)
    finally:
        engine.dispose()
    assert found < READS / 2


def new_token(server: Server) -> dict[str, str]:
    body = {"subject_id": "admin", "subject_type": "user"}
    status, made = call("POST", f"{server.url}/api/tokens", server.admin_token, body)
    assert status == 201
    return made


def let_through(server: Server, token: str, most: int = 10 * READS) -> int:
    """How many calls in a row are answered until one is refused."""
    statuses = (call("GET", f"{server.url}/api/me", token)[0] for _ in range(most))
    return len(list(takewhile(lambda status: status == 200, statuses)))
