"""`make demo`: the main job of dbward, with a real server, a real agent and three people, on this machine only.

Everything is made in a temporary directory and removed at the end, however that comes about; no process stays behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Self

from dbward.cli.sample import create_sample

READY_SECS = 60
STOP_SECS = 15
COMMAND_SECS = 90
DBWARD = (sys.executable, "-c", "from dbward.cli.main import run; run()")
CELERY = (sys.executable, "-m", "celery")

SERVER_TOML = """\
state_dir = "state"

[[databases]]
name = "shop"
environments = ["development", "production"]

# In development everything runs at once.
[[workflows]]
environment = "development"
[workflows.auto_approve]
mode = "always"

# In production reading does, and every change needs somebody else's approval.
[[workflows]]
environment = "production"
operations = ["execute_select"]
[workflows.auto_approve]
mode = "always"

[[workflows]]
environment = "production"
operations = ["execute_dml"]
[[workflows.steps]]
approvers = [{ role = "approver", min = 1 }]

[[auth.users]]
id = "alice"
roles = ["requester"]
token = "${ALICE_TOKEN}"

[[auth.users]]
id = "bob"
roles = ["approver"]
token = "${BOB_TOKEN}"

[[auth.users]]
id = "carol"
roles = ["operator"]
token = "${CAROL_TOKEN}"

[result_storage]
backend = "local"
"""

AGENT_TOML = """\
agent_id = "demo-agent"
alive_file = "agent.alive"
ready_file = "agent.ready"
drain_timeout_secs = 5

[server]
url = "${SERVER_URL}"
agent_token = "${AGENT_TOKEN}"

[databases.shop.development]
url = "${DEVELOPMENT_URL}"

[databases.shop.production]
url = "${PRODUCTION_URL}"
"""

NEXT = """\
What to try next
  .venv/bin/dbward dev              the same on your machine until Ctrl-C, for trying commands yourself
  docs/quickstart.md                put a database of your own behind it, with approvals
  docs/architecture.md              how it works; docs/security.md: what it promises, and against whom
  make test                         the whole suite; make bench: how fast it is, beside Celery on Redis
