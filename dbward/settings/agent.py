"""What `agent.toml` says, as one frozen value."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from dbward.domain.model import Operation, Target
from dbward.domain.names import parse_operation
from dbward.errors import Misconfigured
from dbward.settings import instance
from dbward.settings.load import FromVariable, Source, Table, base_of, env_flag, environment, open_file
from dbward.settings.logging import LogSettings, read_logging
from dbward.settings.secret import Secret
from dbward.settings.server_policy import accept, table_name
from dbward.settings.transport import check_transport, check_url

SCHEMES = ("postgres", "postgresql", "mysql", "mariadb", "sqlite")
DEFAULT_OPERATIONS = tuple(Operation)
"""A repair too: the server takes it in an emergency only, and without an agent for it nobody could mend a record."""
ALIVE_FILE = Path("/tmp/dbward-agent-alive")  # noqa: S108 - the path the deployment guides probe
READY_FILE = Path("/tmp/dbward-agent-ready")  # noqa: S108 - same
SCHEMA_INTERVAL = timedelta(hours=6)
"""Well within the day after which the server takes row estimates for outdated."""
_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class SchemaSync:
    """When the schemas of the databases are collected; `interval` None: only at start and after what changes them."""

    enabled: bool = True
    sync_on_startup: bool = True
    interval: timedelta | None = SCHEMA_INTERVAL


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Everything an agent is told. `agent_id` tells processes with the same token apart.

    `startup_max_wait` None waits for ever. `insecure` is set when the server is reached over plain http in public.
    """

    agent_id: str
    server_url: str
    agent_token: Secret
    databases: Mapping[Target, Secret]
    allow_insecure: bool = False
    insecure: bool = False
    max_concurrent_tasks: int = 2
    drain_timeout: timedelta = timedelta(seconds=60)
    statement_timeout: timedelta = timedelta(seconds=60)
    operations: tuple[Operation, ...] = DEFAULT_OPERATIONS
    startup_retry_initial: timedelta = timedelta(seconds=1)
    startup_retry_max: timedelta = timedelta(seconds=15)
    startup_max_wait: timedelta | None = timedelta(seconds=60)
    alive_file: Path = ALIVE_FILE
    ready_file: Path = READY_FILE
    logging: LogSettings = field(default_factory=LogSettings)
    schema_sync: SchemaSync = SchemaSync()
    warnings: tuple[str, ...] = ()


def load_agent(source: Source | str, env: Mapping[str, str] | None = None) -> AgentSettings:
    """Read the agent's file. Raises `Misconfigured` with every mistake in it; relative paths start at its place."""
    env = environment() if env is None else env
    source = source if isinstance(source, FromVariable) else Path(source)
    root, problems, _ = open_file(source, env, files=True)
    base = base_of(source)
    warnings: list[str] = []
    first = _milliseconds(root, "startup_retry_initial_ms", 1000)
    last = _milliseconds(root, "startup_retry_max_ms", 15_000)
    if first > last:
        root.wrong("startup_retry_initial_ms", "is over startup_retry_max_ms")
    server = root.table("server")
    url, allow_insecure, insecure = _read_server(server, env)
    if root.has("poll_interval_ms"):
        warnings.append("poll_interval_ms has no effect: jobs are handed over as they come")
    root.integer("poll_interval_ms", 1000, least=1)
    probe_dir = base / Path(root.text("probe_dir", str(ALIVE_FILE.parent))).expanduser()
    probe_base = probe_dir if root.has("probe_dir") else base
    settings = AgentSettings(
        agent_id=_read_id(root, env),
        server_url=url,
        agent_token=server.required_secret("agent_token"),
        databases=_read_databases(root, base),
        allow_insecure=allow_insecure,
        insecure=insecure,
        max_concurrent_tasks=root.integer("max_concurrent_tasks", 2, least=1, most=1000),
        drain_timeout=root.secs("drain_timeout_secs", timedelta(seconds=60)),
        statement_timeout=root.secs("statement_timeout_secs", timedelta(seconds=60), least=1),
        operations=_read_operations(root),
        startup_retry_initial=first,
        startup_retry_max=last,
        startup_max_wait=root.secs("startup_max_wait_secs", timedelta(seconds=60)) or None,
        alive_file=probe_base / Path(root.text("alive_file", str(probe_dir / ALIVE_FILE.name))).expanduser(),
        ready_file=probe_base / Path(root.text("ready_file", str(probe_dir / READY_FILE.name))).expanduser(),
        logging=read_logging(root.table("logging"), env),
        schema_sync=_read_schema_sync(root.table("schema_sync")),
        warnings=tuple(warnings),
    )
    if settings.alive_file == settings.ready_file:
        root.wrong("ready_file", "is the same file as alive_file")
    problems.finish()
    return settings


