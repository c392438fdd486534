"""`dbward dev`: a server and an agent on this machine, for trying dbward out. Its state lives in `~/.dbward/dev`."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import click

from dbward.cli.app import App, pass_app
from dbward.cli.sample import create_sample
from dbward.errors import Misconfigured

DATABASE, ENVIRONMENT = "app", "development"
READY_SECS = 60
AGENT_STOP_SECS = 15
SERVER_STOP_SECS = 35
_POLL_SECS = 0.1
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_COMMAND = (sys.executable, "-c", "from dbward.cli.main import run; run()")
"""This very installation, also when its scripts directory is not on PATH."""


@dataclass(frozen=True, slots=True)
class _Line:
    """What the server says on its standard output."""

    text: str


@dataclass(frozen=True, slots=True)
class _Ended:
    name: str
    status: int


@dataclass(frozen=True, slots=True)
class _Stop:
    """A signal that asks us to stop."""


_Event = _Line | _Ended | _Stop


@click.command("dev", short_help="Try dbward on this machine.")
@click.option("--database-url", metavar="URL", help="The database to run on; without it a sample shop in SQLite.")
@click.option("--port", type=click.IntRange(0, 65535), default=3000, show_default=True, help="0 takes any free port.")
@pass_app
def dev(app: App, database_url: str | None, port: int) -> None:
    """Start a server and an agent on this machine until Ctrl-C.

    Everything runs at once, without approval: this is for getting to know dbward, not for a database that matters.
    """
    status = run_dev(Path.home() / ".dbward" / "dev", database_url, port, app.env.variables)
    if status:
        raise click.exceptions.Exit(status)


def run_dev(home: Path, database_url: str | None, port: int, env: Mapping[str, str]) -> int:
    """Run until a signal (0) or until one of the two ends by itself (1). `home` is made, readable by its owner only."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.chmod(0o700)
    if database_url is None:
        sample = home / "sample.db"
        if not sample.exists():
            create_sample(sample)
        database_url, shown = f"sqlite:///{sample}", f"the sample shop, {sample}"
    else:
        shown = without_secrets(database_url)
    crew = _Crew(env)
    with _signals_to(crew.events):
        try:
            return _start_and_watch(crew, home, database_url, shown, port)
        finally:
            crew.stop()


def _start_and_watch(crew: _Crew, home: Path, database_url: str, shown: str, port: int) -> int:
    config = home / "server.toml"
    _write(config, _server_toml(home))
    crew.start("server", ["server", "start", "--config", str(config), "--listen", f"127.0.0.1:{port}"])
    url = _await_server(crew)
    if url is None:
        return crew.verdict()
    client = home / "client.toml"
    _write(client, _client_toml(url, (home / "admin-token").read_text()))
    ready = home / "probes" / "dbward-agent-ready"
    ready.parent.mkdir(exist_ok=True)
    ready.unlink(missing_ok=True)
    _write(home / "agent.toml", _agent_toml(url, ready.parent))
    secrets = {"DBWARD_DEV_AGENT_TOKEN": (home / "agent-token").read_text(), "DBWARD_DEV_DATABASE_URL": database_url}
    crew.start("agent", ["agent", "--config", str(home / "agent.toml")], secrets)
    if not _await_agent(crew, ready):
        return crew.verdict()
    click.echo(
        f"dbward dev is ready: {url}\n"
        f"  {DATABASE}/{ENVIRONMENT} is {shown}\n"
        f"  In another terminal:\n"
        f"    export DBWARD_CONFIG={client}\n"
        f'    dbward execute "SELECT 1"\n'
        "  Ctrl-C stops it."
    )
    while not crew.over:
        crew.next()
    return crew.verdict()


def _await_server(crew: _Crew) -> str | None:
    """The address it says it listens on; None when it ended or we are asked to stop."""
    deadline = monotonic() + READY_SECS
    while not crew.over:
        event = crew.next(deadline - monotonic())
        if isinstance(event, _Line) and "listening on " in event.text:
            return event.text.split("listening on ", 1)[1].split(",", 1)[0].strip()
        if event is None:
            raise Misconfigured(f"the server was not ready within {READY_SECS} s", code="dev.timeout")
    return None


def _await_agent(crew: _Crew, ready: Path) -> bool:
    deadline = monotonic() + READY_SECS
    while not crew.over:
        if ready.exists():
            return True
        if monotonic() > deadline:
            raise Misconfigured(f"the agent was not ready within {READY_SECS} s", code="dev.timeout")
        crew.next(_POLL_SECS)
    return False


