"""What a provider says about itself at `/.well-known/openid-configuration`."""

from __future__ import annotations

import httpx2
from pydantic import BaseModel, ConfigDict, ValidationError

from dbward.identity import web
from dbward.identity.web import ProviderDown
from dbward.settings.server_oidc import refuse_url

WELL_KNOWN = "/.well-known/openid-configuration"


class Provider(BaseModel):
    """The addresses that are used; None where the provider does not offer it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    issuer: str
    jwks_uri: str
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    device_authorization_endpoint: str | None = None
    revocation_endpoint: str | None = None
    scopes_supported: tuple[str, ...] = ()
    authorization_response_iss_parameter_supported: bool = False


_ADDRESSES = (
    "jwks_uri",
    "authorization_endpoint",
    "token_endpoint",
    "device_authorization_endpoint",
    "revocation_endpoint",
)


def discover(http: httpx2.Client, issuer: str, url: str | None = None) -> Provider:
    """Ask the provider of `issuer`, at `url` when that is elsewhere.

    Raises `ProviderDown`, also when it says that it is another issuer or sends people over plain http.
    """
    document = web.fetch(http, url or issuer.rstrip("/") + WELL_KNOWN)
    try:
        found = Provider.model_validate(document)
    except ValidationError:
        raise ProviderDown("describes itself in a way that cannot be read") from None
    if found.issuer != issuer:
        raise ProviderDown(f"says that it is {found.issuer[:200]!a}, not {issuer!a}: the setting must be the same text")
    for name in _ADDRESSES:
        address = getattr(found, name)
        if address is not None and (wrong := refuse_url(address)) is not None:
            raise ProviderDown(f"names a {name} that {wrong}")
    return found
