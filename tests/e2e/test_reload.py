"""A running server takes over its changed file, on SIGHUP and by `dbward server reload`, which tells the outcome."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.processes import DBWARD, POLICY, Farm, Process, Server, call

pytestmark = pytest.mark.e2e

ANOTHER = "\n[[databases]]\nname = 'more'\nenvironments = ['development']\n"


def reload(farm: Farm, server: Server, *options: str) -> Process:
    path = str(server.config)
    return farm.spawn("reload", [*DBWARD, "server", "reload", "--server-config", path, *options])


def answered(process: Process) -> tuple[int, dict[str, Any]]:
    status = process.wait(60)
    return status, json.loads(process.log().partition("\n")[0])


def databases(server: Server) -> set[str]:
    """The names of those a caller may work on."""
    status, said = call("GET", f"{server.url}/api/databases", server.admin_token)
    assert status == 200
    return {entry["database"] for entry in said["databases"]}


def worker_of(server: Server) -> psutil.Process:
    (worker,) = psutil.Process(server.process.pid).children()
    return worker


def test_the_command_takes_over_a_changed_file_and_says_what_changed(farm: Farm):
    server = farm.server()
    worker = worker_of(server)
    assert databases(server) == {"app"}
    assert stat.S_IMODE((server.state_dir / "server.pid").stat().st_mode) == 0o644
    server.config.write_text(server.config.read_text() + ANOTHER)
    command = reload(farm, server)
    assert command.wait(60) == 0
    assert command.log() == "+ [[databases]] more/development\n"
    assert databases(server) == {"app", "more"}
    server.config.write_text(server.config.read_text().replace(ANOTHER, ""))
    status, said = answered(reload(farm, server, "--format", "json"))
    assert (status, said["data"]["changes"][0]["removed"]) == (0, ["more/development"])
    assert (said["data"]["pid"], said["data"]["signal"]) == (server.process.pid, "SIGHUP")
    assert databases(server) == {"app"}
    assert worker_of(server) == worker, "no process was started anew"
    assert not list(server.state_dir.glob("*.pipe"))
    assert server.process.terminate() == 0
    assert not (server.state_dir / "server.pid").exists()


def test_a_bad_file_is_refused_with_every_mistake(farm: Farm):
    server = farm.server()
    good = server.config.read_text()
    server.config.write_text(f"surprise = 1\n{good}{ANOTHER}mistake = 2\n")
    command = reload(farm, server)
    assert command.wait(60) == 1
    for text in (command.log(), server.process.log()):
        assert "surprise" in text
        assert "mistake" in text
        assert "Traceback" not in text
    assert databases(server) == {"app"}
    server.config.write_text(good.replace("[[databases]]", "[broker]\nlease_secs = 9\n[[databases]]", 1))
    status, said = answered(reload(farm, server, "--format", "json"))
    assert (status, said["error"]["code"]) == (1, "config.needs_restart")
    server.config.write_text(good + ANOTHER)
    assert reload(farm, server).wait(60) == 0
    assert databases(server) == {"app", "more"}


def test_sighup_alone_does_it_too(farm: Farm):
    server = farm.server()
    server.config.write_text(server.config.read_text() + ANOTHER)
    server.process.signal(signal.SIGHUP)
    farm.until(lambda: databases(server) == {"app", "more"}, "it is in force", server.process)


def test_a_signal_to_a_worker_that_is_starting_is_not_lost(farm: Farm):
    server = farm.server()
    worker = worker_of(server)
    server.config.write_text(server.config.read_text() + ANOTHER)
    worker.kill()
    server.process.signal(signal.SIGHUP)
    farm.until(lambda: databases_or_none(server) == {"app", "more"}, "it is in force", server.process)


def databases_or_none(server: Server) -> set[str] | None:
    """While a worker is replaced nobody answers."""
    try:
        return databases(server)
    except OSError:
        return None


def test_a_worker_that_replaces_another_has_what_that_one_had(farm: Farm):
    server = farm.server()
    server.config.write_text(server.config.read_text() + ANOTHER)
    assert reload(farm, server).wait(60) == 0
    worker = worker_of(server)
    worker.kill()
    worker.wait(30)
    farm.until(lambda: databases_or_none(server) == {"app", "more"}, "it is back", server.process)


def test_the_file_is_found_from_wherever_the_server_was_started(farm: Farm):
    """Its path is made absolute at start."""
    server = farm.server(ready=False)
    server.process.kill()
    argv = [*DBWARD, "server", "start", "--config", server.config.name, "--listen", f"127.0.0.1:{server.port}"]
    server.process = farm.spawn("server", argv)
    server.await_ready()
    server.config.write_text(server.config.read_text() + ANOTHER)
    assert reload(farm, server).wait(60) == 0
    assert databases(server) == {"app", "more"}


def test_without_a_server_nothing_is_signalled(farm: Farm):
    server = farm.server()
    server.process.kill()
    assert (server.state_dir / "server.pid").exists(), "it was killed, so its file stays"
    (server.state_dir / "server.pid").write_text(f"{os.getpid()}\n")
    status, said = answered(reload(farm, server, "--format", "json"))
    assert (status, said["error"]["code"]) == (1, "server.not_running")


def test_a_server_that_ends_without_an_answer_is_noticed(farm: Farm):
    server = farm.server()
    server.process.signal(signal.SIGSTOP)
    command = reload(farm, server, "--format", "json")
    farm.until(lambda: list(server.state_dir.glob("*.pipe")), "it waits for its answer", command)
    server.process.kill()
    status, said = answered(command)
    assert (status, said["error"]["code"]) == (1, "server.no_answer")


def test_nobody_answers_in_time(farm: Farm):
    server = farm.server()
    server.process.signal(signal.SIGSTOP)
    assert reload(farm, server, "--timeout", "0.2").wait(60) == 124
    server.process.signal(signal.SIGCONT)


def test_a_file_without_its_place_is_a_mistake(farm: Farm, tmp_path: Path):
    empty = tmp_path / "empty.toml"
    empty.write_text(POLICY)
    command = farm.spawn("reload", [*DBWARD, "server", "reload", "--server-config", str(empty)])
    assert command.wait(60) == 1
    assert "state_dir" in command.log()


def test_the_file_of_clients_is_not_taken_for_the_servers(farm: Farm, tmp_path: Path):
    command = farm.spawn("reload", [*DBWARD, "server", "reload", "--config", str(tmp_path / "server.toml")])
    assert command.wait(60) == 2
    assert "--server-config" in command.log()
