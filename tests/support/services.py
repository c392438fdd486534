"""Throw-away servers for the tests: PostgreSQL and MariaDB here, S3 in `tests.support.s3`.

Found on this machine, started once per session, shared by all xdist workers, gone when the session is.
`DBWARD_TEST_POSTGRES_URL` and `DBWARD_TEST_MARIADB_URL` name servers that run already; the login must be allowed to
create databases. A server that is neither named nor installed raises `ServerMissing`: tests fail then, and are never
skipped.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from tests.support import guard

RUN_DIR = "DBWARD_TEST_RUN_DIR"
POSTGRES_URL = "DBWARD_TEST_POSTGRES_URL"
MARIADB_URL = "DBWARD_TEST_MARIADB_URL"
USER = "dbward"
PASSWORD = "pw-of-a-throw-away-server"
START_SECS = 120

_started: list[Shared] = []


class ServerMissing(Exception):
    """A database server that the tests need is not on this machine; the message says what to install."""


class Shared(subprocess.Popen[bytes]):
    """A server of the session. Whoever came first has started it and may be gone before it: the guard ends it."""

    def __del__(self) -> None:
        """No warning that it still runs: it is meant to."""


# --- the session -----------------------------------------------------------------------------------------------------


class Session:
    """Owner of the run directory; opened by the pytest process that is not a worker."""

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="dbward-tests-"))
        self.dir.chmod(0o755)  # servers run as another user when we are root
        (self.dir / "groups").mkdir()
        self._alive = (self.dir / "alive").open("a")
        fcntl.flock(self._alive, fcntl.LOCK_EX)
        self._guard = subprocess.Popen(
            [sys.executable, guard.__file__, str(self.dir)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._guard.stdout is not None
        self._guard.stdout.readline()
        self._guard.stdout.close()
        os.environ[RUN_DIR] = str(self.dir)

    def close(self) -> None:
        """Give the guard its sign and wait until everything is gone."""
        self._alive.close()
        self._guard.wait(timeout=60)


def run_dir() -> Path:
    """The directory of this session, the same in every worker."""
    return Path(os.environ[RUN_DIR])


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


def postgres_admin_url() -> str:
    """URL of a login that may create databases. Starts the server at the first call of the session."""
    return os.environ.get(POSTGRES_URL) or shared("postgres", _start_postgres)


def find_postgres() -> Path:
    """The newest directory that holds `postgres` and `initdb`."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda d: _version(d.parent.name), reverse=True
    ) + sorted(Path("/usr").glob("pgsql-*/bin"), reverse=True)
    on_path = shutil.which("initdb")
    for directory in [*([Path(on_path).resolve().parent] if on_path else []), *versions]:
        if (directory / "postgres").exists() and (directory / "initdb").exists():
            return directory
    raise ServerMissing(
        "PostgreSQL is not installed: no `initdb` on PATH or in /usr/lib/postgresql/*/bin. "
        f"Install it (Debian, Ubuntu: apt-get install postgresql) or set {POSTGRES_URL}."
    )


def _start_postgres(home: Path) -> str:
    binaries = find_postgres()
    user = _unprivileged("postgres")
    password = home / "password"
    password.write_text(PASSWORD)
    data = home / "data"
    _own(home, user)
    _run(
        home,
        user,
        # Not scram-sha-256, which takes half of the time of connecting: tests connect tens of thousands of times.
        [binaries / "initdb", "-D", data, "-U", USER, "--pwfile", password, "-A", "md5"],
        ["-E", "UTF8", "--locale=C", "--no-sync"],
    )
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "max_connections": "400",
        "shared_buffers": "64MB",
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "autovacuum": "off",
        "max_wal_size": "256MB",
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

    def argv(port: int) -> list[str | Path]:
        return [binaries / "postgres", "-D", data, "-p", str(port), *options]

    def url(port: int) -> str:
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres"

    return serve("postgres", argv, url, _ping_postgres, home, user)


def _ping_postgres(url: str) -> None:
    import psycopg

    psycopg.connect(url, connect_timeout=5).close()


def make_postgres(name: str, template: str = "template0") -> str:
    """URL of a new database, a copy of `template`."""
    import psycopg

    admin = postgres_admin_url()
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return _with_database(admin, name)


@contextmanager
def fresh_postgres(template: str = "template0") -> Iterator[str]:
    """URL of a new database, empty unless `template` is not; dropped at the end with whoever is still connected."""
    import psycopg

    admin = postgres_admin_url()
    name = f"t_{secrets.token_hex(6)}"
    yield make_postgres(name, template)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextmanager
def own_postgres() -> Iterator[str]:
    """Admin URL of a server that nobody else uses, for tests that look at all of it. It has to be installed here."""
    with own_server("postgres", _start_postgres) as url:
        yield url


@dataclass(slots=True)
class Stoppable:
    """A PostgreSQL server that a test may stop and start again, at the same address and with the same data."""

    url: str
    process: Shared

    def stop(self) -> None:
        """Sessions are cut off, and connections refused until it is started again."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)
        guard.forget(run_dir(), self.process.pid)

    def start(self) -> None:
        argv = self.process.args
        assert isinstance(argv, list)
        home = Path(argv[argv.index("-D") + 1]).parent
        serve("postgres", lambda _: argv, lambda _: self.url, _ping_postgres, home, _unprivileged("postgres"))
        self.process = _started[-1]


@contextmanager
def stoppable_postgres() -> Iterator[Stoppable]:
    with own_server("postgres", _start_postgres) as url:
        server = Stoppable(url, _started[-1])
        yield server
        if server.process.poll() is None:
            server.stop()


# --- MariaDB ---------------------------------------------------------------------------------------------------------


def mariadb_admin_url() -> str:
    """URL of a login that may create databases. Starts the server at the first call of the session."""
    return os.environ.get(MARIADB_URL) or shared("mariadb", _start_mariadb)


def find_mariadb() -> tuple[Path, Path]:
    """The server's binary and the script that makes its system tables."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/usr/local/bin"])
    server = shutil.which("mariadbd", path=path)
    install = shutil.which("mariadb-install-db", path=path)
    if server and install:
        return Path(server), Path(install)
    raise ServerMissing(
        "MariaDB is not installed: no `mariadbd` and `mariadb-install-db` on PATH or in /usr/sbin. "
        f"Install it (Debian, Ubuntu: apt-get install mariadb-server) or set {MARIADB_URL}."
    )