class _Crew:
    """The two children, and everything that happens to them, in one queue."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self.events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self.ended: _Ended | None = None
        """The first child that ended without being asked to."""
        self._asked = False
        self._running: dict[str, subprocess.Popen[str]] = {}

    @property
    def over(self) -> bool:
        return self._asked or self.ended is not None

    def start(self, name: str, argv: list[str], secrets: Mapping[str, str] | None = None) -> None:
        # A session of its own: Ctrl-C comes to us alone, and we stop them in order.
        child = subprocess.Popen(  # noqa: S603 - our own command line
            [*_COMMAND, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if name == "server" else None,  # its first line says where it listens
            text=True,
            start_new_session=True,
            env={**self._env, **(secrets or {})},
        )
        self._running[name] = child
        threading.Thread(target=self._watch, args=(name, child), name=f"watch-{name}", daemon=True).start()

    def next(self, timeout: float | None = None) -> _Event | None:
        """The next event, taken note of; None when there was none in time."""
        try:
            event = self.events.get(timeout=None if timeout is None else max(timeout, 0))
        except queue.Empty:
            return None
        if isinstance(event, _Stop):
            self._asked = True
        elif isinstance(event, _Ended):
            self._running.pop(event.name, None)
            self.ended = self.ended or event
        return event

    def verdict(self) -> int:
        """The exit status, once it is over."""
        if self._asked or self.ended is None:
            return 0
        click.echo(
            f"dbward dev: the {self.ended.name} ended by itself with status {self.ended.status}; "
            "what it said last stands above",
            err=True,
        )
        return 1

    def stop(self) -> None:
        """End the agent, then the server, each in peace; on a second signal or after a time by force."""
        for name, patience in (("agent", AGENT_STOP_SECS), ("server", SERVER_STOP_SECS)):
            child = self._running.get(name)
            if child is None:
                continue
            child.terminate()
            deadline = monotonic() + patience
            while name in self._running:
                event = self.next(deadline - monotonic())
                if event is None or isinstance(event, _Stop):
                    for left in self._running.values():
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(left.pid, signal.SIGKILL)
                    return

    def _watch(self, name: str, child: subprocess.Popen[str]) -> None:
        if child.stdout is not None:
            with child.stdout:
                for line in child.stdout:
                    self.events.put(_Line(line))
        self.events.put(_Ended(name, child.wait()))


@contextlib.contextmanager
def _signals_to(events: queue.SimpleQueue[_Event]) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_: events.put(_Stop())) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def without_secrets(url: str) -> str:
    """What may be shown of a database URL: no password, and no query, which may hold one too."""
    try:
        parts = urlsplit(url)
        user = f"{parts.username}@" if parts.username else ""
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{user}{parts.hostname or ''}{port}{parts.path}"
    except ValueError:
        return "the database you named"


def _write(path: Path, text: str) -> None:
    """Owner-only from its first byte on, whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    draft.replace(path)


def _server_toml(home: Path) -> str:
    return f"""\
# Written by `dbward dev` at every start.
state_dir = {_toml(str(home))}

[auth]
default_role = "requester"

[[databases]]
name = "{DATABASE}"
environments = ["{ENVIRONMENT}"]

[[workflows]]
[workflows.auto_approve]
mode = "always"

[result_storage]
backend = "local"
"""


def _client_toml(url: str, token: str) -> str:
    return f"""\
# Written by `dbward dev` at every start.
default_database = "{DATABASE}"
default_environment = "{ENVIRONMENT}"

[server]
url = {_toml(url)}
token = {_toml(token)}
"""


def _agent_toml(url: str, probes: Path) -> str:
    return f"""\
# Written by `dbward dev` at every start; the secrets are in the agent's environment only.
agent_id = "dev-agent"
drain_timeout_secs = 10
probe_dir = {_toml(str(probes))}

[server]
url = {_toml(url)}
agent_token = "${{DBWARD_DEV_AGENT_TOKEN}}"

[databases.{DATABASE}.{ENVIRONMENT}]
url = "${{DBWARD_DEV_DATABASE_URL}}"
"""


def _toml(text: str) -> str:
    """A TOML string: JSON's escapes are TOML's as well."""
    return json.dumps(text)
