"""Sections of `server.toml` for single features, of which some come with later versions: validated in full and kept.

A setting that has no effect yet must not look as if it had: each such section is named in a warning at start.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import urlsplit

from dbward.domain.addresses import refuse_host
from dbward.domain.model import Target
from dbward.domain.notifications import NotificationPolicy, matches_any
from dbward.settings.load import Table
from dbward.settings.secret import Secret
from dbward.settings.server_policy import read_scope, warn_unregistered

_LATER = ("slack", "mcp")
_WEBHOOK_ID = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Webhook:
    id: str
    url: str = field(repr=False)
    events: tuple[str, ...] = ()
    format: str = "generic"
    secret: Secret | None = None


@dataclass(frozen=True, slots=True)
class Slack:
    bot_token: Secret
    signing_secret: Secret
    channel: str = "#db-approvals"
    onboarding: bool = False
    assignable_roles: tuple[str, ...] = ()
    assignable_groups: tuple[str, ...] = ()
    restricted_roles: tuple[str, ...] = ()
    request_ttl: timedelta = timedelta(hours=72)


@dataclass(frozen=True, slots=True)
class Mcp:
    enabled: bool = True
    allowed_origins: tuple[str, ...] = ()
    default_environment: str = "development"
    session_ttl: timedelta = timedelta(hours=1)
    max_sessions: int = 1000
    elicitation_timeout: timedelta = timedelta(seconds=300)
    replay_buffer_size: int = 100


@dataclass(frozen=True, slots=True)
class Preflight:
    max_concurrent_per_user: int = 3
    max_explain_timeout: timedelta = timedelta(seconds=10)
    rate_limit_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Features:
    allow_private_networks: bool = False
    webhooks: tuple[Webhook, ...] = ()
    notification_policies: tuple[NotificationPolicy, ...] = ()
    slack: Slack | None = None
    mcp: Mcp = Mcp()
    preflight: Preflight = Preflight()


def read_features(root: Table, targets: tuple[Target, ...], warnings: list[str]) -> Features:
    private = root.flag("allow_private_networks", default=False)
    webhooks = _read_webhooks(root, warnings, allow_private_networks=private)
    features = Features(
        allow_private_networks=private,
        webhooks=webhooks,
        notification_policies=_read_notifications(root, {hook.id for hook in webhooks}, warnings),
        slack=_read_slack(root.table("slack")),
        mcp=_read_mcp(root.table("mcp")),
        preflight=_read_preflight(root.table("preflight")),
    )
    for rule in features.notification_policies:
        warn_unregistered("notification_policies", rule, targets, warnings)
    channel = root.table("result_channel")
    channel.integer("max_slots", 10_000, least=1)
    channel.secs("slot_ttl_secs", timedelta(seconds=600), least=1)
    if channel.present:
        warnings.append("[result_channel] has no effect: results are streamed from the result store")
    if webhooks:
        warnings.append("[webhooks] are not called in this version: what they would be told is recorded and listed")
    warnings.extend(f"[{name}] is checked but not in effect in this version" for name in _LATER if root.has(name))
    return features


def _read_webhooks(root: Table, warnings: list[str], *, allow_private_networks: bool) -> tuple[Webhook, ...]:
    found: dict[str, Webhook] = {}
    for table in root.tables("webhooks"):
        url = table.required("url")
        name = table.maybe("id") or ""
        if not name:
            host = re.sub(r"[^a-z0-9]+", "-", (_host(url) or "").lower()).strip("-")
            table.wrong("id", "is required" + (f'; for example id = "{host[:64]}"' if host else ""))
        elif len(name) > 64 or not _WEBHOOK_ID.fullmatch(name):
            table.wrong("id", "must be up to 64 lower-case letters, digits and inner dashes")
        elif name in found:
            table.wrong("id", f"{name!a} is used twice")
        if url:
            _check_url(table, url, allow_private_networks=allow_private_networks)
        found[name] = Webhook(
            id=name,
            url=url,
            events=_read_events(table, warnings),
            format=table.choice("format", "generic", ("generic", "slack")),
            secret=table.secret("secret"),
        )
    return tuple(found.values())


def _check_url(table: Table, url: str, *, allow_private_networks: bool) -> None:
    host = _host(url)
    if host is None:
        table.wrong("url", "must be an http or https URL with a host")
    elif not allow_private_networks and (why := refuse_host(host)) is not None:
        table.wrong("url", f"the host {host!a} {why}; allow_private_networks = true lets webhooks go there")


def _host(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it is the check
    except ValueError:
        return None
    return parts.hostname if parts.scheme in {"http", "https"} else None


def _read_events(table: Table, warnings: list[str]) -> tuple[str, ...]:
    events = table.texts("events")
    warnings.extend(f"{table.at('events')}: no event is called {one!a}" for one in events if not matches_any(one))
    return events


def _read_notifications(root: Table, webhooks: set[str], warnings: list[str]) -> tuple[NotificationPolicy, ...]:
    found: dict[tuple[str, str], NotificationPolicy] = {}
    for table in root.tables("notification_policies"):
        scope = read_scope(table)
        if scope in found:
            table.wrong("", f"is a second entry for {'/'.join(scope)}")
        named = table.texts("webhooks")
        for name in named:
            if name not in webhooks:
                table.wrong("webhooks", f"there is no webhook {name!a}")
        found[scope] = NotificationPolicy(
            f"np:{scope[0]}:{scope[1]}", *scope, webhooks=named, events=_read_events(table, warnings)
        )
    return tuple(found.values())


def _read_slack(table: Table) -> Slack | None:
    onboarding = table.table("onboarding")
    if not table.present:
        return None
    return Slack(
        bot_token=table.required_secret("bot_token"),
        signing_secret=table.required_secret("signing_secret"),
        channel=table.text("channel", "#db-approvals"),
        onboarding=onboarding.flag("enabled", default=False),
        assignable_roles=onboarding.texts("assignable_roles"),
        assignable_groups=onboarding.texts("assignable_groups"),
        restricted_roles=onboarding.texts("restricted_roles"),
        request_ttl=timedelta(hours=onboarding.integer("request_ttl_hours", 72, least=1, most=24 * 366)),
    )


def _read_mcp(table: Table) -> Mcp:
    usual = Mcp()
    return Mcp(
        enabled=table.flag("enabled", default=usual.enabled),
        allowed_origins=table.texts("allowed_origins"),
        default_environment=table.text("default_environment", usual.default_environment),
        session_ttl=table.secs("session_ttl_secs", usual.session_ttl, least=10),
        max_sessions=table.integer("max_sessions", usual.max_sessions, least=1),
        elicitation_timeout=table.secs("elicitation_timeout_secs", usual.elicitation_timeout, least=10),
        replay_buffer_size=table.integer("replay_buffer_size", usual.replay_buffer_size),
    )


def _read_preflight(table: Table) -> Preflight:
    return Preflight(
        max_concurrent_per_user=table.integer("max_concurrent_per_user", 3, least=1),
        max_explain_timeout=timedelta(milliseconds=table.integer("max_explain_timeout_ms", 10_000, least=1)),
        rate_limit_per_minute=table.maybe_integer("rate_limit_per_minute", least=1),
    )
