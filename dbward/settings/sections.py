"""The sections of `server.toml`: which of them a running server takes over, and what differs between two files.

Names and never values: what comes out of here is logged, put on the record and printed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from operator import attrgetter
from typing import Any

from dbward.errors import Misconfigured
from dbward.settings.server import ServerSettings


@dataclass(frozen=True, slots=True)
class Section:
    """`name` as it stands in the file; `paths` are the attributes of `ServerSettings` that hold it.

    One that is not `live` is fixed by what was opened at start: a file that changes it is for the next start.
    """

    name: str
    paths: tuple[str, ...]
    live: bool = True


SECTIONS = (
    Section("state_dir", ("state_dir",), live=False),
    Section("trusted_proxies", ("trusted_proxies",)),
    Section("allow_private_networks", ("features.allow_private_networks",)),
    Section("[server] listen", ("listen",), live=False),
    Section("[server] max_polls", ("http.max_polls",), live=False),
    Section("[server] pin_cpu", ("http.pin_cpu",), live=False),
    Section("[server] max_body_bytes", ("http.max_body_bytes",)),
    Section("[server] graceful_timeout_secs", ("http.graceful_timeout",), live=False),
    Section("[state]", ("state",), live=False),
    Section("[[databases]]", ("policy.targets", "policy.vouched", "dialects")),
    Section("[auth] mode", ("auth_mode",), live=False),
    Section("[auth] default_role", ("policy.default_role",)),
    Section("[auth.token_policy]", ("max_active_tokens_per_user",)),
    Section("[auth.oidc]", ("oidc",)),
    Section("[[auth.users]]", ("users",)),
    Section("[[auth.groups]]", ("policy.groups",)),
    Section("[[auth.roles]]", ("policy.roles",)),
    Section("[[workflows]]", ("policy.workflows",)),
    Section("[[execution_policies]]", ("policy.execution_policies",)),
    Section("[[result_policies]]", ("policy.result_policies",)),
    Section("[[sql_review]]", ("policy.sql_review",)),
    Section("[[webhooks]]", ("features.webhooks",)),
    Section("[[notification_policies]]", ("features.notification_policies",)),
    Section("[result_storage] max_persist_bytes", ("results.max_persist_bytes",)),
    Section("[result_storage] the rest", ("results.backend", "results.root_dir", "results.s3"), live=False),
    Section("[backup]", ("backup",)),
    Section("[retention]", ("retention",)),
    Section("[audit]", ("audit_redaction",)),
    Section("[logging]", ("logging",)),
    Section("[metrics]", ("emf_namespace",)),
    Section("[broker]", ("broker",), live=False),
    Section("[limits]", ("limits",)),
    Section("[requests]", ("max_detail_bytes", "max_migration_bytes", "dispatch_timeout")),
    Section("[preflight]", ("features.preflight",)),
    Section("[slack]", ("features.slack",)),
    Section("[mcp]", ("features.mcp",)),
)
"""In the order of the documentation. Agents were told what `[broker]` says when they connected, so it is fixed."""


@dataclass(frozen=True, slots=True)
class Change:
    """What differs in one section: names of entries, or of keys."""

    section: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __str__(self) -> str:
        signs = (("+", self.added), ("-", self.removed), ("~", self.changed))
        return " ".join([self.section, *(f"{sign}{name}" for sign, names in signs for name in names)])


def changes(before: ServerSettings, after: ServerSettings) -> tuple[Change, ...]:
    """Every section that differs."""
    return tuple(found for section in SECTIONS if (found := _change(section, before, after)) is not None)


def refuse_fixed(before: ServerSettings, after: ServerSettings) -> None:
    """Raise `Misconfigured` when `after` changes what a running server cannot: it is taken over whole or not at all."""
    fixed = [s.name for s in SECTIONS if not s.live and _change(s, before, after) is not None]
    if fixed:
        problems = [f"{name}: needs a restart: it cannot change while the server runs" for name in fixed]
        raise Misconfigured(
            "\n".join(problems),
            code="config.needs_restart",
            hint="restart the server, or put it back as it was",
            detail={"problems": problems},
        )


def counts(settings: ServerSettings) -> dict[str, int]:
    """How many entries each section has that is a list of named ones."""
    found: dict[str, int] = {}
    for section in SECTIONS:
        value = attrgetter(section.paths[0])(settings)
        if section.name.startswith("[[") and isinstance(value, Collection):
            found[section.name.strip("[]").rpartition(".")[2]] = len(value)
    return found


def _change(section: Section, before: ServerSettings, after: ServerSettings) -> Change | None:
    old: dict[str, list[Any]] = {}
    new: dict[str, list[Any]] = {}
    for path in section.paths:
        for settings, into in ((before, old), (after, new)):
            for name, value in _entries(path, attrgetter(path)(settings)).items():
                into.setdefault(name, []).append(value)
    if old == new:
        return None
    return Change(
        section.name,
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(name for name in old.keys() & new.keys() if old[name] != new[name])),
    )


def _entries(path: str, value: Any) -> dict[str, Any]:
    """The parts of a section by name. A single value is named after its attribute."""
    if isinstance(value, Mapping):
        return {str(name): entry for name, entry in value.items()}
    if isinstance(value, tuple) and path != "listen":
        return {_name(entry): entry for entry in value}
    if is_dataclass(value):
        return {part.name: getattr(value, part.name) for part in fields(value)}
    return {path.rpartition(".")[2]: value}


def _name(entry: Any) -> str:
    """An entry's id, or its scope where it has no id of its own."""
    scope = (getattr(entry, "database", None), getattr(entry, "environment", None))
    if None in scope or not is_dataclass(entry):
        return str(getattr(entry, "id", entry))
    operations = ",".join(sorted(getattr(entry, "operations", ())))
    return "/".join(map(str, scope)) + (f":{operations}" if operations else "")
