"""The server process: one gunicorn worker of many threads around the application.

The master binds the address, takes the lock on the state and has it prepared by a child, while another child tells who
asks that the server is not ready yet. Then it only watches over its worker. Everything that must not cross a fork (the
database, threads, wake-ups) is opened in the worker.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, NoReturn

from gunicorn import arbiter, glogging
from gunicorn.app.base import BaseApplication

from dbward import VERSION, logs, signalling
from dbward.db import connect
from dbward.db.lock import StateLock
from dbward.errors import DbwardError, Misconfigured
from dbward.identity import oidc
from dbward.runtime import Current, open_runtime
from dbward.services import agreement, bootstrap
from dbward.services.allowances import Exchange
from dbward.services.backup import Backups
from dbward.services.housekeeping import Housekeeper
from dbward.services.reload import Reloader
from dbward.settings.server import ServerSettings
from web.apart import ChildDied, in_child
from web.app import create_app
from web.front import WAITING_MAX
from web.serving import Serving
from web.waiting import answering

log = logging.getLogger("dbward.server")

SPARE_THREADS = 64
"""For calls that do not wait, beside one thread for each that does."""
SPARE_CONNECTIONS = 1000
KEEP_ALIVE_SECS = 340
"""Longer than any poll's wait, so that an agent's connection lives from one poll to the next; and longer than a load
balancer is told to keep one, which would answer 502 for what it sends into a connection that we close at that moment.
"""
HEARTBEAT_SECS = 120


def serve(
    settings: ServerSettings, load: Callable[[], ServerSettings], *, listen: tuple[str, int], force_bootstrap: bool
) -> int:
    """Run the server until it is told to stop; its exit status. Raises `DbwardError` when it cannot start.

    `load` reads the settings again, for a reload.
    """
    app = Server(settings, load, bind(*listen))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # there is nothing yet that could read its settings again
    lock = StateLock(settings.state_dir)
    try:
        with answering(app) as say:
            _own(lock, settings, lambda: say("waiting"))
            say("starting")
            made = _prepare(settings, force_bootstrap=force_bootstrap)
        if made:
            where = settings.state_dir
            sys.stderr.write(
                f"[init] bootstrap tokens written to {where / bootstrap.ADMIN_TOKEN}, {where / bootstrap.AGENT_TOKEN}\n"
            )
        try:
            return _run(app)
        finally:
            signalling.remove_pid(settings.state_dir)
    finally:
        lock.release()


def _stop(_number: int, _frame: FrameType | None) -> None:
    """Until gunicorn hears the signals: process 1 of a container would ignore those that it does not handle."""
    sys.exit(0)


def _own(lock: StateLock, settings: ServerSettings, on_wait: Callable[[], None]) -> None:
    """Become the one server on this state. Raises Misconfigured."""
    try:
        for doubt in connect.check_filesystem(settings.state):
            log.warning(doubt)
        wait = connect.patience(settings.state, settings.state_dir)
    except OSError as e:
        raise Misconfigured(f"the state directory cannot be used: {e}", code="state_dir_unusable") from e

    def waiting(whose: str) -> None:
        log.warning("%s; waiting up to %d seconds for it to let go", whose, wait.total_seconds())
        on_wait()

    lock.acquire(wait, waiting)


def _prepare(settings: ServerSettings, *, force_bootstrap: bool) -> bool:
    try:
        return in_child(partial(bootstrap.prepare, settings, force_bootstrap=force_bootstrap))
    except (OSError, ChildDied) as e:
        raise Misconfigured(f"the state cannot be prepared: {e}", code="state_dir_unusable") from e


def bind(host: str, port: int) -> socket.socket:
    """A socket bound but not yet listening: until somebody answers, clients are refused and not left waiting."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as e:
        sock.close()
        raise Misconfigured(
            f"cannot listen on {host}:{port}: {e.strerror or e}", code="listen.failed", hint="choose another --listen"
        ) from e
    return sock


