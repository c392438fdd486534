"""Which parts of the server's file a reload takes over, and what differs between two of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from dbward.errors import Misconfigured
from dbward.settings import sections
from dbward.settings.sections import SECTIONS, Change
from dbward.settings.server import ServerSettings, load_server

FILE = """
state_dir = "state"

[[databases]]
name = "app"
environments = ["development", "production"]

[auth]
[[auth.users]]
id = "alice"
roles = ["requester"]
token = "${T_ALICE}"

[[auth.groups]]
name = "dba"
roles = ["approver"]

[[workflows]]
environment = "development"
[workflows.auto_approve]
mode = "always"

[[workflows]]
environment = "production"
operations = ["execute_select"]
[[workflows.steps]]
approvers = [{ role = "approver", min = 1 }]
"""
ENV = {"T_ALICE": "dbw_" + "1" * 32}
NOT_A_SETTING = {"config_digest", "warnings"}


def load(tmp_path: Path, text: str = FILE, **env: str) -> ServerSettings:
    path = tmp_path / "server.toml"
    path.write_text(text)
    return load_server(path, ENV | env)


def leaves(value: Any, prefix: str = "") -> Iterator[str]:
    """Every attribute path that `SECTIONS` may name, down to where a path in it ends."""
    named = {path for section in SECTIONS for path in section.paths}
    for part in fields(value):
        path = f"{prefix}{part.name}"
        inner = getattr(value, part.name)
        if any(one.startswith(f"{path}.") for one in named) and is_dataclass(inner):
            yield from leaves(inner, f"{path}.")
        else:
            yield path


def test_every_setting_belongs_to_one_section(tmp_path: Path) -> None:
    """A setting that no section holds would be changed by a reload without a word."""
    named = [path for section in SECTIONS for path in section.paths]
    assert len(named) == len(set(named))
    assert set(leaves(load(tmp_path))) - NOT_A_SETTING == set(named)
    for path in named:
        attrgetter(path)(load(tmp_path))


def test_the_same_file_differs_in_nothing(tmp_path: Path) -> None:
    assert sections.changes(load(tmp_path), load(tmp_path)) == ()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"development", "production"]', '"development", "staging"]',
         [Change("[[databases]]", ("app/staging",), ("app/production",))]),
        ('id = "alice"', 'id = "zoe"', [Change("[[auth.users]]", ("zoe",), ("alice",))]),
        ('roles = ["requester"]', 'roles = ["operator"]', [Change("[[auth.users]]", changed=("alice",))]),
        ('roles = ["approver"]', 'roles = ["operator"]', [Change("[[auth.groups]]", changed=("dba",))]),
        ("min = 1", "min = 2", [Change("[[workflows]]", changed=("*/production:execute_select",))]),
        ('mode = "always"', 'mode = "always"\nallow_read_only = false',
         [Change("[[workflows]]", changed=("*/development",))]),
        ("[auth]\n", '[auth]\ndefault_role = "approver"\n', [Change("[auth] default_role", changed=("default_role",))]),
        ("[auth]\n", "[retention]\naudit_ttl_days = 3\n[auth]\n", [Change("[retention]", changed=("audit_ttl",))]),
        ('state_dir = "state"', 'state_dir = "state"\ntrusted_proxies = ["10.0.0.0/8"]',
         [Change("trusted_proxies", ("10.0.0.0/8",))]),
    ],
)  # fmt: skip
def test_what_differs_is_named(tmp_path: Path, old: str, new: str, expected: list[Change]) -> None:
    assert old in FILE
    before, after = load(tmp_path), load(tmp_path, FILE.replace(old, new))
    assert list(sections.changes(before, after)) == expected
    sections.refuse_fixed(before, after)


def test_a_new_token_changes_its_user_and_is_not_shown(tmp_path: Path) -> None:
    token = "dbw_" + "2" * 32
    (change,) = sections.changes(load(tmp_path), load(tmp_path, T_ALICE=token))
    assert change == Change("[[auth.users]]", changed=("alice",))
    assert str(change) == "[[auth.users]] ~alice"


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ("[server]\nlisten = '127.0.0.1:1'", "[server] listen"),
        ("[server]\nmax_polls = 3", "[server] max_polls"),
        ("[state]\nurl = 'postgresql://u:geheim@h/d'", "[state]"),
        ("[result_storage]\nroot_dir = 'elsewhere'", "[result_storage] the rest"),
        ("[broker]\nlease_secs = 4", "[broker]"),
    ],
)
def test_what_needs_a_restart_is_refused_by_name(tmp_path: Path, more: str, name: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        sections.refuse_fixed(load(tmp_path), load(tmp_path, f"{FILE}\n{more}\n"))
    assert caught.value.code == "config.needs_restart"
    assert caught.value.message == f"{name}: needs a restart: it cannot change while the server runs"


def test_everything_that_needs_a_restart_is_named_at_once(tmp_path: Path) -> None:
    before = load(tmp_path)
    after = replace(before, listen=("::1", 1), broker=replace(before.broker, lease=timedelta(seconds=9)))
    with pytest.raises(Misconfigured) as caught:
        sections.refuse_fixed(before, after)
    assert [line.partition(":")[0] for line in caught.value.message.splitlines()] == ["[server] listen", "[broker]"]


def test_the_entries_are_counted(tmp_path: Path) -> None:
    found = sections.counts(load(tmp_path))
    assert {name: found[name] for name in ("databases", "users", "groups", "roles", "workflows", "webhooks")} == {
        "databases": 2, "users": 1, "groups": 1, "roles": 0, "workflows": 2, "webhooks": 0,
    }  # fmt: skip
