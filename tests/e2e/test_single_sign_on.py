"""People sign in at a real OpenID provider, with the real program, and work with a real server.

What docs/guides/single-sign-on.md shows is what they see.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support import oidc
from tests.support.processes import DBWARD, POLICY, Farm, Server, call

pytestmark = pytest.mark.e2e

SECS = 120


@dataclass
class Desk:
    """Somebody's machine: a home directory with a configuration, and the program."""

    home: Path
    variables: dict[str, str]

    def run(self, *argv: str, cwd: Path | None = None, **variables: str) -> dict[str, Any]:
        """The envelope; whether it went well is in `ok`."""
        done = subprocess.run(
            [*DBWARD, *argv, "--format", "json"],
            cwd=cwd or self.home,
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            timeout=SECS,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        envelope: dict[str, Any] = json.loads(done.stdout)
        assert envelope["ok"] is (done.returncode == 0)
        return envelope

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*DBWARD, *argv, "--format", "json"],
            cwd=self.home,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def logins(self) -> list[Path]:
        return sorted((self.home / ".config/dbward/credentials").glob("*.json"))

    def change_login(self, **values: Any) -> None:
        (path,) = self.logins
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def serve(farm: Farm, provider: oidc.Provider, *, client: str = "dbward", more: str = "") -> Server:
    config = f"""{POLICY}
[auth.oidc]
issuer_url = "{provider.issuer}"
client_id = "{client}"
[[auth.oidc.role_mappings]]
claim = "groups"
value = "platform"
role = "requester"
{more}
"""
    return farm.server(config=config)


def desk(farm: Farm, server: Server, provider: oidc.Provider, *, client: str = "dbward", user: str = "ann") -> Desk:
    home = farm.dir / f"desk-{user}"
    (home / ".config/dbward").mkdir(parents=True)
    (home / ".config/dbward/config.toml").write_text(
        f'[server]\nurl = "{server.url}"\n[server.oidc]\nissuer = "{provider.issuer}"\nclient_id = "{client}"\n'
        'scopes = ["profile", "email", "groups"]\n'
    )
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "BROWSER": str(oidc.browser_program(farm.dir, user)),
    }
    return Desk(home, variables)


@pytest.mark.parametrize(("alg", "client"), [("RS256", "dbward"), ("ES256", "dbward-jwt")])
def test_a_browser_signs_in_and_logout_ends_it(farm: Farm, alg: Any, client: str) -> None:
    provider = oidc.start(farm, alg=alg)
    server = serve(farm, provider, client=client)
    ann = desk(farm, server, provider, client=client)
    assert ann.run("whoami")["error"]["hint"] == "run `dbward login`"

    entered = ann.run("login")
    assert entered["ok"], entered
    assert entered["data"]["subject_id"] == "ann"
    assert entered["data"]["roles"] == ["requester"]
    (path,) = ann.logins
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    stored = json.loads(path.read_text())
    assert stored["bearer"] == ("id_token" if client == "dbward" else "access_token")

    me = ann.run("whoami")["data"]
    assert (me["subject_id"], me["roles"], me["groups"]) == ("ann", ["requester"], ["platform"])
    assert ann.run("request", "list")["ok"]

    people = call("GET", f"{server.url}/api/users", server.admin_token)[1]["users"]
    (row,) = [user for user in people if user["id"] == "ann"]
    assert (row["source"], row["display_name"], row["email"]) == ("oidc", "Ann Other", "ann@example.com")

    assert ann.run("logout")["data"] == {"signed_out": True, "revoked": True}
    assert ann.logins == []
    answer = httpx2.post(
        f"{provider.issuer}/token",
        data={"grant_type": "refresh_token", "refresh_token": stored["refresh_token"], "client_id": client},
    )
    assert answer.json()["error"] == "invalid_grant", "the provider has forgotten it"
    assert ann.run("logout")["data"] == {"signed_out": False, "revoked": False}
    assert not ann.run("whoami")["ok"]


def test_who_says_no_is_not_waited_for(farm: Farm) -> None:
    provider = oidc.start(farm)
    refuser = desk(farm, serve(farm, provider), provider, user=oidc.REFUSER)
    failed = refuser.run("login")
    assert failed["error"]["code"] == "auth_error"
    assert "denied" in failed["error"]["message"]
    assert refuser.logins == []


def test_somebody_without_a_role_is_told_so_and_comes_in_once_there_is_one(farm: Farm) -> None:
    provider = oidc.start(farm)
    server = serve(farm, provider)
    ben = desk(farm, server, provider, user="ben")
    assert ben.run("login")["error"]["code"] == "auth.no_roles_resolved"
    status, _ = call("PATCH", f"{server.url}/api/users/ben", server.admin_token, {"add_roles": ["approver"]})
    assert status == 200
    assert ben.run("whoami")["data"]["roles"] == ["approver"], "without a second login"
    status, _ = call("POST", f"{server.url}/api/users/ben/suspend", server.admin_token, {"reason": "left"})
    assert status == 200
    assert ben.run("whoami")["error"]["code"] == "unauthorized"