def _run(app: Server) -> int:
    master = os.getpid()
    status = 0
    try:
        app.run()
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else 1
    finally:
        if os.getpid() != master:
            # A worker ends here, inside frames it inherited: it must not run what they do on the way out.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return 1 if status else 0


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn carries no types
    """gunicorn's view of us: its settings, in code and from nowhere else."""

    def __init__(self, settings: ServerSettings, load: Callable[[], ServerSettings], listener: socket.socket) -> None:
        self.settings = settings
        self.load = load
        self.master_pipe = os.pipe()
        """A byte from the master asks for a reload (`r`) or a backup (`b`), also of a worker that is still starting;
        the end of file tells that the master is gone.
        """
        os.set_blocking(self.master_pipe[1], False)
        self._listener = listener
        super().__init__()

    def load_config(self) -> None:
        polls = self.settings.http.max_polls
        shared_memory = "/dev/shm"  # noqa: S108 - the heartbeat must not wait for a disk
        for name, value in {
            "bind": f"fd://{self._listener.detach()}",
            "workers": 1,
            "worker_class": Worker,
            "threads": polls + SPARE_THREADS,
            "worker_connections": polls + SPARE_CONNECTIONS + WAITING_MAX,
            "limit_request_field_size": oidc.MAX_LENGTH + 256,  # a whole JWT fits into `Authorization`
            "keepalive": KEEP_ALIVE_SECS,
            "timeout": HEARTBEAT_SECS,
            "graceful_timeout": max(1, int(self.settings.http.graceful_timeout.total_seconds())),
            "worker_tmp_dir": shared_memory if os.access(shared_memory, os.W_OK) else None,
            "logger_class": Log,
            "loglevel": "warning",
            "errorlog": None,
            "accesslog": None,
            "control_socket_disable": True,
            "proc_name": "dbward",
        }.items():
            self.cfg.set(name, value)

    def run(self) -> None:
        Arbiter(self).run()


class Arbiter(arbiter.Arbiter):  # type: ignore[misc]  # gunicorn carries no types
    """The master. It never runs two workers: the state has one owner."""

    def handle_int(self) -> None:
        """Ctrl-C drains as SIGTERM does; a second one cuts the drain short."""
        self.handle_term()

    def start(self) -> None:
        super().start()
        signalling.write_pid(self.app.settings.state_dir)  # now that signals are heard

    def handle_hup(self) -> None:
        """Have the worker read its settings again: it stays, with its connections, and swaps them if they are good."""
        with contextlib.suppress(BlockingIOError):  # it has been asked thousands of times already
            os.write(self.app.master_pipe[1], b"r")

    def handle_usr1(self) -> None:
        """Have the worker back its state up; there are no log files to open again."""
        with contextlib.suppress(BlockingIOError):
            os.write(self.app.master_pipe[1], b"b")

    def handle_usr2(self) -> None:
        log.warning("SIGUSR2 is ignored; a second server on the same state cannot start")

    handle_ttin = handle_ttou = handle_winch = handle_usr2

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        if exit_status == self.WORKER_BOOT_ERROR:
            self.log.error_log.disabled = True  # the worker has said why
        super().halt(reason, exit_status)


