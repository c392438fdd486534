"""What `dbward doctor` refuses before it looks at anything, and that its page knows every check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dbward.cli.diagnosis.model import ABOUT
from tests.cli.conftest import Person

PAGE = (Path(__file__).parents[2] / "docs/guides/doctor.md").read_text()


@pytest.mark.parametrize(
    "argv",
    [
        ("--agent", "--server"),
        ("--client", "--agent", "x"),
        ("--server-url", "http://x"),
        ("--server", "--server-url", "nonsense"),
        ("--agent", "a", "--config", "b"),
    ],
)
def test_what_does_not_go_together(offline: Person, argv: tuple[str, ...]) -> None:
    assert offline("doctor", *argv).status == 2
    assert offline("doctor", *argv, "--format", "json").json["error"]["code"] == "usage"


def test_the_first_token_is_not_sent_to_the_public_in_clear(offline: Person) -> None:
    ran = offline("doctor", "--server", "--server-url", "http://example.com", "--format", "json")
    assert ran.json["error"]["code"] == "transport.insecure"


def test_the_page_has_a_row_for_every_check() -> None:
    rows = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \|", PAGE, re.MULTILINE)
    named = {name.partition(":")[0] for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert named == set(ABOUT)


def test_authorities_that_are_none_are_found(offline: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(empty))
    ran = offline("doctor", "--format", "json", DBWARD_SERVER_URL="https://localhost:1", DBWARD_TOKEN="dbw_x")
    assert ran.status == 2
    found = {check["id"]: check for check in ran.json["data"]["checks"]}
    assert found["server_reachable"]["status"] == "fail"
    assert str(empty) in found["server_reachable"]["message"]
    assert found["tls"]["status"] == "skip"
