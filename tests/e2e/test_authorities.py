"""TLS with nobody to trust: the programs say which file is wrong and what to do, and do not fall over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.processes import DBWARD, Farm, Process

pytestmark = pytest.mark.e2e

NOWHERE = "https://dbward.example.com"
"""Never called: there is no connection before it is known whom to trust."""
OIDC = """
[auth.oidc]
issuer_url = "https://login.example.com"
audience = "dbward"
"""


def started(farm: Farm, program: str, env: dict[str, str]) -> Process:
    if program == "agent":
        databases = {("app", "production"): f"sqlite:///{farm.dir / 'target.db'}"}
        return farm.agent(NOWHERE, databases, token=env["DBWARD_TOKEN"], env=env, ready=False)
    if program == "server":
        return farm.server(config=OIDC, env=env, ready=False).process
    return farm.spawn("cli", [*DBWARD, "request", "list"], env=env)


@pytest.mark.parametrize(
    ("program", "file", "why"),
    [
        ("cli", "there", "it holds no certificate"),
        ("cli", "missing", "No such file or directory"),
        ("agent", "there", "it holds no certificate"),
        ("server", "there", "it holds no certificate"),
    ],
)
def test_a_file_without_certificates_is_said_to_be_one(
    farm: Farm, tmp_path: Path, program: str, file: str, why: str
) -> None:
    path = tmp_path / "authorities.pem"
    if file == "there":
        path.write_text("-- to be filled in --\n")
    env = {
        "DBWARD_SERVER_URL": NOWHERE,
        "DBWARD_TOKEN": f"dbw_{'0' * 32}",
        "DBWARD_LOG_FORMAT": "json",
        "SSL_CERT_FILE": str(path),
    }
    process = started(farm, program, env)
    assert process.wait() == 1
    said = process.log()
    assert "Traceback" not in said
    assert f"SSL_CERT_FILE={path} cannot be used: {why}" in said
    assert "unset SSL_CERT_FILE" in said
    if program != "cli":  # their log is for programs too
        assert json.loads(said.splitlines()[-1])["code"] == "tls.authorities"
