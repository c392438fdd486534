"""`[auth.oidc]`: the identity provider whose word about people is taken, and what it means for their roles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from dbward.settings.load import Table
from dbward.settings.transport import check_url, is_internal


@dataclass(frozen=True, slots=True)
class RoleMapping:
    """Whoever has `value` in `claim` has `role`. `claim` is a name, or a path with dots into nested claims."""

    claim: str
    value: str
    role: str


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """`issuer` is kept as it is written: tokens must name it letter by letter. `jwks_uri` None: discovery tells."""

    issuer: str
    audience: str
    jwks_uri: str | None = None
    role_mappings: tuple[RoleMapping, ...] = ()


def read_oidc(table: Table, check_role: Callable[[Table, str], None], warnings: list[str]) -> OidcSettings | None:
    """None when there is no such section. `check_role` reports a `role` that does not exist."""
    names = [key for key in ("issuer_url", "issuer") if table.maybe(key)]
    issuer = table.maybe(names[0]) if names else None
    audience = table.maybe("client_id") or table.maybe("audience")
    table.maybe("audience")
    jwks_uri = table.maybe("jwks_uri")
    mappings = tuple(_read_mapping(mapping, check_role) for mapping in table.tables("role_mappings"))
    if table.maybe("default_role") is not None:
        warnings.append("[auth.oidc] default_role has no effect: [auth] default_role is for everybody without a role")
    if not table.present:
        return None
    if issuer is None:
        table.wrong("issuer_url", "is required")
    if audience is None:
        table.wrong("client_id", "is required, or `audience`")
    if table.has("jwks_uri") and jwks_uri is None:
        table.wrong("jwks_uri", "is empty")
    for key, url in ((names[0] if names else "issuer_url", issuer), ("jwks_uri", jwks_uri)):
        if url is not None and (wrong := refuse_url(url)) is not None:
            table.wrong(key, wrong)
    return OidcSettings(issuer or "", audience or "", jwks_uri, mappings)


def refuse_url(url: str) -> str | None:
    """Why keys or credentials must not be fetched from `url`; None when they may be."""
    try:
        check_url(url)
    except ValueError as e:
        return str(e)
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_internal(parts.hostname or ""):
        return "must start with https://: over plain http everybody on the way could sign people in"
    return None


def _read_mapping(table: Table, check_role: Callable[[Table, str], None]) -> RoleMapping:
    mapping = RoleMapping(table.required("claim"), table.required("value"), table.required("role"))
    if mapping.role:
        check_role(table, mapping.role)
    return mapping