def _start_mariadb(home: Path) -> str:
    server, install = find_mariadb()
    user = _unprivileged("mysql")
    data = home / "data"
    init = home / "init.sql"
    init.write_text(
        f"CREATE USER '{USER}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
        f"GRANT ALL ON *.* TO '{USER}'@'127.0.0.1' WITH GRANT OPTION;\n"
    )
    _own(home, user)
    _run(
        home,
        user,
        [install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"],
        ["--skip-test-db", "--innodb-log-file-size=16M"],
    )
    settings = {
        "datadir": data,
        "tmpdir": data,  # at its start a server removes the temporary files of others from a directory they share
        "bind-address": "127.0.0.1",
        "socket": "socket",
        "pid-file": "pid",
        "init-file": init,
        "max-connections": "400",
        "max-allowed-packet": "256M",
        "innodb-flush-log-at-trx-commit": "0",
        "innodb-flush-method": "nosync",
        "innodb-buffer-pool-size": "64M",
        "innodb-log-file-size": "64M",
    }
    options = [f"--{name}={value}" for name, value in settings.items()]

    def argv(port: int) -> list[str | Path]:
        return [server, "--no-defaults", "--skip-log-bin", "--skip-name-resolve", f"--port={port}", *options]

    def url(port: int) -> str:
        return f"mysql://{USER}:{PASSWORD}@127.0.0.1:{port}/mysql"

    return serve("mariadb", argv, url, _ping_mariadb, home, user)


def _ping_mariadb(url: str) -> None:
    _mariadb(url, "SELECT 1")


@contextmanager
def fresh_mariadb() -> Iterator[str]:
    """URL of a new, empty database; dropped at the end."""
    admin = mariadb_admin_url()
    name = f"t_{secrets.token_hex(6)}"
    _mariadb(admin, f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    yield _with_database(admin, name)
    _mariadb(admin, f"DROP DATABASE IF EXISTS {name}")


@contextmanager
def own_mariadb() -> Iterator[str]:
    """As `own_postgres`."""
    with own_server("mariadb", _start_mariadb) as url:
        yield url


def _mariadb(url: str, statement: str) -> None:
    import pymysql

    parts = urlsplit(url)
    connection = pymysql.connect(
        host=parts.hostname,
        port=parts.port or 3306,
        user=parts.username,
        password=parts.password or "",
        connect_timeout=5,
    )
    try:
        # A test may have left a transaction open that holds the metadata lock: end such sessions instead of waiting.
        with connection.cursor() as cursor:
            if statement.startswith("DROP DATABASE"):
                _end_sessions(cursor, statement.rsplit(" ", 1)[1])
            cursor.execute(statement)
    finally:
        connection.close()


def _end_sessions(cursor: object, database: str) -> None:
    import pymysql.cursors

    assert isinstance(cursor, pymysql.cursors.Cursor)
    cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", (database,))
    for (session,) in cursor.fetchall():
        with contextlib.suppress(pymysql.MySQLError):  # it may have ended by itself
            cursor.execute(f"KILL {session}")


# --- nginx ------------------------------------------------------------------------------------------------------------


def find_nginx() -> Path:
    """The program; every test that needs one starts its own (`tests.support.balancer`)."""
    found = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    if found is None:
        raise ServerMissing(
            "nginx is not installed: it is neither on PATH nor in /usr/sbin. "
            "Install it (Debian, Ubuntu: apt-get install nginx-light)."
        )
    return Path(found)


# --- starting, once ---------------------------------------------------------------------------------------------------


def shared(name: str, start: Callable[[Path], str]) -> str:
    """What `start` says (a server's URL) of the one thing of this name in the session, made by whoever comes first."""
    home = run_dir() / name
    with (run_dir() / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        url = home.with_suffix(".url")
        failed = home.with_suffix(".failed")
        if failed.exists():
            raise ServerMissing(failed.read_text())
        if not url.exists():
            home.mkdir()
            try:
                url.write_text(start(home))
            except Exception as e:
                failed.write_text(str(e))
                raise
        return url.read_text()


@contextmanager
def own_server(name: str, start: Callable[[Path], str]) -> Iterator[str]:
    """What `start` says of a server that is for one test alone, and gone after it."""
    home = run_dir() / f"{name}-{secrets.token_hex(6)}"
    home.mkdir()
    url = start(home)
    server = _started[-1]
    try:
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)
        guard.forget(run_dir(), server.pid)
        shutil.rmtree(home, ignore_errors=True)


def serve(
    name: str,
    argv: Callable[[int], list[str | Path]],
    url: Callable[[int], str],
    ping: Callable[[str], None],
    home: Path,
    user: str | None,
) -> str:
    """Start a server and wait until it answers; another port when somebody took ours in between."""
    log = home / "log"
    group, extra = _groups(user)
    for _ in range(3):
        port = free_port()
        with log.open("ab") as out:
            server = Shared(
                argv(port),
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "HOME": str(home), "TZ": "UTC"},
                user=user,
                group=group,
                extra_groups=extra,
            )
        _started.append(server)
        guard.register(run_dir(), server.pid)
        deadline = time.monotonic() + START_SECS
        while server.poll() is None and time.monotonic() < deadline:
            try:
                ping(url(port))
            except Exception:
                time.sleep(0.05)
            else:
                return url(port)
        if server.poll() is None:
            server.kill()
            server.wait()
        guard.forget(run_dir(), server.pid)
    raise ServerMissing(f"{name} was found but does not start; its log:\n{log.read_text()[-4000:]}")


def _run(home: Path, user: str | None, command: list[str | Path], options: list[str]) -> None:
    argv = [*command, *options]
    env = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "HOME": str(home), "TZ": "UTC"}
    group, extra = _groups(user)
    done = subprocess.run(
        argv,
        cwd=home,
        env=env,
        user=user,
        group=group,
        extra_groups=extra,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        raise ServerMissing(f"{argv[0]} failed with status {done.returncode}:\n{done.stdout}"[:4000])


def _groups(user: str | None) -> tuple[int | None, list[str | int] | None]:
    """Main and extra groups for a process of `user`; None changes nothing."""
    return (None, None) if user is None else (pwd.getpwnam(user).pw_gid, [])


def _unprivileged(preferred: str) -> str | None:
    """Who runs the server when we are root, which both servers refuse; None when we are not."""
    if os.geteuid() != 0:
        return None
    for name in (preferred, "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise ServerMissing("the tests run as root and neither the server's user nor `nobody` exists")


def _own(home: Path, user: str | None) -> None:
    if user is None:
        return
    entry = pwd.getpwnam(user)
    for path in [home, *home.iterdir()]:
        os.chown(path, entry.pw_uid, entry.pw_gid)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def main() -> int:
    """`python -m tests.support.services`: say which servers are missing; 0 when none is."""
    missing = []
    for variable, find in ((POSTGRES_URL, find_postgres), (MARIADB_URL, find_mariadb), (None, find_nginx)):
        try:
            if variable is None or not os.environ.get(variable):
                find()
        except ServerMissing as e:
            missing.append(str(e))
    for line in missing:
        print(line, file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