"""


class DemoFailed(Exception):
    """A step did not do what it should; the message says which."""


class Stopped(Exception):
    """A signal asks us to end."""


def main() -> int:
    signals = Signals()
    home = Path(tempfile.mkdtemp(prefix="dbward-demo-"))
    demo = Demo(home, signals)
    try:
        signals.allow()
        demo.play()
    except Stopped:
        say("\nStopped; cleaning up.")
        return 130
    except DemoFailed as e:
        say(f"\nThe demo failed: {e}")
        demo.show_logs()
        return 1
    else:
        return 0
    finally:
        signals.ignore()  # cleaning up is short and must not be cut off
        demo.close()
        shutil.rmtree(home)


class Demo:
    """The stage: where everything is, and which processes run."""

    def __init__(self, home: Path, signals: Signals) -> None:
        self.home = home
        self._signals = signals
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.tokens = {who: f"dbw_{secrets.token_hex(16)}" for who in ("alice", "bob", "carol")}
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._command_running: subprocess.Popen[bytes] | None = None

    def play(self) -> None:
        title("A server, an agent and a sample shop, all in one temporary directory")
        self._start()
        title("Alice reads in development: policy approves it, the agent runs it")
        self.run("alice", "execute", "-e", "development", ORDERS_BY_STATUS)
        title("She asks beforehand what a forgotten WHERE would have led to")
        self.run("alice", "preflight", "-e", "production", "UPDATE products SET price_cents = 0", expect=1)
        title("Alice changes a price in production: that has to wait for somebody else")
        self.run("alice", "execute", "-e", "production", "--yes", RAISE_PRICE, expect=2)
        request = self._newest_request()
        title("She cannot approve it herself")
        self.run("alice", "request", "approve", request[:8], expect=1)
        title("Bob sees what waits for him, and approves it")
        self.run("bob", "request", "list", "--pending-for-me")
        self.run("bob", "request", "approve", request[:8], "--comment", "agreed in the pricing meeting")
        title("Alice resumes it, now that it suits her: exactly what Bob approved runs")
        self.run("alice", "request", "resume", request[:8])
        self.run(
            "alice", "execute", "-e", "production", "--yes", "SELECT sku, name, price_cents FROM products WHERE id = 1"
        )
        title("What dbward cannot vouch for is refused: transaction control around a DELETE")
        self.run("alice", "execute", "-e", "development", "--yes", "BEGIN; DELETE FROM orders; COMMIT", expect=1)
        title("Carol, an operator, reads the record and verifies its chain")
        self.run("carol", "audit", "--limit", "12")
        self.run("carol", "audit", "--verify")
        title("The agent is a Celery worker, reached over the server's HTTP port: no Redis, no RabbitMQ")
        self.run("carol", "agents")
        self.run("carol", "-A", "tasks", "inspect", "ping", program="celery")
        self.run("carol", "-A", "tasks", "inspect", "queue_depth", program="celery")
        title("Done")
        say("Everything above was real: a server, an agent, HTTP between them. It is stopped and removed now.\n")
        say(NEXT)

    # --- processes --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        with Progress("sample databases with a few thousand rows"):
            for environment in ("development", "production"):
                create_sample(self.home / f"{environment}.db")
        (self.home / "server.toml").write_text(SERVER_TOML)
        (self.home / "agent.toml").write_text(AGENT_TOML)
        with Progress(f"server on {self.url}") as progress:
            listen = f"127.0.0.1:{self.port}"
            tokens = {f"{who.upper()}_TOKEN": token for who, token in self.tokens.items()}
            self._spawn("server", [*DBWARD, "server", "start", "--config", "server.toml", "--listen", listen], tokens)
            self._await("server", lambda: answers(f"{self.url}/ready"), progress)
        with Progress("agent, which alone knows the databases' URLs") as progress:
            secret = {
                "SERVER_URL": self.url,
                "AGENT_TOKEN": (self.home / "state" / "agent-token").read_text(),
                "DEVELOPMENT_URL": f"sqlite:///{self.home / 'development.db'}",
                "PRODUCTION_URL": f"sqlite:///{self.home / 'production.db'}",
            }
            self._spawn("agent", [*DBWARD, "agent", "--config", "agent.toml"], secret)
            self._await("agent", (self.home / "agent.ready").exists, progress)

    def _spawn(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        with (self.home / f"{name}.log").open("wb") as log, self._signals.held():
            self._processes.append((name, self._popen(argv, env, log)))

    def _popen(self, argv: Sequence[str], env: Mapping[str, str], out: IO[bytes] | int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            cwd=self.home,
            env=self._env(env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C comes to us alone, and we stop them in order
        )

    def _await(self, name: str, ready: Callable[[], bool], progress: Progress) -> None:
        process = dict(self._processes)[name]
        deadline = time.monotonic() + READY_SECS
        while not ready():
            if process.poll() is not None:
                raise DemoFailed(f"the {name} ended with status {process.returncode}")
            if time.monotonic() > deadline:
                raise DemoFailed(f"the {name} was not ready within {READY_SECS} s")
            progress.tick()
            time.sleep(0.05)

    def _env(self, more: Mapping[str, str]) -> dict[str, str]:
        """Nothing of the caller's dbward settings, and a home directory of our own."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("DBWARD_", "CELERY_", "XDG_"))}
        return {**kept, "HOME": str(self.home), "COLUMNS": "118", **more}

    def run(self, who: str, *args: str, expect: int = 0, program: str = "dbward") -> None:
        """Run a command as one of the three and show it with what it prints."""
        say(f"\n{bold(who + '$')} {program} {shlex.join(args)}")
        status, output = self._command(who, CELERY if program == "celery" else DBWARD, args)
        for line in output.splitlines():
            say(f"  {line}".rstrip())
        if expect:
            say(dim(f"  (exit status {status})"))
        if status != expect:
            raise DemoFailed(f"`{program} {shlex.join(args)}` ended with status {status}, not {expect}")

    def _command(self, who: str, program: Sequence[str], args: Sequence[str]) -> tuple[int, str]:
        env = {"DBWARD_SERVER_URL": self.url, "DBWARD_TOKEN": self.tokens[who], "DBWARD_DATABASE": "shop"}
        with self._signals.held():
            process = self._popen([*program, *args], env, subprocess.PIPE)
            self._command_running = process
        try:
            output, _ = process.communicate(timeout=COMMAND_SECS)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"`{shlex.join(args)}` did not end within {COMMAND_SECS} s") from None
        kill_group(process)
        self._command_running = None
        return process.returncode, output.decode(errors="replace")

    def _newest_request(self) -> str:
        status, output = self._command("alice", DBWARD, ["--format", "json", "request", "list", "--limit", "1"])
        if status != 0:
            raise DemoFailed(f"the list of requests cannot be read:\n{output}")
        return str(json.loads(output)["data"]["requests"][0]["id"])

    def show_logs(self) -> None:
        for name, _ in self._processes:
            log = (self.home / f"{name}.log").read_text(errors="replace").splitlines()
            say(f"\nEnd of the {name}'s log:")
            for line in log[-30:]:
                say(f"  {line}")

    def close(self) -> None:
        """Stop the agent, then the server, each in peace if it can."""
        if self._command_running is not None:
            kill_group(self._command_running)
        for _, process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECS)
            kill_group(process)


ORDERS_BY_STATUS = (
    "SELECT status, count(*) AS orders, min(ordered_at) AS first FROM orders GROUP BY status ORDER BY 2 DESC"
)
RAISE_PRICE = "UPDATE products SET price_cents = price_cents + 100 WHERE id = 1"


class Progress:
    """One line that says what is being set up, and at the end how long it took."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.began = time.monotonic()
        self._shown = 0

    def __enter__(self) -> Self:
        if TERMINAL:
            sys.stdout.write(f"  ... {self.what}")
            sys.stdout.flush()
        return self

    def tick(self) -> None:
        """Show on a terminal that it goes on."""
        seconds = int(time.monotonic() - self.began)
        if TERMINAL and seconds != self._shown:
            self._shown = seconds
            sys.stdout.write(f"\r\033[K  ... {self.what} ({seconds} s)")
            sys.stdout.flush()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        mark = "ok " if kind is None else "!! "
        say(("\r\033[K" if TERMINAL else "") + f"  {mark} {self.what} ({time.monotonic() - self.began:.1f} s)")


TERMINAL = sys.stdout.isatty()


def say(text: str) -> None:
    print(text, flush=True)


def title(text: str) -> None:
    say(f"\n{bold('== ' + text)}")


def bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if TERMINAL else text


def dim(text: str) -> str:
    return f"\033[2m{text}\033[0m" if TERMINAL else text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError as e:
        e.close()
        return False
    except OSError:
        return False


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End whatever the process left in its group, and the process itself."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Signals:
    """Ctrl-C and its like become `Stopped`, but never between the making of a thing and the note that it exists."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._asked = False
        self._held = True
        for number in self.NUMBERS:
            signal.signal(number, self._arrived)

    def _arrived(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        if not self._held:
            raise Stopped

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        self._held = True
        try:
            yield
        finally:
            self.allow()

    def allow(self) -> None:
        """Raise from now on, and at once if a signal has come already."""
        self._held = False
        if self._asked:
            raise Stopped

    def ignore(self) -> None:
        for number in self.NUMBERS:
            signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        os._exit(1)
