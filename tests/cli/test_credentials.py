"""The file a login is kept in, and the listener a browser comes back to, without a provider."""

from __future__ import annotations

import json
import socket
import stat
from pathlib import Path
from time import time

import httpx2
import pytest

from dbward.cli.credentials import Binding, Credentials, Login, from_tokens
from dbward.cli.loopback import listen
from dbward.errors import Misconfigured, Unauthorized
from dbward.identity.grants import LoginFailed, Tokens
from dbward.settings.client import Oidc

OIDC = Oidc("https://id.example.com", "dbward")
ISSUER = OIDC.issuer


def stored(login: Login, **changed: object) -> Credentials:
    now = time()
    values = {
        "binding": login.binding, "bearer": "access_token", "access_token": "a", "refresh_token": None,
        "id_token": None, "obtained_at": now, "expires_at": now + 3600, **changed,
    }  # fmt: skip
    return Credentials(**values)  # type: ignore[arg-type]


def test_a_login_comes_back_as_it_was(tmp_path: Path) -> None:
    login = Login(tmp_path / "c", "https://s", OIDC)
    with pytest.raises(Unauthorized) as caught:
        login.token()
    assert caught.value.hint == "run `dbward login`"
    kept = stored(login)
    with login.locked():
        login.save(kept)
    again = Login(tmp_path / "c", "https://s", OIDC)
    assert (again.load(), again.token()) == (kept, "a")
    assert "'a'" not in repr(kept)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "c").iterdir()}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o700
    login.forget()
    assert again.load() is None


@pytest.mark.parametrize(
    ("server", "oidc"),
    [
        ("https://other", OIDC),
        ("https://s", Oidc("https://other.example.com", "dbward")),
        ("https://s", Oidc(ISSUER, "other")),
        ("https://s", Oidc(ISSUER, "dbward", discovery_url="https://evil.example.com")),
        ("https://s", Oidc(ISSUER, "dbward", backchannel_url="https://evil.example.com")),
    ],
)
def test_a_login_is_for_one_way_only(tmp_path: Path, server: str, oidc: Oidc) -> None:
    login = Login(tmp_path, "https://s", OIDC)
    with login.locked():
        login.save(stored(login))
    other = Login(tmp_path, server, oidc)
    assert other.load() is None
    # Nor when somebody renames the file.
    (tmp_path / login.binding.file_name).rename(tmp_path / other.binding.file_name)
    assert other.load() is None
    assert Binding.of(server, oidc) != login.binding


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense", '{"binding": 1}'])
def test_a_file_that_is_no_login(tmp_path: Path, text: str) -> None:
    login = Login(tmp_path, "https://s", OIDC)
    (tmp_path / login.binding.file_name).write_text(text)
    with pytest.raises(Misconfigured):
        login.token()


def test_a_place_where_nothing_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(Misconfigured, match="cannot keep a login"),
        Login(tmp_path / "file", "https://s", OIDC).locked(),
    ):
        pass


def test_when_a_token_is_renewed(tmp_path: Path) -> None:
    login = Login(tmp_path, "https://s", OIDC)
    assert stored(login, obtained_at=0, expires_at=3600).renew_at() == 3300
    assert stored(login, obtained_at=0, expires_at=300).renew_at() == 240, "a short life is not spent renewing"
    opaque = Tokens("opaque", None, None, 600)
    assert from_tokens(login.binding, opaque, "access_token", now=1000).expires_at == 1600
    assert from_tokens(login.binding, Tokens("opaque", None, None, None), "access_token", now=0).expires_at == 3600
    with pytest.raises(LoginFailed):
        from_tokens(login.binding, opaque, "id_token", now=0)


def test_a_login_that_cannot_be_renewed_lasts_as_long_as_it_can(tmp_path: Path) -> None:
    login = Login(tmp_path, "https://s", OIDC)
    now = time()
    with login.locked():
        login.save(stored(login, obtained_at=now - 3590, expires_at=now + 60))
    assert Login(tmp_path, "https://s", OIDC).token() == "a"
    with login.locked():
        login.save(stored(login, obtained_at=now - 3590, expires_at=now - 1))
    with pytest.raises(LoginFailed, match="expired"):
        Login(tmp_path, "https://s", OIDC).token()


def test_a_browser_that_brings_a_refusal() -> None:
    with listen("s", issuer=ISSUER, names_issuer=False) as waiting:
        for wrong in ({"error": "access_denied"}, {"state": "x", "error": "access_denied"}):
            assert httpx2.get(waiting.redirect_uri, params=wrong).status_code == 400
        page = httpx2.get(
            waiting.redirect_uri, params={"state": "s", "error": "access_denied", "error_description": "<b>"}
        )
        assert (page.status_code, "<b>" in page.text) == (403, False)
        with pytest.raises(LoginFailed, match="denied"):
            waiting.code()


def test_a_connection_that_says_nothing_holds_up_nobody() -> None:
    with listen("s", issuer=ISSUER, names_issuer=False) as waiting:
        port = httpx2.URL(waiting.redirect_uri).port
        assert port is not None
        with socket.create_connection(("127.0.0.1", port)):
            assert httpx2.get(waiting.redirect_uri, params={"state": "s", "code": "c"}).status_code == 200
            assert waiting.code() == "c"


def test_the_answer_twice_in_one_address_is_none() -> None:
    with listen("s", issuer=ISSUER, names_issuer=False) as waiting:
        assert httpx2.get(f"{waiting.redirect_uri}?state=s&state=s&code=c").status_code == 400
        assert httpx2.get(f"{waiting.redirect_uri}?state=s&code=").status_code == 400


def test_the_file_says_what_it_is_bound_to(tmp_path: Path) -> None:
    login = Login(tmp_path, "https://s", OIDC)
    with login.locked():
        login.save(stored(login))
    (path,) = tmp_path.glob("*.json")
    assert json.loads(path.read_text())["binding"]["server"] == "https://s"
