"""Making and checking migration files: no server is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Person


def test_a_new_file_is_named_by_the_time(alice: Person, tmp_path: Path) -> None:
    first = alice("migrate", "create", "Add orders, please!", "--format", "json").data["path"]
    second = alice("migrate", "create", "more", "--format", "json").data["path"]
    assert Path(first).name.endswith("_add_orders_please.sql")
    assert Path(first).read_text() == "-- migrate:up\n\n-- migrate:down\n"
    assert Path(first).name[:14] < Path(second).name[:14]
    assert Path(first).name[:14].isdigit()


def test_a_name_without_a_letter_is_refused(alice: Person) -> None:
    ran = alice("migrate", "create", "../..", "--format", "json")
    assert (ran.status, ran.json["error"]["code"]) == (1, "validation.failed")


def test_lint_tells_every_mistake(alice: Person) -> None:
    made = Path(alice("migrate", "create", "a", "--format", "json").data["path"])
    ran = alice("migrate", "lint")
    assert ran.status == 1
    assert f"{made.name}:1: nothing follows `-- migrate:up`" in ran.err
    made.write_text("-- migrate:up\nSELECT 1;\n")
    (made.parent / "oops.sql").write_text("")
    assert "oops.sql: is not named" in alice("migrate", "lint").err
    (made.parent / "oops.sql").unlink()
    fine = alice("migrate", "lint")
    assert (fine.status, "CAN BE UNDONE" in fine.out) == (0, True)


def test_no_server_need_be_configured(offline: Person) -> None:
    made = offline("migrate", "create", "first", "--format", "json")
    assert made.status == 0
    path = Path(made.data["path"])
    assert path.parent == offline.cwd / "migrations"
    path.write_text("-- migrate:up\nSELECT 1;\n")
    assert offline("migrate", "lint", "--format", "json").data[0]["file"] == path.name


def test_nobody_to_ask_what_is_applied(alice: Person) -> None:
    Path(alice("migrate", "create", "a", "--format", "json").data["path"]).write_text("-- migrate:up\nSELECT 1;\n")
    for command in ("status", "up", "down"):
        ran = alice("migrate", command, "-d", "app", "--format", "json")
        assert (ran.status, ran.json["error"]["code"]) == (1, "migration.no_agent")


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["down", "--count", "1", "--to", "1"], "usage"),
        (["up", "--count", "0"], "usage"),
        (["up", "--emergency"], "config_error"),
        (["up", "--allow-ddl"], "usage"),
        (["repair", "--action", "remove", "--version", "1"], "config_error"),
        (["repair", "--action", "forget", "--version", "1"], "usage"),
    ],
)
def test_what_cannot_be_meant(alice: Person, argv: list[str], code: str) -> None:
    assert alice("migrate", *argv, "--format", "json").json["error"]["code"] == code


def test_what_is_not_allowed_to_ask(person: Callable[[str], Person]) -> None:
    dave = person("dave")
    (dave.cwd / "migrations").mkdir()
    assert dave("migrate", "status", "--format", "json").json["error"]["code"] == "forbidden"
