"""One world, three sources: SQL on SQLite, SQL on PostgreSQL, and HTTP to a server over the former."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server

from dbward import ids
from dbward.broker import store
from dbward.broker.source import Poll, Source
from dbward.broker.source_http import HttpSource
from dbward.broker.source_sql import SqlSource
from dbward.broker.wire import Bind, Declare, Depths, Fetch, Fetched, Group, Publish, QueueDepth
from dbward.domain.model import Target
from dbward.runtime import Current, Runtime, open_runtime
from dbward.services import bootstrap
from dbward.settings.server import load_server
from web.app import create_app

QUEUE = "job.app.development"
OTHER = "job.app.production"
MAILBOX = "agent@one.celery.pidbox"
TARGETS = {QUEUE: Target("app", "development"), OTHER: Target("app", "production")}
CAP = 3

CONFIG = f"""
[broker]
delivery_cap = {CAP}

[[databases]]
name = "app"
environments = ["development", "production"]
dialect = "sqlite"

[[auth.users]]
id = "olga"
roles = ["operator"]
token = "${{T_OLGA}}"

[[auth.users]]
id = "omar"
roles = ["operator"]
token = "${{T_OMAR}}"

[[auth.users]]
id = "rita"
roles = ["requester"]
token = "${{T_RITA}}"

[result_storage]
backend = "local"
"""
PEOPLE = ("olga", "omar", "rita")


class Clock:
    """The server's clock, moved by hand."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.at

    def advance(self, secs: float) -> None:
        self.at += timedelta(seconds=secs)


def open_rt(url: str, path: Path, monkeypatch: pytest.MonkeyPatch, now: Callable[[], datetime]) -> Runtime:
    for name in PEOPLE:
        monkeypatch.setenv(f"T_{name.upper()}", ids.new_token())
    file = path / "server.toml"
    home = json.dumps(str(path / "state"))
    file.write_text(f"state_dir = {home}\n[state]\nurl = {json.dumps(url)}\n{CONFIG}")
    settings = load_server(file)
    bootstrap.prepare(settings)
    return open_runtime(settings, now=now)


def token_of(rt: Runtime, who: str) -> str:
    if who in ("agent", "admin"):
        return (rt.settings.state_dir / f"{who}-token").read_text()
    return next(user.token.reveal() for user in rt.settings.users if user.id == who and user.token is not None)


@contextmanager
def serving(rt: Runtime, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The application on a port of its own; the address."""
    server = make_server("127.0.0.1", 0, create_app(Current(rt)), threaded=True, ssl_context=tls)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.port}"
    finally:
        rt.hub.close()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@dataclass
class World:
    """A source to test, and the hands of the server behind it."""

    rt: Runtime
    clock: Clock
    source: Source
    seq: int = 0
    polls: list[Poll] = field(default_factory=list)

    def put(self, *execution_ids: str, queue: str = QUEUE) -> None:
        """Dispatch executions, as the server does."""
        for each in execution_ids:
            self.rt.store.write(
                lambda tx, each=each: self.rt.publisher.execution(  # type: ignore[misc]
                    tx, target=TARGETS[queue], request_id=f"request-{each}", execution_id=each
                )
            )

    def poll(
        self,
        *queues: str,
        session: str = "one",
        prefetch: int = 0,
        have: list[str] | None = None,
        no_ack: bool = False,
        wait: float = 20,
    ) -> Poll:
        self.seq += 1
        groups = [Group(queues=list(queues or (QUEUE,)), prefetch=prefetch, no_ack=no_ack)]
        ask = Fetch(session=session, seq=self.seq, groups=groups, have=have or [], wait_ms=int(wait * 1000))
        poll = self.source.poll(ask)
        self.polls.append(poll)
        return poll

    def fetch(self, *queues: str, **options: Any) -> Fetched:
        """What is there now."""
        found = self.poll(*queues, wait=0, **options).result(20)
        return found if found is not None else Fetched()

    def sweep(self) -> list[str]:
        return self.rt.store.write(lambda tx: store.sweep(tx, self.clock(), CAP)).dead_jobs

    def depth(self, queue: str = QUEUE) -> QueueDepth:
        return self.source.depths(Depths(queues=[queue]))[0]

    def server(self) -> SqlSource:
        """The server's own hands, which may do everything."""
        return SqlSource(self.rt.store, self.rt.hub, self.rt.now)

    def mailbox(self, queue: str = MAILBOX, *, session: str = "one") -> None:
        self.source.declare(Declare(session=session, queue=queue, expires_ms=10_000, message_ttl_ms=300_000))
        self.source.bind(Bind(queue=queue, exchange="celery.pidbox", type="fanout", routing_key=""))

    def broadcast(self, mid: str = "mid-1") -> int:
        return self.server().publish(Publish(exchange="celery.pidbox", routing_key="", mid=mid, message={"body": mid}))


def executions(fetched: Fetched) -> list[str]:
    return [delivery.message["headers"]["id"] for delivery in fetched.messages]


def tags(fetched: Fetched) -> list[str]:
    return [delivery.tag for delivery in fetched.messages if delivery.tag is not None]


@pytest.fixture(params=["sql-sqlite", "sql-postgres", "http"])
def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> Iterator[World]:
    postgres = request.param == "sql-postgres"
    url = request.getfixturevalue("postgres_url") if postgres else f"sqlite:///{tmp_path / 'state.db'}"
    rt = open_rt(url, tmp_path, monkeypatch, clock)
    world = None
    try:
        if request.param == "http":
            with serving(rt) as address:
                world = World(rt, clock, HttpSource(address, token_of(rt, "agent")))
                yield world
                for poll in world.polls:
                    poll.close()
                world.source.close()
        else:
            source = SqlSource(rt.store, rt.hub, rt.now, owner="token", settings=rt.settings.broker)
            world = World(rt, clock, source)
            yield world
    finally:
        rt.close()
