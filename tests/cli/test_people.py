"""People, groups, roles and tokens from the command line, against the real application."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tests.cli.conftest import Person

Become = Callable[[str], Person]


@pytest.fixture
def admin(person: Become) -> Person:
    return person("admin")


def test_a_user_from_the_first_day_to_the_last(admin: Person) -> None:
    made = admin("user", "add", "dana", "--role", "requester,approver", "--group", "dba", "--email", "d@example.org")
    assert made.status == 0
    token = made.out.strip()
    assert token.startswith("dbw_")
    assert token not in made.err
    assert "not shown again" in made.err
    dana = Person(admin.cwd, {**admin.variables, "DBWARD_TOKEN": token}, admin.transport)
    assert "Subject: dana" in dana("whoami").out
    assert "Email: d@example.org" in dana("user", "show", "dana").out

    changed = admin("user", "update", "dana", "--rm-role", "approver", "--display-name", "Dana", "--format", "json")
    assert changed.data == {"id": "dana"}
    shown = admin("user", "show", "dana", "--format", "json").data
    assert (shown["roles"], shown["groups"], shown["display_name"]) == (["requester"], ["dba"], "Dana")
    listed = admin("user", "list")
    assert "dana" in listed.out
    assert {"id", "status", "roles"} <= set(admin("user", "list", "--format", "json").data["users"][0])

    suspended = admin("user", "suspend", "dana", "--reason", "left")
    assert "1 token revoked, 0 requests cancelled" in suspended.err
    assert dana("whoami").status == 1
    assert admin("user", "activate", "dana").status == 0
    assert dana("whoami").status == 1
    again = admin("user", "reissue-initial-token", "dana", "--format", "json").data
    assert again["token"].startswith("dbw_")
    assert again["delivery_status"] == "not_configured"
    assert admin("user", "rm", "dana", "--format", "json").data == {"id": "dana"}
    gone = admin("user", "show", "dana", "--format", "json")
    assert (gone.status, gone.json["error"]["code"]) == (1, "request.gone")


def test_the_first_token_goes_to_programs_in_json(admin: Person) -> None:
    made = admin("user", "add", "eve", "--role", "requester", "--format", "json").data
    assert set(made) == {"token", "id", "roles", "groups"}
    assert admin("user", "rm", "eve").err == "Removed eve.\n"


def test_what_users_cannot_do(admin: Person, alice: Person) -> None:
    nothing = admin("user", "update", "alice", "--format", "json")
    assert (nothing.status, nothing.json["error"]["code"]) == (1, "config_error")
    refused = alice("user", "add", "mallory", "--format", "json")
    assert (refused.status, refused.json["error"]["code"]) == (1, "forbidden")
    assert "{" not in refused.json["error"]["message"]
    assert alice("user", "show", "alice").status == 0
    assert admin("user", "show", "no such?user", "--format", "json").json["error"]["code"] == "not_found"
    assert admin("user", "add", "x", "--role", "requester,,").status == 2


def test_groups_and_roles(admin: Person) -> None:
    assert admin("group", "list", "--format", "json").data == {"groups": ["dba"]}
    assert admin("group", "list").out == "NAME\n────\ndba\n"
    assert admin("group", "show", "dba").out == "  Group: dba\n  Roles: approver\n  Members: bob\n"
    assert admin("group", "show", "none", "--format", "json").json["error"]["code"] == "not_found"
    names = [role["name"] for role in admin("role", "list", "--format", "json").data["roles"]]
    assert {"admin", "requester", "approver", "operator"} <= set(names)
    assert "schema.read:own" in admin("role", "show", "approver").out
    assert admin("role", "show", "none", "--format", "json").json["error"]["code"] == "not_found"


def test_a_token_of_ones_own(bob: Person) -> None:
    made = bob("token", "create", "--name", "laptop", "--expires", "90d")
    assert made.status == 0
    token = made.out.strip()
    assert token.startswith("dbw_")
    assert token not in made.err
    other = Person(bob.cwd, {**bob.variables, "DBWARD_TOKEN": token}, bob.transport)
    assert "Subject: bob" in other("whoami").out
    data = other("token", "create", "--scope-roles", "approver", "--format", "json").data
    assert (data["subject"], data["scope_ceiling"]) == ("bob", ["approver"])
    assert timedelta(days=89) < datetime.fromisoformat(data["expires_at"]) - datetime.now(UTC) < timedelta(days=91)
    inspected = bob("token", "inspect", data["id"][:8])
    assert "Ceiling: approver" in inspected.out
    assert "schema.read" in inspected.out
    assert bob("token", "revoke", data["id"][:8], "--format", "json").data["status"] == "revoked"
    assert bob("token", "inspect", data["id"], "--format", "json").data["status"] == "revoked"


def test_tokens_of_agents(admin: Person) -> None:
    made = admin(
        *("token", "create", "--subject-type", "agent", "--subject", "agent-9", "--no-scope-ceiling"),
        *("--scope", "app/development", "--expires", "2099-01-31", "--format", "json"),
    ).data
    assert made["scopes"] == [{"database": "app", "environment": "development"}]
    assert (made["scope_ceiling"], made["expires_at"][:19]) == (None, "2099-01-31T23:59:59")
    listed = admin("token", "list", "--type", "agent", "--subject", "agent-9", "--status", "active")
    assert "app/development" in listed.out
    assert admin("token", "list", "--subject", "nobody").err == "No tokens.\n"


def test_a_short_id_that_several_tokens_begin_with(admin: Person, alice: Person) -> None:
    """Only those that the caller may look at count."""
    agents = ("token", "create", "--subject-type", "agent", "--format", "json", "--subject")
    made = [admin(*agents, f"agent-{number}").data["id"] for number in range(17)]
    first = {text[0] for text in made}
    shared = next(char for char in first if sum(text[0] == char for text in made) > 1)
    many = admin("token", "inspect", shared, "--format", "json")
    assert many.json["error"]["code"] == "token.ambiguous"
    for char in "0123456789abcdef":
        ran = alice("token", "inspect", char, "--format", "json")
        assert ran.status == 0 or ran.json["error"]["code"] == "not_found"
    assert alice("token", "revoke", made[0], "--format", "json").json["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    "argv",
    [
        ["--expires", "-1d"],
        ["--expires", "0d"],
        ["--expires", "2001-01-01"],
        ["--expires", "soon"],
        ["--subject-type", "agent"],
        ["--no-scope-ceiling"],
        ["--scope", "app/development"],
        ["--subject-type", "agent", "--subject", "a", "--scope", "app"],
        ["--subject-type", "agent", "--subject", "a", "--no-scope-ceiling", "--scope-roles", "x"],
    ],
)
def test_mistakes_in_a_new_token(bob: Person, argv: list[str]) -> None:
    ran = bob("token", "create", *argv, "--format", "json")
    assert (ran.status, ran.json["error"]["code"]) == (2, "usage")