def begun(who: Desk) -> tuple[subprocess.Popen[str], str]:
    """A login that waits for its browser, and the address to open in it."""
    program = who.start("login", "--no-browser")
    assert program.stderr is not None
    return program, next(line.strip() for line in program.stderr if line.startswith("http"))


def test_the_answer_must_be_the_one_that_is_waited_for(farm: Farm) -> None:
    provider = oidc.start(farm)
    ann = desk(farm, serve(farm, provider), provider)
    program, address = begun(ann)
    query = dict(httpx2.URL(address).params)
    back = query["redirect_uri"]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/callback", back)
    assert (query["code_challenge_method"], len(query["code_challenge"])) == ("S256", 43)
    good = {"state": query["state"], "code": "stolen", "iss": provider.issuer}
    for strange in (
        {},
        {**good, "state": "other"},
        {**good, "state": ""},
        {**good, "iss": "https://evil.example.com"},
        {"state": query["state"], "code": "stolen"},
        {"state": query["state"], "iss": provider.issuer},
    ):
        assert httpx2.get(back, params=strange).status_code == 400, strange
    assert httpx2.get(back, params=good, headers={"Host": "evil.example.com"}).status_code == 400
    assert httpx2.get(f"{back}/x", params=good).status_code == 400
    page = oidc.browse(address, "ann")
    assert (page.status_code, page.headers["Cache-Control"]) == (200, "no-store")
    out, err = program.communicate(timeout=SECS)
    assert json.loads(out)["data"]["subject_id"] == "ann", err


def test_a_stolen_code_is_of_no_use(farm: Farm) -> None:
    provider = oidc.start(farm)
    ann = desk(farm, serve(farm, provider), provider)
    program, address = begun(ann)
    query = dict(httpx2.URL(address).params)
    good = {"state": query["state"], "code": "of-another-attempt", "iss": provider.issuer}
    assert httpx2.get(query["redirect_uri"], params=good).status_code == 200
    out, _ = program.communicate(timeout=SECS)
    assert json.loads(out)["error"]["code"] == "auth_error"
    assert ann.logins == []


@pytest.mark.parametrize("answer", ["confirm", "abort"])
def test_another_device(farm: Farm, answer: str) -> None:
    provider = oidc.start(farm)
    ann = desk(farm, serve(farm, provider), provider)
    program = ann.start("login", "--device")
    assert program.stderr is not None
    line = next(line for line in program.stderr if "enter the code" in line)
    found = re.search(r"open (\S+) and enter the code (\S+)", line)
    assert found is not None
    oidc.confirm_device(found[1], "ann", found[2], answer=answer)
    out, err = program.communicate(timeout=SECS)
    ended = json.loads(out)
    if answer == "confirm":
        assert ended["data"]["subject_id"] == "ann", err
        assert ann.run("whoami")["ok"]
    else:
        assert "denied" in ended["error"]["message"]
        assert ann.logins == []


def test_a_device_code_that_nobody_types_expires(farm: Farm) -> None:
    provider = oidc.start(farm, device_secs=4)
    ann = desk(farm, serve(farm, provider), provider)
    failed = ann.run("login", "--device")
    assert "expired" in failed["error"]["message"]


@pytest.mark.parametrize("client", ["dbward", "dbward-jwt"])
def test_a_login_is_renewed_before_it_ends(farm: Farm, client: str) -> None:
    provider = oidc.start(farm)
    ann = desk(farm, serve(farm, provider, client=client), provider, client=client)
    assert ann.run("login")["ok"]
    before = json.loads(ann.logins[0].read_text())
    ann.change_login(expires_at=before["obtained_at"] + 1, obtained_at=before["obtained_at"] - 3600)
    assert ann.run("whoami")["data"]["subject_id"] == "ann"
    after = json.loads(ann.logins[0].read_text())
    assert after["refresh_token"] != before["refresh_token"], "the provider rotates them"
    assert after["expires_at"] > before["obtained_at"] + 3000
    assert stat.S_IMODE(ann.logins[0].stat().st_mode) == 0o600
    assert ann.run("whoami")["ok"]
    assert json.loads(ann.logins[0].read_text()) == after, "and not again at once"


def test_many_processes_use_a_refresh_token_once(farm: Farm) -> None:
    """The provider revokes everything when an old refresh token comes again, so a second use would show."""
    provider = oidc.start(farm)
    ann = desk(farm, serve(farm, provider), provider)
    assert ann.run("login")["ok"]
    stored = json.loads(ann.logins[0].read_text())
    ann.change_login(expires_at=stored["obtained_at"] - 1)
    programs = [ann.start("whoami") for _ in range(4)]
    for program in programs:
        out, err = program.communicate(timeout=SECS)
        assert json.loads(out)["ok"], err
    stored = json.loads(ann.logins[0].read_text())
    ann.change_login(expires_at=stored["obtained_at"] - 1)
    assert ann.run("whoami")["ok"], "the refresh token of the last one is good"


