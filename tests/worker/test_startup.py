"""What the start waits for, what ends it at once, and databases that come and go by themselves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from dbward.client.agent_api import AgentApi
from dbward.domain.model import Operation, Target
from dbward.errors import DbwardError, Misconfigured, Missing, Refused, Unauthorized, Unavailable
from tests.support import services
from tests.worker.tiny_server import TOKEN, TinyServer
from worker import startup
from worker.agent import Agent, patience
from worker.databases import Databases
from worker.drivers import open_driver
from worker.probes import Probes

APP, OTHER = Target("app", "test"), Target("other", "test")


@pytest.fixture
def make(server: TinyServer, tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    made: list[Agent] = []

    def agent(databases: dict[Target, str], *, max_secs: float | None = 30, url: str | None = None) -> Agent:
        made.append(
            Agent(
                AgentApi(url or server.url, TOKEN),
                {target: open_driver(url) for target, url in databases.items()},
                Probes(tmp_path / "alive", tmp_path / "ready"),
                instance="test",
                session="session-1",
                operations=(Operation.EXECUTE_SELECT,),
                max_concurrent=2,
                statement_timeout_secs=60,
                drain_timeout_secs=1,
                patience=patience(first_secs=0.02, last_secs=0.1, max_secs=max_secs),
            )
        )
        return made[-1]

    yield agent
    for each in made:
        each.stop()
        each.wait_drained()
        each.close()


@pytest.fixture
def lite_url(sqlite_path: Path) -> str:
    sqlite_path.touch()
    return f"sqlite:///{sqlite_path}"


def test_a_good_start_reports_itself(make: Callable[..., Agent], server: TinyServer, lite_url: str) -> None:
    agent = make({APP: lite_url})
    assert agent.start().node == "agent-1@test"
    assert agent.queues() == {"job.app.test"}
    [report] = server.reports
    assert report["databases"] == [
        {"database": "app", "environment": "test", "dialect": "sqlite", "status": "up", "error": None}
    ]
    assert (report["instance"], report["session"], report["max_concurrent"]) == ("test", "session-1", 2)


def test_an_account_that_can_write_is_warned_of_where_only_reads_are_asked_for(
    make: Callable[..., Agent], lite_url: str
) -> None:
    warned = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "the account in its URL can write" in record.getMessage():
                warned.set()

    listener = Listener(logging.WARNING)
    logging.getLogger("dbward.agent").addHandler(listener)
    try:
        make({APP: lite_url}).start()
        assert warned.wait(60)
    finally:
        logging.getLogger("dbward.agent").removeHandler(listener)


def test_a_server_that_is_away_is_waited_for(make: Callable[..., Agent], server: TinyServer, lite_url: str) -> None:
    server.fail["public-key"] = [503, 502, 429]
    server.fail["report"] = [503, 500]
    make({APP: lite_url}).start()
    assert server.calls["public-key"] == 4
    assert server.calls["report"] == 3


def test_a_server_that_stays_away_ends_the_start(make: Callable[..., Agent], lite_url: str) -> None:
    agent = make({APP: lite_url}, max_secs=0.3, url=f"http://127.0.0.1:{services.free_port()}")
    with pytest.raises(Unavailable, match="given up"):
        agent.start()


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (403, Refused), (404, Missing)])
@pytest.mark.parametrize("verb", ["public-key", "report"])
def test_a_refusal_ends_the_start_at_once(
    make: Callable[..., Agent], server: TinyServer, lite_url: str, verb: str, status: int, error: type[DbwardError]
) -> None:
    server.fail[verb] = [status] * 10
    with pytest.raises(error):
        make({APP: lite_url}, max_secs=None).start()
    assert server.calls[verb] == 1


@pytest.mark.parametrize("secs", [120, -120])
def test_a_clock_two_minutes_off_ends_the_start(
    make: Callable[..., Agent], server: TinyServer, lite_url: str, secs: int
) -> None:
    server.clock_ahead = timedelta(seconds=secs)
    with pytest.raises(Misconfigured, match=r"1[12][09] s") as raised:
        make({APP: lite_url}).start()
    assert raised.value.code == "clock.skew"


def test_a_token_for_other_databases_ends_the_start(
    make: Callable[..., Agent], server: TinyServer, lite_url: str
) -> None:
    server.queues = ["job.other.test"]
    with pytest.raises(Misconfigured, match="none of its databases"):
        make({APP: lite_url}).start()


def test_a_refused_password_ends_the_start_at_once(make: Callable[..., Agent], lite_url: str, mariadb_url: str) -> None:
    scheme, rest = mariadb_url.split("://")
    wrong = f"{scheme}://nobody:wrong-password@{rest.rpartition('@')[2]}"
    with pytest.raises(Misconfigured) as raised:
        make({APP: lite_url, OTHER: wrong}, max_secs=None).start()
    assert raised.value.code == "database.credentials_refused"
    assert "other/test" in raised.value.message
    assert "wrong-password" not in raised.value.message


def test_no_database_until_the_deadline_ends_the_start(make: Callable[..., Agent]) -> None:
    gone = f"postgresql://u:secret-pw@127.0.0.1:{services.free_port()}/db"
    with pytest.raises(Unavailable) as raised:
        make({APP: gone}, max_secs=0.5).start()
    assert raised.value.code == "database.unreachable"
    assert "app/test" in raised.value.message
    assert "secret-pw" not in raised.value.message


def test_one_database_down_does_not_hold_up_the_other(
    make: Callable[..., Agent], server: TinyServer, lite_url: str
) -> None:
    server.queues = ["job.app.test", "job.other.test"]
    gone = f"postgresql://u:secret-pw@127.0.0.1:{services.free_port()}/db"
    agent = make({APP: lite_url, OTHER: gone})
    agent.start()
    states = {db["database"]: (db["status"], db["error"]) for db in server.reports[0]["databases"]}
    assert states["app"] == ("up", None)
    assert states["other"][0] == "down"
    assert "secret-pw" not in (states["other"][1] or "missing: secret-pw")


def test_a_stop_during_the_start_is_heard(make: Callable[..., Agent], server: TinyServer, lite_url: str) -> None:
    agent = make({APP: lite_url}, max_secs=None, url=f"http://127.0.0.1:{services.free_port()}")
    threading.Timer(0.2, agent.stop).start()
    with pytest.raises(startup.Stopped):
        agent.start()


def test_a_stop_while_databases_are_awaited_is_heard(make: Callable[..., Agent], server: TinyServer) -> None:
    agent = make({APP: f"postgresql://u@127.0.0.1:{services.free_port()}/db"}, max_secs=None)
    threading.Timer(0.3, agent.stop).start()
    with pytest.raises(startup.Stopped):
        agent.start()


def test_a_database_comes_back_by_itself(sqlite_path: Path) -> None:
    changed = threading.Condition()

    def note() -> None:
        with changed:
            changed.notify_all()

    with closing(
        Databases({APP: open_driver(f"sqlite:///{sqlite_path}")}, on_change=note, first_secs=0.02, last_secs=0.1)
    ) as databases:
        with pytest.raises(Unavailable):
            databases.start(until=time.monotonic() + 0.2, stopped=lambda: False)
        assert not databases.up()
        sqlite_path.touch()
        with changed:
            assert changed.wait_for(databases.up, 20)
        databases.mark_down(APP, "it went away")
        with changed:
            assert changed.wait_for(databases.up, 20)
