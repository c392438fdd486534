"""What an administrator does to people, one call at a time."""

from __future__ import annotations

from typing import Any

from dbward.client.shapes import NewUser, UserChange
from dbward.services import user_access, users
from dbward.services.views import View
from tests.services.conftest import World


def add(world: World, name: str = "nina", by: str = "admin", **body: Any) -> View:
    body = {"roles": ["requester"]} | body
    return users.create_user(world.rt, world.who(by), NewUser(id=name, **body))


def edit(world: World, name: str = "nina", by: str = "admin", **body: Any) -> View:
    return users.change_user(world.rt, world.who(by), name, UserChange.model_validate(body))


def suspend(world: World, name: str = "nina", by: str = "admin", reason: str | None = None) -> View:
    return user_access.suspend_user(world.rt, world.who(by), name, reason)


def activate(world: World, name: str = "nina") -> View:
    return user_access.activate_user(world.rt, world.who("admin"), name)


def delete(world: World, name: str = "nina", reason: str | None = None) -> View:
    return user_access.delete_user(world.rt, world.who("admin"), name, reason)


def reissue(world: World, name: str = "nina", by: str = "admin") -> View:
    return user_access.reissue_initial_token(world.rt, world.who(by), name)
