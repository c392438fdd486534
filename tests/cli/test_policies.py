"""Policies, workflows, webhooks and advice from the command line, against the real application."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dbward import VERSION
from dbward.cli.selfupdate import upgrade_command
from tests.cli.conftest import Person


def test_every_kind_of_policy(alice: Person) -> None:
    listed = alice("policy", "list")
    assert listed.status == 0
    assert "at most 5,000 rows" in listed.out
    assert "not stored; read also by group:dba" in listed.out
    assert "no_where_update block" in listed.out
    data = alice("policy", "list", "--format", "json").data
    assert set(data) == {
        *("workflows", "execution_policies", "result_policies", "notification_policies", "sql_review_policies"),
    }
    for kind, key in (("execution", "execution_policies"), ("result", "result_policies"), ("workflow", "workflows")):
        assert alice("policy", "list", "--kind", kind, "--format", "json").data == {key: data[key]}
        for one in data[key]:
            assert alice("policy", "show", kind, one["id"], "--format", "json").data == one
            assert alice("policy", "show", kind, one["id"]).out.startswith(f"  Id: {one['id']}\n")
    assert alice("policy", "list", "--kind", "notification").err == "No policies.\n"
    assert alice("policy", "show", "result", "none", "--format", "json").json["error"]["code"] == "not_found"
    assert alice("policy", "show", "nonsense", "x").status == 2


def test_workflows(alice: Person) -> None:
    listed = alice("workflow", "list")
    assert "by itself always" in listed.out
    found = alice("workflow", "list", "--format", "json").data["workflows"]
    production = next(one["id"] for one in found if one["environment"] == "production")
    shown = alice("workflow", "show", production)
    assert "Steps: role:approver (at least 1)\n    group:dba (at least 1) or role:operator (at least 1)" in shown.out
    assert alice("workflow", "show", "none", "--format", "json").json["error"]["code"] == "not_found"


def test_resolving_takes_the_usual_database(alice: Person) -> None:
    asked = alice("policy", "resolve", "--database", "app", "-e", "production", "--format", "json").data
    assert asked == alice("policy", "resolve", "app", "production", "--format", "json").data
    assert asked["registered"] is True
    assert "is not registered" in alice("policy", "resolve", "app", "nowhere").err


def test_webhooks(alice: Person, olga: Person, person) -> None:
    listed = alice("webhook", "list")
    assert "oncall" in listed.out
    assert "hidden" not in listed.out
    assert "Events: request.created" in alice("webhook", "show", "oncall").out
    alice("execute", "SELECT 1", "-e", "production")
    deliveries = olga("webhook", "deliveries", "--webhook", "oncall", "--format", "json").data
    assert [one["event_type"] for one in deliveries["deliveries"]] == ["request.created"]
    assert "request.created" in olga("webhook", "deliveries").out
    assert olga("webhook", "deliveries", "--status", "dead").err == "No deliveries.\n"
    assert olga("webhook", "deliveries", "--status", "lost").status == 2
    refused = alice("webhook", "test", "oncall", "--format", "json")
    assert refused.json["error"]["code"] == "forbidden"
    assert person("admin")("webhook", "test", "none", "--format", "json").json["error"]["code"] == "not_found"


def test_other_names(alice: Person, olga: Person) -> None:
    assert alice("database", "list").out == alice("databases").out
    assert alice("result", "list").err == alice("request", "results").err == "No stored results.\n"
    assert olga("agent", "list").err == olga("agents").err == "No agents.\n"
    assert olga("agent", "--config", "x.toml", "list").status == 2


def test_how_to_upgrade(alice: Person, offline: Person) -> None:
    here = alice("self-update", "--format", "json").data
    assert (here["server_version"], here["already_at_target"], here["command"]) == (VERSION, True, None)
    alone = offline("self-update")
    assert (alone.status, alone.out) == (0, f"{sys.executable} -m pip install --upgrade dbward\n")


@pytest.mark.parametrize(
    ("prefix", "version", "command"),
    [
        ("/home/x/.local/share/pipx/venvs/dbward", None, "pipx upgrade dbward"),
        ("/home/x/.local/share/pipx/venvs/dbward", "1.2.3", "pipx install --force dbward==1.2.3"),
        ("/home/x/.local/share/uv/tools/dbward", None, "uv tool upgrade dbward"),
        ("/home/x/.local/share/uv/tools/dbward", "1.2.3", "uv tool install dbward==1.2.3"),
    ],
)
def test_the_command_is_that_of_the_tool(
    monkeypatch: pytest.MonkeyPatch, prefix: str, version: str | None, command: str
) -> None:
    monkeypatch.setattr(sys, "prefix", str(Path(prefix)))
    assert upgrade_command(version) == command
