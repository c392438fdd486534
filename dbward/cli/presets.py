"""The files that `dbward init` writes: for one person's machine, and for servers and agents of teams of some kinds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

SECRET, SHARED = 0o600, 0o644


@dataclass(frozen=True, slots=True)
class File:
    """`mode` is `SECRET` for what holds secrets or will, `SHARED` for what goes into a repository."""

    name: str
    text: str
    mode: int


@dataclass(frozen=True, slots=True)
class Preset:
    """`environments` from the first where everything is tried to the one that matters; `policy` is what follows
    `[[databases]]` in server.toml.
    """

    about: str
    environments: tuple[str, ...]
    policy: str


_TRIED_AT_ONCE = """\
# development: everything runs at once, and is recorded.
[[workflows]]
environment = "development"
[workflows.auto_approve]
mode = "always"
"""
_LIMITS = """\
[[execution_policies]]
environment = "production"
statement_timeout_secs = 30
max_statement_timeout_secs = 300
"""

PRESETS: Final[Mapping[str, Preset]] = {
    "solo": Preset(
        "one person, who wants a record and a second look before production changes",
        ("development", "production"),
        f"""\
{_TRIED_AT_ONCE}
# production: reads run at once.
[[workflows]]
environment = "production"
operations = ["execute_select", "migrate_status"]
[workflows.auto_approve]
mode = "always"

# For changes an administrator says why, and then yes: that may be whoever asked.
[[workflows]]
environment = "production"
operations = ["execute_dml", "migrate_up", "migrate_down", "migrate_repair"]
require_reason = true
allow_self_approve = true
[[workflows.steps]]
approvers = [{{ role = "admin" }}]

{_LIMITS}
[[sql_review]]
no_where_delete = "block"
no_where_update = "block"
drop_table = "warn"
""",
    ),
    "small-team": Preset(
        "colleagues who approve each other's changes",
        ("development", "staging", "production"),
        f"""\
{_TRIED_AT_ONCE}
# staging: reads and changes of low risk run at once; one other person approves the rest.
[[workflows]]
environment = "staging"
[workflows.auto_approve]
mode = "risk_based"
risk = "low"
[[workflows.steps]]
mode = "any"
approvers = [{{ role = "approver" }}, {{ role = "admin" }}]

# production: one other person approves everything, and is told why.
[[workflows]]
environment = "production"
require_reason = true
[[workflows.steps]]
mode = "any"
approvers = [{{ role = "approver" }}, {{ role = "admin" }}]

{_LIMITS}
[[sql_review]]
no_where_delete = "block"
no_where_update = "block"
drop_table = "warn"
""",
    ),
    "two-approvals": Preset(
        "production changes need two other people, of whom one is an administrator",
        ("development", "staging", "production"),
        f"""\
{_TRIED_AT_ONCE}
# staging: one other person approves everything.
[[workflows]]
environment = "staging"
[[workflows.steps]]
mode = "any"
approvers = [{{ role = "approver" }}, {{ role = "admin" }}]

# production: an approver, then an administrator; both are told why.
[[workflows]]
environment = "production"
require_reason = true
[[workflows.steps]]
approvers = [{{ role = "approver" }}]
[[workflows.steps]]
approvers = [{{ role = "admin" }}]

{_LIMITS}
[[sql_review]]
no_where_delete = "block"
no_where_update = "block"
drop_table = "warn"

[[sql_review]]
environment = "production"
drop_table = "block"
truncate = "block"
drop_column = "warn"
""",
    ),
}

VARIABLES: Final[Mapping[str, str]] = {
    "development": "DATABASE_URL_DEV",
    "staging": "DATABASE_URL_STAGING",
    "production": "DATABASE_URL_PRODUCTION",
}
"""Where agent.toml takes the URLs of the databases from."""

_HERE: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def team_files(preset: Preset, url: str, database: str) -> list[File]:
    """What a team needs: the clients' file, the server's and the agent's."""
    return [
        File("dbward.toml", _team_client(url, database), SHARED),
        File("server.toml", _server(preset, url, database), SECRET),
        File("agent.toml", _agent(preset, url, database), SECRET),
    ]


def global_file(url: str) -> File:
    """What a person has for all their projects."""
    return File(
        "config.toml",
        f"# Which server, and who you are to it. Nobody else should read this.\n{_connection(url)}",
        SECRET,
    )


def project_file(database: str) -> File:
    """What everybody in a project has in common, and no credentials."""
    return File("dbward.toml", f"# Goes into the repository.\n{_project(database)}", SHARED)


def single_file(url: str, database: str) -> File:
    """All in one, for `--config`."""
    text = f"""\
default_database = {_toml(database)}

{_connection(url)}
[databases.{database}]
"""
    return File("", text, SECRET)


def _connection(url: str) -> str:
    return f"""\
[server]
url = {_toml(url)}
# token = "dbw_…"   # or DBWARD_TOKEN
"""


def _project(database: str) -> str:
    return f"""\
default_database = {_toml(database)}
default_environment = "development"
migrations_dir = "migrations"

[databases.{database}]
"""


def _team_client(url: str, database: str) -> str:
    return f"""\
# Goes into the repository: no tokens here. Everybody has theirs in DBWARD_TOKEN.
{_project(database)}
[server]
url = {_toml(url)}
# token = "…"       # better in DBWARD_TOKEN
"""


def _server(preset: Preset, url: str, database: str) -> str:
    return f"""\
# {preset.about[0].upper()}{preset.about[1:]}.
# `dbward server start --config server.toml`; `dbward server reload --server-config server.toml` after a change.
state_dir = "state"

[server]
listen = {_toml(_listen(url))}

[[databases]]
name = {_toml(database)}
environments = {json.dumps(preset.environments)}

{preset.policy}
[result_storage]
backend = "local"

[backup]
every_hours = 24
"""


def _agent(preset: Preset, url: str, database: str) -> str:
    parts = [
        f"""\
# `dbward agent --config agent.toml`, where the databases are reached. Its login decides what can be done at most.
[server]
url = {_toml(url)}
agent_token = "${{DBWARD_AGENT_TOKEN}}"
"""
    ]
    for environment in preset.environments:
        variable = VARIABLES[environment]
        usual = f":-postgresql://localhost:5432/{database}" if environment == "development" else ""
        parts.append(f'[databases.{database}.{environment}]\nurl = "${{{variable}{usual}}}"\n')
    return "\n".join(parts)


def _listen(url: str) -> str:
    """Where a server has to listen that is called at `url`; behind what ends TLS, only on its own machine."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return "127.0.0.1:3000"
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    return (
        f"{shown if host in _HERE - {'localhost'} else '127.0.0.1' if host in _HERE else '0.0.0.0'}:{parts.port or 80}"  # noqa: S104 - people outside call it
    )


def _toml(text: str) -> str:
    """A TOML string: JSON's escapes are TOML's as well."""
    return json.dumps(text)