def _read_server(table: Table, env: Mapping[str, str]) -> tuple[str, bool, bool]:
    url = table.required("url")
    allowed = table.flag("allow_insecure", default=False)
    over = env_flag(env, "DBWARD_ALLOW_INSECURE")
    allowed = allowed if over is None else over
    insecure = False
    if url:
        try:
            url = check_url(url)
        except ValueError as e:
            table.wrong("url", str(e))
        else:
            try:
                insecure = check_transport(url, allowed) == "insecure"
            except Misconfigured as e:
                table.wrong("url", f"{e.message.removeprefix('server.url: ')}; {e.hint}")
    return url, allowed, insecure


def _read_id(root: Table, env: Mapping[str, str]) -> str:
    given = root.maybe("agent_id")
    if given is None:
        name = re.sub(r"[^A-Za-z0-9._-]", "-", instance.of_ecs(env) or socket.gethostname()).lstrip("._-")
        return name[:100] or "agent"
    if not _INSTANCE.fullmatch(given):
        root.wrong("agent_id", "must be up to 100 letters, digits, dots, dashes and underscores")
    return given


def _read_databases(root: Table, base: Path) -> dict[Target, Secret]:
    found: dict[Target, Secret] = {}
    databases = root.table("databases")
    for name in databases.names():
        table_name(databases, name, name, wildcard=False, what="database")
        environments = databases.table(name)
        for env_name in environments.names():
            table_name(environments, env_name, env_name, wildcard=False, what="environment")
            entry = environments.table(env_name)
            url = entry.required("url")
            if url:
                found[Target(name, env_name)] = Secret(_database_url(entry, url, base))
        if environments.present and not environments.names():
            environments.wrong("", f"names no environment: write [{environments.at('production')}]")
    if not databases.names():
        root.wrong("databases", "is required: at least one [databases.<name>.<environment>] with a url")
    return found


def _database_url(entry: Table, url: str, base: Path) -> str:
    """A relative SQLite path starts at the configuration file, as every path in it does."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        entry.wrong("url", f"must start with one of {', '.join(s + '://' for s in SCHEMES)}")
        return url
    if scheme == "sqlite":
        if not rest.startswith("/") or rest == "/":
            entry.wrong("url", "must be sqlite:////absolute/path or sqlite:///relative/path")
        elif not rest.startswith("//"):
            return f"sqlite:///{base / rest[1:]}"
    return url


def _read_operations(root: Table) -> tuple[Operation, ...]:
    if not root.has("operations"):
        root.texts("operations")
        return DEFAULT_OPERATIONS
    names = root.texts("operations")
    found = [accept(root, "operations", lambda name=name: parse_operation(name)) for name in names if name]  # type: ignore[misc]  # mypy infers no default
    if not names:
        root.wrong("operations", "must not be empty")
    return tuple(dict.fromkeys(operation for operation in found if operation is not None))


def _milliseconds(root: Table, key: str, default: int) -> timedelta:
    return timedelta(milliseconds=root.integer(key, default, least=1, most=3_600_000))


def _read_schema_sync(table: Table) -> SchemaSync:
    return SchemaSync(
        enabled=table.flag("enabled", default=True),
        sync_on_startup=table.flag("sync_on_startup", default=True),
        interval=table.secs("interval_secs", SCHEMA_INTERVAL) or None,
    )
