"""Whether a JWT is the provider's, meant for us, and valid now."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from joserfc import jws, jwt
from joserfc.errors import BadSignatureError, ClaimError, ExpiredTokenError, JoseError, UnsupportedAlgorithmError
from joserfc.jwk import ECKey, GuestProtocol, RSAKey
from joserfc.jws import JWSRegistry

from dbward.identity.keys import ALGORITHMS, ProviderKeys

LEEWAY: Final = timedelta(seconds=30)
"""How far the provider's clock and ours may differ."""

MAX_LENGTH: Final = 8192

_GROUPS = "groups"


class BadToken(Exception):
    """The token proves nothing. `cause` is a word for the record, not for who sent it."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


def is_jwt(text: str) -> bool:
    """Whether `text` looks like a signed JWT; says nothing about whether it is good."""
    return text.startswith("eyJ") and text.count(".") == 2


def verify(keys: ProviderKeys, text: str, *, issuer: str, audience: str, now: datetime) -> dict[str, Any]:
    """The token's claims, among them `sub` and `exp`.

    Raises `BadToken`, and `ProviderDown` when the key it needs is not at hand and cannot be fetched.
    """
    if len(text) > MAX_LENGTH or not text.isascii():
        raise BadToken("malformed")

    def key_for(token: GuestProtocol) -> RSAKey | ECKey:
        header = token.headers()  # of a shape, and with an algorithm, that the registry below has let pass
        found = keys.find(header.get("kid"), header["alg"], now)
        if found is None:
            raise BadToken("unknown_key")
        return found

    try:
        claims = jwt.decode(text, key_for, registry=_registry()).claims
        _claims_registry(issuer, audience, now).validate(claims)
    except ExpiredTokenError:
        raise BadToken("expired") from None
    except ClaimError as e:
        raise BadToken("claim_" + e.claim.partition(",")[0]) from None  # the first of those that are missing
    except UnsupportedAlgorithmError:
        raise BadToken("algorithm") from None
    except BadSignatureError:
        raise BadToken("bad_signature") from None
    except (JoseError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise BadToken("malformed") from None
    if not math.isfinite(claims["exp"]):
        raise BadToken("claim_exp")
    return claims


def expires_at(claims: dict[str, Any], now: datetime) -> datetime:
    """Until when the token is accepted, and a day at most: long enough for whoever remembers it."""
    latest = now + timedelta(days=1)
    until = min(float(claims["exp"]), latest.timestamp())
    return min(datetime.fromtimestamp(until, UTC) + LEEWAY, latest)


def stated_expiry(text: str) -> float | None:
    """When the JWT says that it ends, in seconds since 1970; None when it does not. Its signature is not looked at."""
    if not is_jwt(text):
        return None
    try:
        claims = json.loads(jws.extract_compact(text.encode(), registry=_registry()).payload)
        until = float(claims["exp"])
    except (JoseError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return until if math.isfinite(until) else None


def values_of(claims: dict[str, Any], name: str) -> frozenset[str]:
    """The texts in a claim: `name` itself, or else the path its dots make (`realm_access.roles`).

    A list gives each of its texts, a boolean `true` or `false`; anything else gives nothing.
    """
    value: Any = claims.get(name)
    if name not in claims:
        value = claims
        for step in name.split("."):
            value = value.get(step) if isinstance(value, dict) else None
    listed = value if isinstance(value, list) else [value]
    return frozenset(
        str(one).lower() if isinstance(one, bool) else str(one)
        for one in listed
        if isinstance(one, str | bool | int) and one != ""
    )


def groups_of(claims: dict[str, Any]) -> frozenset[str]:
    return values_of(claims, _GROUPS)


def _registry() -> JWSRegistry:
    registry = JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
    registry.max_header_length = registry.max_payload_length = MAX_LENGTH
    return registry


def _claims_registry(issuer: str, audience: str, now: datetime) -> jwt.JWTClaimsRegistry:
    return jwt.JWTClaimsRegistry(
        now=int(now.timestamp()),
        leeway=int(LEEWAY.total_seconds()),
        iss={"essential": True, "value": issuer},
        aud={"essential": True, "value": audience},
        sub={"essential": True},
        exp={"essential": True},
    )