def test_a_login_whose_refresh_token_is_over(farm: Farm) -> None:
    provider = oidc.start(farm)
    ann = desk(farm, serve(farm, provider), provider)
    assert ann.run("login")["ok"]
    stored = json.loads(ann.logins[0].read_text())
    ann.change_login(refresh_token="gone", expires_at=stored["obtained_at"] + 60, obtained_at=0)
    assert ann.run("whoami")["ok"], "what it has is good until it ends"
    ann.change_login(expires_at=stored["obtained_at"] - 1)
    failed = ann.run("whoami")["error"]
    assert (failed["code"], failed["hint"]) == ("auth_error", "run `dbward login` again")


def test_a_new_signing_key_needs_no_restart(farm: Farm) -> None:
    provider = oidc.start(farm, alg="ES256")
    server = serve(farm, provider)
    ann = desk(farm, server, provider)
    assert ann.run("login")["ok"]
    # The server asks for an unknown key at most every 30 s; its clock cannot be moved, so another one is asked.
    provider.rotate()
    second = farm.server(name="second", config=server.config.read_text().partition("\n")[2])
    moved = desk(farm, second, provider, user="ben")
    assert moved.run("login")["error"]["code"] == "auth.no_roles_resolved"
    assert ann.run("whoami")["ok"], "known keys go on"
    provider.process.kill()
    assert ann.run("whoami")["ok"], "also without the provider"


def test_a_project_cannot_call_for_the_login(farm: Farm) -> None:
    provider = oidc.start(farm)
    server = serve(farm, provider)
    ann = desk(farm, server, provider)
    assert ann.run("login")["ok"]
    project = farm.dir / "project"
    project.mkdir()
    evil = oidc.start(farm)  # records nothing: it would be an error of its own to be asked at all
    own = f'issuer = "{provider.issuer}"\nclient_id = "dbward"\n'
    for text in (
        f'[server]\nurl = "http://127.0.0.1:9"\n[server.oidc]\n{own}',
        f'[server]\nurl = "{server.url}"\n[server.oidc]\n{own}backchannel_url = "{evil.issuer}"',
        f'[server]\nurl = "{server.url}"\n[server.oidc]\n{own}discovery_url = "{evil.issuer}/x"',
        f'[server]\nurl = "{server.url}"\n[server.oidc]\nissuer = "{evil.issuer}"\nclient_id = "dbward"',
    ):
        (project / "dbward.toml").write_text(text)
        assert ann.run("whoami", cwd=project)["error"]["code"] == "auth_error", text
    (project / "dbward.toml").write_text('[server]\nurl = "http://127.0.0.1:9"')
    assert ann.run("whoami", cwd=project)["error"]["code"] == "config_error", "a URL stronger than the credential"
    (project / "dbward.toml").write_text(f'[server]\nurl = "{server.url}"\n[server.oidc]\n{own}')
    assert ann.run("whoami", cwd=project)["ok"], "the same place may be named again"


def test_a_long_token_gets_through_and_a_longer_one_is_refused(farm: Farm) -> None:
    server = farm.server()
    for length, status in ((8192, 401), (8193, 401), (9000, 431)):
        bearer = "eyJhbGciOiJSUzI1NiJ9." + "x" * (length - 23) + ".y"
        assert len(bearer) == length
        answer = httpx2.get(f"{server.url}/api/me", headers={"Authorization": f"Bearer {bearer}"})
        assert answer.status_code == status
    assert (
        "dbward login"
        in httpx2.get(f"{server.url}/api/me", headers={"Authorization": "Bearer eyJ.x.yxxxxxx"}).json()["hint"]
    )


def test_a_token_wins_over_the_login(farm: Farm) -> None:
    provider = oidc.start(farm)
    server = serve(farm, provider)
    ann = desk(farm, server, provider)
    entered = ann.run("login", DBWARD_TOKEN=server.admin_token, DBWARD_SERVER_URL=server.url)
    assert any("token is configured" in warning for warning in entered["warnings"])
    told = ann.run("whoami", DBWARD_TOKEN=server.admin_token, DBWARD_SERVER_URL=server.url)
    assert told["data"]["subject_id"] == "admin"
    assert ann.run("whoami")["data"]["subject_id"] == "ann"


def test_a_server_of_another_provider_takes_nothing(farm: Farm) -> None:
    provider, other = oidc.start(farm), oidc.start(farm)
    ann = desk(farm, serve(farm, other), provider)
    failed = ann.run("login")
    assert "does not accept" in failed["error"]["message"]
    assert ann.logins == []
