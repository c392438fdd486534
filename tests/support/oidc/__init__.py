"""A real OpenID provider as a process (`provider.mjs`), and somebody with a browser."""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx2

from tests.support.npm import NODE, install
from tests.support.processes import Farm, Process, status_of
from tests.support.services import free_port

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PEOPLE = {
    "ann": {"name": "Ann Other", "email": "ann@example.com", "groups": ["platform"]},
    "ben": {"name": "Ben Else", "email": "ben@example.com", "groups": []},
}
REFUSER = "refuser"
"""Who signs in nowhere: the person who says no."""


@dataclass(slots=True)
class Provider:
    process: Process
    port: int

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def rotate(self) -> None:
        """Sign with a new key from now on; the old one is withdrawn."""
        httpx2.post(f"{self.issuer}/test/rotate").raise_for_status()


def start(
    farm: Farm,
    *,
    alg: Literal["RS256", "ES256"] = "RS256",
    access_token_secs: int = 3600,
    device_secs: int = 600,
    users: Mapping[str, Any] = PEOPLE,
) -> Provider:
    """A provider on a free port, with the public clients `dbward` (opaque access tokens) and `dbward-jwt`."""
    install(HERE)
    port = free_port()
    told = {
        "port": port,
        "alg": alg,
        "users": users,
        "accessTokenSecs": access_token_secs,
        "deviceSecs": device_secs,
    }
    process = farm.spawn("provider", [str(NODE), str(HERE / "provider.mjs"), json.dumps(told)])
    provider = Provider(process, port)
    farm.until(lambda: status_of(f"{provider.issuer}/jwks") == 200, "the provider answers", process)
    return provider


def browse(address: str, user: str) -> httpx2.Response:
    """Open the address as `user`, who agrees to everything but as `REFUSER`; the page it ends at."""
    with httpx2.Client(headers={"X-User": user}, follow_redirects=True, timeout=60) as browser:
        return browser.get(address)


def confirm_device(address: str, user: str, code: str, *, answer: str = "confirm") -> httpx2.Response:
    """Type the code on the provider's page, and `confirm` or `abort`."""
    with httpx2.Client(headers={"X-User": user}, follow_redirects=True, timeout=60) as browser:
        page = browser.get(address)
        found = re.search(r'name="xsrf" value="([^"]*)"', page.text)
        assert found is not None, page.text
        form = {"xsrf": html.unescape(found[1]), "user_code": code, answer: "yes"}
        return browser.post(address, data=form)


def browser_program(directory: Path, user: str) -> Path:
    """A program for `BROWSER` that opens its argument as `user`."""
    path = directory / f"browser-{user}"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        f"from tests.support.oidc import browse\nbrowse(sys.argv[1], {user!r})\n"
    )
    path.chmod(0o755)
    return path