class Log(glogging.Logger):  # type: ignore[misc]  # gunicorn carries no types
    """gunicorn's own lines, in the server's log format."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.error_log.propagate = True
        self.error_log.addFilter(_worth_a_line)


class Worker(Serving):
    """The process that serves: opens the runtime, answers, drains."""

    current: Current | None = None
    housekeeper: Housekeeper | None = None
    exchange: Exchange | None = None
    settings_reloader: Reloader | None = None
    backups: Backups | None = None

    def init_process(self) -> None:
        self.reload_wanted = threading.Event()
        self._listen_to_master()
        if self.app.settings.http.pin_cpu:
            pin_to_one_cpu()
        super().init_process()

    def init_signals(self) -> None:
        super().init_signals()
        # A terminal sends Ctrl-C to the whole group: drain, as the master does.
        signal.signal(signal.SIGINT, self.handle_exit)

    def load_wsgi(self) -> None:
        try:
            self.current = Current(open_runtime(self.app.settings, on_fatal=_end_server))
            agreement.join(self.current.get())
            self.settings_reloader = Reloader(
                self.current,
                self.app.load,
                wanted=self.reload_wanted,
                applied=self._applied,
            )
            self.settings_reloader.start()
            self.backups = Backups(self.current)
            self.backups.start()
            self.housekeeper = Housekeeper(self.current)
            self.housekeeper.start()
            self.exchange = Exchange(self.current.get())
            self.exchange.start()
        except DbwardError as e:
            sys.stderr.write(f"dbward server: {e.message}\n")
            sys.exit(arbiter.Arbiter.WORKER_BOOT_ERROR)
        app = create_app(self.current)

        def wsgi(environ: dict[str, Any], start_response: Any) -> Any:
            def start(*args: Any) -> Any:
                if not self.alive:
                    start_response.__self__.force_close()  # decided before the call waited, and no longer true
                return start_response(*args)

            return app(environ, start)

        self.wsgi = wsgi

    def run(self) -> None:
        assert self.current is not None
        assert self.housekeeper is not None
        assert self.exchange is not None
        assert self.backups is not None
        assert self.settings_reloader is not None
        if self.age == 1:
            self._announce()
        try:
            super().run()
        finally:
            self.backups.stop()
            self.exchange.stop()
            self.housekeeper.stop()
            self.current.get().hub.close()
            self.settings_reloader.stop()
            self.current.get().close()

    def _applied(self, settings: ServerSettings) -> None:
        logs.configure(settings.logging)
        if self.backups is not None:
            self.backups.wake()

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        # Not here: a signal may come while this thread holds the very lock that closing needs.
        self.method_queue.defer(self._drain)

    def _drain(self) -> None:
        if self.current is not None:
            self.current.get().hub.close()

    def _listen_to_master(self) -> None:
        """Reload or back up when it says so. Leave at once when it is killed: a new server needs the lock, the port and
        the database.
        """
        read_end, write_end = self.app.master_pipe
        os.close(write_end)

        def listen() -> None:
            there = select.poll()
            there.register(read_end, select.POLLIN)
            # A thread asleep in `read` may still take what comes after its process was killed; one asleep in `poll`
            # leaves it to the worker that comes next.
            while there.poll() and (asked := os.read(read_end, 4096)):
                if b"r" in asked:
                    self.reload_wanted.set()
                    if self.settings_reloader is not None:
                        self.settings_reloader.wake()
                if b"b" in asked and self.backups is not None:
                    self.backups.wake()
            os._exit(1)

        threading.Thread(target=listen, name="dbward-master", daemon=True).start()

    def _announce(self) -> None:
        host, port = self.sockets[0].getsockname()[:2]
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        tokens = self.app.settings.state_dir / "*-token"
        sys.stdout.write(f"dbward {VERSION} listening on http://{where}, tokens in {tokens}\n")
        sys.stdout.flush()


def _end_server(_error: BaseException) -> NoReturn:
    """The state is not ours any more, or broken: the master must not put a new worker on it, but end as well.

    Whoever starts servers here starts another, which begins by waiting for the state.
    """
    os._exit(arbiter.Arbiter.WORKER_BOOT_ERROR)


def pin_to_one_cpu() -> None:
    """Keep all threads on one CPU: handing the interpreter lock between CPUs costs more than it gains.

    Which one depends on the process id, so that several servers on one machine do not share it.
    """
    if hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        with contextlib.suppress(OSError):  # some sandboxes forbid it
            os.sched_setaffinity(0, {cpus[os.getpid() % len(cpus)]})


def _worth_a_line(record: logging.LogRecord) -> bool:
    """Not what the worker has said already, and not that a peer stalled."""
    if isinstance(record.args, tuple) and arbiter.Arbiter.WORKER_BOOT_ERROR in record.args:
        return False
    return not (record.exc_info and isinstance(record.exc_info[1], BlockingIOError))
