"""Administration on the server's machine: no address and no token but those that the server itself has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from flask import Flask

from dbward.cli.onhost import url_of
from dbward.runtime import Runtime
from tests.cli.conftest import Person


@pytest.fixture
def host(app: Flask, tmp_path: Path) -> Person:
    """Whoever is logged in on the machine: the server's file, and no configuration of a client."""
    return Person(tmp_path, {"HOME": str(tmp_path)}, httpx2.WSGITransport(app=app))


def test_tokens_and_users(host: Person) -> None:
    where = ("--server-config", "server.toml")
    made = host("server", "user", "add", "dana", "--role", "requester", *where)
    assert made.out.startswith("dbw_")
    assert "dana" in host("server", "user", "list", *where).out
    assert host("server", "token", "list", *where, "--subject", "dana", "--format", "json").data["tokens"]
    assert host("server", "token", "create", *where, "--format", "json").data["subject"] == "admin"
    assert host("server", "user", "rm", "dana", *where, "--server-url", "http://localhost:3000").status == 0


def test_a_client_of_somebody_else_plays_no_part(host: Person) -> None:
    stranger = {"DBWARD_SERVER_URL": "https://elsewhere.example.com", "DBWARD_TOKEN": "dbw_" + "0" * 32}
    person = replace(host, variables={**host.variables, **stranger})
    ran = person("server", "token", "list", "--server-config", "server.toml")
    assert (ran.status, "admin" in ran.out) == (0, True)


def test_what_is_in_the_way(host: Person, rt: Runtime) -> None:
    where = ("--server-config", "server.toml", "--format", "json")
    insecure = host("server", "token", "list", *where, "--server-url", "http://example.com")
    assert insecure.json["error"]["code"] == "transport.insecure"
    assert host("server", "token", "list", *where, "--server-url", "nonsense").status == 2
    assert host("server", "token", "list", *where, "--config", "x").status == 2
    (rt.settings.state_dir / "admin-token").unlink()
    gone = host("server", "token", "list", *where)
    assert gone.json["error"]["code"] == "admin_token.unreadable"
    assert host("server", "token", "list", "--format", "json").json["error"]["code"] == "config_error"


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        (("127.0.0.1", 3000), "http://127.0.0.1:3000"),
        (("0.0.0.0", 80), "http://127.0.0.1:80"),
        (("::", 3000), "http://[::1]:3000"),
        (("10.0.0.5", 3000), "http://10.0.0.5:3000"),
        (("fd00::5", 3000), "http://[fd00::5]:3000"),
    ],
)
def test_where_a_server_is_called(listen: tuple[str, int], url: str) -> None:
    assert url_of(listen) == url
