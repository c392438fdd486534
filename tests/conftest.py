"""What every test may use: databases of its own, a free port, processes that end with the test."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from tests.support import migrated, order, services
from tests.support.processes import Farm

_session: services.Session | None = None


def pytest_sessionstart(session: pytest.Session) -> None:
    global _session  # noqa: PLW0603 - pytest's hooks share nothing else
    if not hasattr(session.config, "workerinput"):
        _session = services.Session()


def pytest_unconfigure(config: pytest.Config) -> None:
    if _session is not None:
        _session.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes > 1:
        items[:] = order.spread(
            items,
            processes,
            file=lambda item: item.path,
            long=lambda item: item.get_closest_marker("e2e") is not None,
        )


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """A fresh, empty PostgreSQL database; the login owns it and is a superuser."""
    with services.fresh_postgres() as url:
        yield url


@pytest.fixture
def mariadb_url() -> Iterator[str]:
    """A fresh, empty MariaDB database as `mysql://…`; the login may do everything."""
    with services.fresh_mariadb() as url:
        yield url


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    """Where a SQLite database of the test's own may be made."""
    return tmp_path / "target.db"


@pytest.fixture
def free_port() -> int:
    return services.free_port()


@dataclass(frozen=True, slots=True)
class State:
    """A place of the test's own for the server's state. `url` is what `[state] url` takes."""

    dialect: Literal["sqlite", "postgresql"]
    url: str


@pytest.fixture(params=["sqlite", "postgresql"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    """Both kinds of state store, with today's tables in them: a test that takes it runs on each."""
    if request.param == "sqlite":
        yield State("sqlite", migrated.sqlite_copy(tmp_path / "state.db"))
    else:
        with migrated.postgres_copy() as url:
            yield State("postgresql", url)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_state(request: pytest.FixtureRequest, tmp_path: Path) -> State:
    """As `state`, with nothing in it."""
    if request.param == "sqlite":
        return State("sqlite", f"sqlite:///{tmp_path / 'state.db'}")
    return State("postgresql", request.getfixturevalue("postgres_url"))


_farm = pytest.StashKey[Farm]()


@pytest.fixture
def farm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Farm]:
    """Starts servers and agents as processes; all are killed when the test ends, and their logs shown when it fails."""
    farm = request.node.stash[_farm] = Farm(tmp_path)
    yield farm
    farm.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and _farm in item.stash:
        report.sections.extend(item.stash[_farm].logs())
    return report
