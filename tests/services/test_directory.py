"""Groups with their members, and roles with what they reach."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dbward.db import identities
from dbward.db.rows import UserRow
from dbward.errors import Missing, Refused
from dbward.services import directory
from tests.services.conftest import World
from tests.services.people import add


def test_groups_and_their_members(world: World) -> None:
    admin = world.who("admin")
    assert directory.list_groups(world.rt, admin) == {"groups": ["dba"]}
    add(world, groups=["dba"])
    add(world, "nils")
    world.rt.store.write(
        lambda tx: identities.save_user(tx, replace(row_of_in(tx, "nils"), source="oidc", groups=["outside"]))
    )
    assert directory.list_groups(world.rt, admin) == {"groups": ["dba", "outside"]}
    assert directory.show_group(world.rt, admin, "dba") == {
        "name": "dba",
        "members": ["dana", "nina"],
        "roles": ["watcher"],
    }
    assert directory.show_group(world.rt, admin, "outside") == {"name": "outside", "members": ["nils"], "roles": []}
    with pytest.raises(Missing):
        directory.show_group(world.rt, admin, "nothing")


def row_of_in(tx: Any, name: str) -> UserRow:
    row = identities.find_user(tx.conn, name)
    assert row is not None
    return row


def test_roles_with_what_they_reach(world: World) -> None:
    found = directory.list_roles(world.rt, world.who("alice"))
    assert found["default_role"] is None
    by_name = {role["name"]: role for role in found["roles"]}
    assert list(by_name)[:5] == ["admin", "requester", "approver", "operator", "agent-default"]
    assert {"perm": "token.revoke", "ownership": "any"} in by_name["admin"]["permissions"]
    assert {"perm": "token.revoke", "ownership": "own"} in by_name["requester"]["permissions"]
    assert by_name["developer"] == {
        "name": "developer",
        "builtin": False,
        "permissions": [
            {"perm": "request.query", "ownership": "own"},
            {"perm": "request.view", "ownership": "any"},
            {"perm": "result.view", "ownership": "any"},
        ],
        "databases": ["*"],
        "environments": ["auto"],
    }
    with pytest.raises(Refused):
        directory.list_roles(world.rt, world.who("sam"))
