"""What agent.toml may say."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dbward.domain.model import Operation, Target
from dbward.errors import Misconfigured
from dbward.settings.agent import ALIVE_FILE, READY_FILE, AgentSettings, load_agent
from dbward.settings.load import FromVariable

SERVER = '[server]\nurl = "http://server:3000/"\nagent_token = "${TOKEN}"\n'
DATABASE = '[databases.app.development]\nurl = "postgresql://u:hunter2@db/app"\n'


def load(tmp_path: Path, text: str, **env: str) -> AgentSettings:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return load_agent(path, {"TOKEN": "dbw_x", **env})


def mistakes(tmp_path: Path, text: str, **env: str) -> list[str]:
    with pytest.raises(Misconfigured) as e:
        load(tmp_path, text, **env)
    assert "hunter2" not in e.value.message
    return [line.split("agent.toml: ", 1)[1] for line in e.value.message.splitlines()]


def test_minimal(tmp_path: Path) -> None:
    s = load(tmp_path, SERVER + DATABASE)
    assert s.server_url == "http://server:3000"
    assert s.agent_token.reveal() == "dbw_x"
    assert s.databases[Target("app", "development")].reveal() == "postgresql://u:hunter2@db/app"
    assert (s.max_concurrent_tasks, s.drain_timeout) == (2, timedelta(seconds=60))
    assert (s.startup_retry_initial, s.startup_retry_max) == (timedelta(seconds=1), timedelta(seconds=15))
    assert s.startup_max_wait == timedelta(seconds=60)
    assert s.operations == tuple(Operation)
    assert (s.alive_file, s.ready_file) == (ALIVE_FILE, READY_FILE)
    assert (s.schema_sync.enabled, s.schema_sync.sync_on_startup) == (True, True)
    assert s.schema_sync.interval == timedelta(hours=6)
    assert s.agent_id
    assert "hunter2" not in repr(s)
    assert "dbw_x" not in repr(s)


def test_everything(tmp_path: Path) -> None:
    s = load(
        tmp_path,
        'agent_id = "a-1"\npoll_interval_ms = 500\nmax_concurrent_tasks = 8\ndrain_timeout_secs = 0\n'
        'statement_timeout_secs = 5\noperations = ["execute_select", "migrate_repair"]\n'
        "startup_retry_initial_ms = 10\nstartup_retry_max_ms = 20\nstartup_max_wait_secs = 0\n"
        'alive_file = "alive"\nready_file = "/run/ready"\n'
        "[logging]\nlevel = 'debug'\n[schema_sync]\nenabled = false\nsync_on_startup = false\ninterval_secs = 60\n"
        + SERVER
        + "allow_insecure = false\n"
        + DATABASE
        + '[databases.app.production]\nurl = "sqlite:///data/app.db"\n',
    )
    assert s.agent_id == "a-1"
    assert s.operations == (Operation.EXECUTE_SELECT, Operation.MIGRATE_REPAIR)
    assert s.startup_max_wait is None
    assert s.ready_file == Path("/run/ready")
    assert s.alive_file.name == "alive"
    assert s.databases[Target("app", "production")].reveal() == f"sqlite:///{tmp_path}/data/app.db"
    assert any("poll_interval_ms" in warning for warning in s.warnings)
    assert (s.schema_sync.enabled, s.schema_sync.interval) == (False, timedelta(seconds=60))


def test_no_interval_is_no_repetition(tmp_path: Path) -> None:
    assert load(tmp_path, f"{SERVER}{DATABASE}\n[schema_sync]\ninterval_secs = 0").schema_sync.interval is None


def test_relative_probe_files_start_at_the_probe_directory(tmp_path: Path) -> None:
    s = load(tmp_path, f'probe_dir = "probes"\nalive_file = "a"\n{SERVER}{DATABASE}')
    assert s.alive_file == tmp_path / "probes" / "a"
    assert s.ready_file == tmp_path / "probes" / READY_FILE.name


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (SERVER, "databases"),
        (SERVER + '[databases.app.development]\nurl = "oracle://x:hunter2@y"', "databases.app.development.url"),
        (SERVER + '[databases.app.development]\nurl = "hunter2"', "databases.app.development.url"),
        (SERVER + '[databases.app.development]\nurl = "sqlite:///"', "databases.app.development.url"),
        (SERVER + '[databases.app.development]\nurls = "x"\nurl = "sqlite:////x"', "databases.app.development.urls"),
        (SERVER + "[databases.app.development]", "databases.app.development.url"),
        (SERVER + '[databases.app]\nurl = "postgresql://x:hunter2@y"', "databases.app.url"),
        (SERVER + '[databases.App.development]\nurl = "sqlite:////x"', "databases.App"),
        ('[server]\nagent_token = "x"\n' + DATABASE, "server.url"),
        ('[server]\nurl = "https://x"\n' + DATABASE, "server.agent_token"),
        ('[server]\nurl = "x"\nagent_token = "x"\n' + DATABASE, "server.url"),
        ('[server]\nurl = "http://example.com"\nagent_token = "x"\n' + DATABASE, "server.url"),
        ('operations = ["fly"]\n' + SERVER + DATABASE, "operations"),
        ("operations = []\n" + SERVER + DATABASE, "operations"),
        ("max_concurrent_tasks = 0\n" + SERVER + DATABASE, "max_concurrent_tasks"),
        ('agent_id = "a b"\n' + SERVER + DATABASE, "agent_id"),
        ("startup_retry_initial_ms = 20000\n" + SERVER + DATABASE, "startup_retry_initial_ms"),
        ('alive_file = "x"\nready_file = "x"\n' + SERVER + DATABASE, "ready_file"),
        ("drain_timeout = 5\n" + SERVER + DATABASE, "drain_timeout"),
    ],
)
def test_one_mistake(tmp_path: Path, text: str, where: str) -> None:
    found = mistakes(tmp_path, text)
    assert found
    assert found[0].split(": ")[0] == where


def test_plain_http_in_public_must_be_allowed(tmp_path: Path) -> None:
    public = '[server]\nurl = "http://example.com"\nagent_token = "x"\n'
    assert load(tmp_path, f"{public}allow_insecure = true\n{DATABASE}").insecure
    assert load(tmp_path, public + DATABASE, DBWARD_ALLOW_INSECURE="1").insecure
    with pytest.raises(Misconfigured, match="plain http"):
        load(tmp_path, f"{public}allow_insecure = true\n{DATABASE}", DBWARD_ALLOW_INSECURE="no")
    assert not load(tmp_path, SERVER + DATABASE).insecure


def test_the_configuration_may_be_in_the_environment(tmp_path: Path) -> None:
    database = '[databases.app.development]\nurl = "sqlite:///app.db"\n'
    s = load_agent(FromVariable(tmp_path), {"DBWARD_CONFIG_TOML": SERVER + database, "TOKEN": "dbw_x"})
    assert s.databases[Target("app", "development")].reveal() == f"sqlite:///{tmp_path}/app.db"


# --- replicas are told apart ------------------------------------------------------------------------------------------


@contextmanager
def ecs_metadata(status: int, body: str) -> Iterator[str]:
    """What ECS gives each container: the URL of an endpoint that knows its task."""

    class Metadata(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/v4/6f1b-1/task"
            self.send_response(status if found else 404)
            self.end_headers()
            self.wfile.write(body.encode() if found else b"")

        def log_message(self, *args: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Metadata) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v4/6f1b-1"
        finally:
            server.shutdown()
            thread.join()


TASK = {
    "Cluster": "dbward",
    "TaskARN": "arn:aws:ecs:eu-central-1:123456789012:task/dbward/0f9de17a6465404e8b1b2356dc13c2f8",
}


def test_on_ecs_the_task_names_the_agent(tmp_path: Path) -> None:
    with ecs_metadata(200, json.dumps(TASK)) as url:
        s = load(tmp_path, SERVER + DATABASE, ECS_CONTAINER_METADATA_URI_V4=url)
        assert s.agent_id == "ecs-0f9de17a6465404e8b1b2356dc13c2f8"
        named = load(tmp_path, 'agent_id = "a-1"\n' + SERVER + DATABASE, ECS_CONTAINER_METADATA_URI_V4=url)
        assert named.agent_id == "a-1"


@pytest.mark.parametrize(
    ("status", "body"), [(500, json.dumps(TASK)), (200, "{}"), (200, "[]"), (200, "{"), (200, '{"TaskARN": "x/"}')]
)
def test_metadata_that_cannot_be_had_leaves_the_host_name(tmp_path: Path, status: int, body: str) -> None:
    with ecs_metadata(status, body) as url:
        s = load(tmp_path, SERVER + DATABASE, ECS_CONTAINER_METADATA_URI_V4=url)
    assert s.agent_id.startswith(socket.gethostname()[:3].lstrip("._-"))
    closed = load(tmp_path, SERVER + DATABASE, ECS_CONTAINER_METADATA_URI_V4=url)
    assert closed.agent_id == s.agent_id
