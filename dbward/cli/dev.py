"""`dbward dev`: a server and an agent on this machine, for trying dbward out. Its state lives in `~/.dbward/dev`."""

from __future__ import annotations

import contextlib
import fcntl
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
from typing import IO
from urllib.parse import urlsplit

import click

from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Exit, Outcome, Stop
from dbward.cli.onhost import refuse_port
from dbward.cli.sample import create_sample
from dbward.errors import Misconfigured

DATABASE, ENVIRONMENT = "app", "development"
URL_VARIABLE = "DBWARD_DEV_DATABASE_URL"
READY_SECS = 60
DATABASE_SECS = 30
"""How long a database that was named may take until it answers."""
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


@click.command("dev", short_help="Try dbward on this machine.", epilog=EPILOG)
@click.option(
    "--database-url",
    metavar="URL",
    help=f"The database to run on; without it a sample shop in SQLite. In {URL_VARIABLE} nobody else can read it.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=3000, show_default=True, help="0 takes any free port.")
@global_options(hidden=True)
@pass_app
def dev(app: App, database_url: str | None, port: int) -> None:
    """Start a server and an agent on this machine until Ctrl-C.

    Everything runs at once, without approval: this is for getting to know dbward, not for a database that matters.

    What it keeps is in ~/.dbward/dev, and there again the next time. With --format json the one line on stdout comes as
    soon as both are ready, and what they say goes into dev.log there.

    Exit status: 0 stopped by Ctrl-C or SIGTERM; 1 could not start, or one of the two ended by itself.
    """
    home = Path.home() / ".dbward" / "dev"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o700)
    except OSError as e:
        raise Misconfigured(f"{home} cannot be used: {e.strerror}", code="state_dir_unusable") from e
    with contextlib.ExitStack() as stack:
        stack.enter_context(_alone(home))
        _check_state(home)
        if (why := refuse_port("127.0.0.1", port)) is not None:
            raise Misconfigured(
                f"cannot listen on 127.0.0.1:{port}: {why}",
                code="listen.failed",
                hint="choose another with --port; --port 0 takes any that is free",
            )
        target, shown = _target(home, database_url or app.env.variables.get(URL_VARIABLE), app.env.cwd)
        log = None if app.out.human else stack.enter_context((home / "dev.log").open("wb"))
        crew = _Crew(app.env.variables, log)
        stack.enter_context(_signals_to(crew.events))
        stack.callback(crew.stop)
        _start_and_watch(app, crew, home, target, shown, port)


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Raises `Misconfigured` when `dbward dev` runs already: it would write over what that one uses."""
    fd = os.open(home / "dev.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(fd, 20, 0).decode(errors="replace").strip()
            raise Misconfigured(
                f"`dbward dev` runs already, as process {who}",
                code="dev.running",
                hint=f"stop it first, or use it: export DBWARD_CONFIG={home / 'client.toml'}",
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def _check_state(home: Path) -> None:
    """Raises `Misconfigured` when what is left of an earlier time is not for this version, or still in use."""
    if not (home / "dbward.db").exists():
        return
    from dbward.db.lock import StateLock
    from dbward.db.look import look
    from dbward.settings.server import StateSettings

    try:
        with StateLock(home):
            look(StateSettings(f"sqlite:///{home / 'dbward.db'}"))
    except Misconfigured as e:
        if e.code != "state_locked":
            e.hint = f"to begin anew, move it away: mv {home} {home}.old"
        raise


def _target(home: Path, database_url: str | None, cwd: Path) -> tuple[str, str]:
    """The database's URL, and what may be shown of it. Raises `Misconfigured` when it is no database's."""
    if database_url is None:
        sample = home / "sample.db"
        if not sample.exists():
            create_sample(sample)
        return f"sqlite:///{sample}", f"the sample shop, {sample}"
    from worker.drivers import open_driver

    scheme, _, rest = database_url.partition(":///")
    if scheme == "sqlite" and not rest.startswith("/"):  # the agent would look for it beside its own file
        database_url = f"sqlite:///{cwd / rest}"
    open_driver(database_url).close()
    return database_url, without_secrets(database_url)


def _start_and_watch(app: App, crew: _Crew, home: Path, database_url: str, shown: str, port: int) -> None:
    """Return after a signal. Raises `Stop` when one of the two ended by itself."""
    config = home / "server.toml"
    _write(config, _server_toml(home))
    crew.start("server", ["server", "start", "--config", str(config), "--listen", f"127.0.0.1:{port}"])
    url = _await_server(crew)
    if url is None:
        crew.raise_ended()
        return
    client = home / "client.toml"
    _write(client, _client_toml(url, (home / "admin-token").read_text()))
    ready = home / "probes" / "dbward-agent-ready"
    ready.parent.mkdir(exist_ok=True)
    ready.unlink(missing_ok=True)
    _write(home / "agent.toml", _agent_toml(url, ready.parent))
    secrets = {"DBWARD_DEV_AGENT_TOKEN": (home / "agent-token").read_text(), URL_VARIABLE: database_url}
    crew.start("agent", ["agent", "--config", str(home / "agent.toml")], secrets)
    if _await_agent(crew, ready):
        _say_ready(app, url, client, shown)
        while not crew.over:
            crew.next()
        if not app.out.human:  # the envelope has been printed: there is only the status to tell it by
            raise click.exceptions.Exit(Exit.OK if crew.asked else Exit.FAILED)
    crew.raise_ended()


def _say_ready(app: App, url: str, client: Path, shown: str) -> None:
    app.out.data(
        [
            f"dbward dev is ready: {url}",
            f"  {DATABASE}/{ENVIRONMENT} is {shown}",
            "  In another terminal:",
            f"    export DBWARD_CONFIG={client}",
            '    dbward execute "SELECT 1"',
            "  Ctrl-C stops it.",
        ]
    )
    facts = {"url": url, "config": str(client), "database": DATABASE, "environment": ENVIRONMENT, "runs_on": shown}
    app.out.finish(Outcome(facts))


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

    def __init__(self, env: Mapping[str, str], log: IO[bytes] | None) -> None:
        self._env = env
        self._log = log
        self.events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self.ended: _Ended | None = None
        """The first child that ended without being asked to."""
        self.asked = False
        """Whether a signal came."""
        self._running: dict[str, subprocess.Popen[str]] = {}

    @property
    def over(self) -> bool:
        return self.asked or self.ended is not None

    def start(self, name: str, argv: list[str], secrets: Mapping[str, str] | None = None) -> None:
        # A session of its own: Ctrl-C comes to us alone, and we stop them in order.
        child = subprocess.Popen(  # noqa: S603 - our own command line
            [*_COMMAND, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if name == "server" else self._log,  # its first line says where it listens
            stderr=self._log,
            text=True,
            start_new_session=True,
            env={**_own(self._env), **(secrets or {})},
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
            self.asked = True
        elif isinstance(event, _Ended):
            self._running.pop(event.name, None)
            self.ended = self.ended or event
        return event

    def raise_ended(self) -> None:
        """Once it is over: raise `Stop` unless we were asked to end it."""
        if self.asked or self.ended is None:
            return
        where = "stands above" if self._log is None else f"is in {self._log.name}"
        message = f"the {self.ended.name} ended by itself with status {self.ended.status}; what it said last {where}"
        raise Stop(Outcome(exit=Exit.FAILED, code="dev.ended", message=message))

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


def _own(env: Mapping[str, str]) -> dict[str, str]:
    """Without what would have the server keep its state elsewhere."""
    from dbward.settings.server import OVERRIDES

    return {name: value for name, value in env.items() if name not in OVERRIDES}


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
startup_max_wait_secs = {DATABASE_SECS}
probe_dir = {_toml(str(probes))}

[server]
url = {_toml(url)}
agent_token = "${{DBWARD_DEV_AGENT_TOKEN}}"

[databases.{DATABASE}.{ENVIRONMENT}]
url = "${{{URL_VARIABLE}}}"
"""


def _toml(text: str) -> str:
    """A TOML string: JSON's escapes are TOML's as well."""
    return json.dumps(text)
