"""Whether an identity provider describes itself as it must, and gives keys that tokens can be verified with."""

from __future__ import annotations

from collections.abc import Callable

import httpx2

from dbward.cli.diagnosis.model import Check, passed, refused
from dbward.errors import DbwardError
from dbward.identity import web
from dbward.identity.web import ProviderDown


def check_provider(name: str, issuer: str, find: Callable[[httpx2.Client], str]) -> Check:
    """`find` tells where the keys are, by discovery or because the configuration says so."""
    http = web.open_client()
    try:
        keys = web.fetch(http, find(http)).get("keys")
        if not isinstance(keys, list) or not keys:
            raise ProviderDown("has no keys at its jwks_uri")
    except DbwardError as e:
        return refused(name, e, hint="is the issuer right, and does this machine reach it?")
    finally:
        http.close()
    return passed(name, f"{issuer} answers, with {len(keys)} keys")
