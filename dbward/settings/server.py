"""What `server.toml` says, as one frozen value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from dbward.canonical import sha256_hex
from dbward.domain.model import Dialect, PolicySet, Target
from dbward.domain.sql.classify import MAX_BYTES
from dbward.settings import server_access, server_backup, server_features, server_limits, server_policy
from dbward.settings.load import FromVariable, Source, Table, base_of, environment, open_file
from dbward.settings.logging import LogSettings, read_logging
from dbward.settings.secret import Secret
from dbward.settings.server_access import ConfiguredUser
from dbward.settings.server_backup import BackupSettings
from dbward.settings.server_features import Features
from dbward.settings.server_limits import Limits
from dbward.settings.server_oidc import OidcSettings

__all__ = ["BrokerSettings", "ConfiguredUser", "ServerSettings", "StateSettings", "load_server", "parse_listen"]

DEFAULT_LISTEN = ("127.0.0.1", 3000)
KEY_SEED_MIN = 32
DEFAULT_MAX_BYTES = 10 * 1024 * 1024

OVERRIDES: Final = {
    "DBWARD_STATE_URL": ("state", "url"),
    "DBWARD_KEY_SEED": ("state", "key_seed"),
    "DBWARD_METRICS_EMF_NAMESPACE": ("metrics", "emf_namespace"),
    "DBWARD_RESULT_STORAGE_BACKEND": ("result_storage", "backend"),
    "DBWARD_RESULT_STORAGE_BUCKET": ("result_storage", "bucket"),
    "DBWARD_RESULT_STORAGE_REGION": ("result_storage", "region"),
    "DBWARD_RESULT_STORAGE_PREFIX": ("result_storage", "prefix"),
    "DBWARD_RESULT_STORAGE_ENDPOINT": ("result_storage", "endpoint"),
    "DBWARD_RESULT_STORAGE_PATH_STYLE": ("result_storage", "path_style"),
}
"""What a deployment knows better than the file does: environment variables that win over it."""

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class StateSettings:
    """Where the state database is: `sqlite:////absolute/path` or `postgresql://…` (whose password is not printed).

    `exclusive` lets one process own the SQLite file; `lock_wait` is how long to wait for a predecessor to let go of it,
    None: as long as the file system calls for.
    With a `key_seed` the keys and the first tokens are made from it, alike on every server that has the same.
    """

    url: str = field(repr=False)
    exclusive: bool = True
    lock_wait: timedelta | None = None
    key_seed: Secret | None = None


@dataclass(frozen=True, slots=True)
class Retention:
    """`approval_ttl` is how long a request may stay pending when its workflow does not say."""

    request_ttl: timedelta = timedelta(days=90)
    audit_ttl: timedelta = timedelta(days=365)
    result_ttl: timedelta = timedelta(days=30)
    approval_ttl: timedelta = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class S3Settings:
    bucket: str = "dbward"
    region: str = "us-east-1"
    prefix: str = "results"
    endpoint: str | None = None
    access_key_id: str | None = None
    secret_access_key: Secret | None = None
    path_style: bool = False


@dataclass(frozen=True, slots=True)
class ResultSettings:
    """`max_persist_bytes` is the most one result may have, counted in encoded rows."""

    backend: Literal["local", "s3"]
    root_dir: Path
    max_persist_bytes: int = DEFAULT_MAX_BYTES
    s3: S3Settings = S3Settings()


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """`max_polls` calls may wait at once; `pin_cpu` keeps the server's threads on one core, which is faster."""

    max_polls: int = 512
    pin_cpu: bool = True
    max_body_bytes: int = 2 * 1024 * 1024
    graceful_timeout: timedelta = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """`lease` is how long an agent may be silent before its jobs are taken for lost, and `start_grace` how long after a
    start of the server nothing is. `max_wait` bounds a long-poll; `delivery_cap` is how often a job is handed out.
    """

    lease: timedelta = timedelta(seconds=60)
    start_grace: timedelta = timedelta(seconds=30)
    max_wait: timedelta = timedelta(seconds=25)
    delivery_cap: int = 5


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Everything the server is told. `warnings` are worth a line at start; `config_digest` names the file's content.

    `dialects` holds the targets whose dialect the file states; for the others the agent tells it. `emf_namespace` is
    that of the metrics on standard output, in CloudWatch's embedded format; None for none.
    """

    listen: tuple[str, int]
    state_dir: Path
    state: StateSettings
    policy: PolicySet
    results: ResultSettings
    backup: BackupSettings
    users: tuple[ConfiguredUser, ...] = ()
    dialects: Mapping[Target, Dialect] = field(default_factory=dict)
    trusted_proxies: tuple[Network, ...] = ()
    auth_mode: Literal["token"] = "token"
    max_active_tokens_per_user: int = 5
    oidc: OidcSettings | None = None
    retention: Retention = Retention()
    audit_redaction: Literal["literals", "full", "none"] = "literals"
    logging: LogSettings = field(default_factory=LogSettings)
    http: HttpSettings = HttpSettings()
    broker: BrokerSettings = BrokerSettings()
    emf_namespace: str | None = None
    limits: Limits = field(default_factory=Limits)
    max_detail_bytes: int = 100_000
    max_migration_bytes: int = 300_000
    dispatch_timeout: timedelta = timedelta(seconds=300)
    features: Features = field(default_factory=Features)
    config_digest: str = ""
    warnings: tuple[str, ...] = ()


def load_server(source: Source | str, env: Mapping[str, str] | None = None) -> ServerSettings:
    """Read the server's file. Raises `Misconfigured` with every mistake in it; relative paths start at its place."""
    env = environment() if env is None else env
    source = source if isinstance(source, FromVariable) else Path(source)
    root, problems, raw = open_file(source, env, overrides=OVERRIDES, files=True)
    base = base_of(source)
    warnings: list[str] = []

    state_dir = base / Path(root.required("state_dir")).expanduser()
    policy, dialects = server_policy.read_policy(root, warnings)
    access = server_access.read_access(root, policy, warnings)
    listen, http = _read_http(root.table("server"))
    requests = root.table("requests")
    state = _read_state(root.table("state"), state_dir)
    settings = ServerSettings(
        listen=listen,
        state_dir=state_dir,
        state=state,
        policy=access.policy,
        results=_read_results(root.table("result_storage"), base, state_dir),
        backup=server_backup.read_backup(
            root.table("backup"), base, state_dir, sqlite=state.url.startswith("sqlite"), warnings=warnings
        ),
        users=access.users,
        dialects=dialects,
        trusted_proxies=_read_proxies(root),
        max_active_tokens_per_user=access.max_active_tokens_per_user,
        oidc=access.oidc,
        retention=_read_retention(root.table("retention")),
        audit_redaction=root.table("audit").choice("redaction", "literals", ("literals", "full", "none")),
        logging=read_logging(root.table("logging"), env),
        http=http,
        broker=_read_broker(root.table("broker")),
        emf_namespace=_read_namespace(root.table("metrics")),
        limits=server_limits.read_limits(root.table("limits"), max_polls=http.max_polls),
        max_detail_bytes=requests.integer("max_detail_bytes", 100_000, least=1, most=MAX_BYTES),
        max_migration_bytes=requests.integer("max_migration_bytes", 300_000, least=1, most=16 * MAX_BYTES),
        dispatch_timeout=requests.secs("dispatch_timeout_secs", timedelta(seconds=300), least=1),
        features=server_features.read_features(root, policy.targets, warnings),
        config_digest=sha256_hex(raw),
        warnings=tuple(warnings),
    )
    for name in ("users", "auto_approve"):
        root.retired(name, f"[[{name}]] is not used any more: " + _RETIRED[name])
    problems.finish()
    return settings


def read_state_dir(source: Source, env: Mapping[str, str]) -> Path:
    """Where the file says that the state is, whatever else is in it. Raises `Misconfigured` when it does not say."""
    root, problems, _ = open_file(source, env, only=("state_dir",), files=True)
    state_dir = root.required("state_dir")
    problems.raise_found()
    return base_of(source) / Path(state_dir).expanduser()


def read_listen(source: Source, env: Mapping[str, str]) -> tuple[str, int]:
    """Where the file has the server listen, whatever else is in it. Raises `Misconfigured`."""
    root, problems, _ = open_file(source, env, only=("server",), files=True)
    listen, _ = _read_http(root.table("server"))
    problems.raise_found()
    return listen


_NAMESPACE = re.compile(r"(?!AWS/|:)[A-Za-z0-9._/#:-]{1,255}")

_RETIRED = {
    "users": "list people under [[auth.users]]",
    "auto_approve": "write [workflows.auto_approve] inside a [[workflows]] entry",
}


def parse_listen(text: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port` or `:port`. Raises `ValueError`."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        msg = "write an IPv6 address in brackets, [::1]:3000"
        raise ValueError(msg)
    if not colon or not port.isascii() or not port.isdigit() or not 0 <= int(port[:6]) <= 65535:
        msg = "must be host:port, such as 127.0.0.1:3000"
        raise ValueError(msg)
    return host or "0.0.0.0", int(port)  # noqa: S104 - `:3000` asks for all addresses


def _read_http(server: Table) -> tuple[tuple[str, int], HttpSettings]:
    listen = DEFAULT_LISTEN
    text = server.text("listen", "127.0.0.1:3000")
    try:
        listen = parse_listen(text)
    except ValueError as e:
        server.wrong("listen", str(e))
    return listen, HttpSettings(
        max_polls=server.integer("max_polls", 512, least=1, most=10_000),
        pin_cpu=server.flag("pin_cpu", default=True),
        max_body_bytes=server.integer("max_body_bytes", 2 * 1024 * 1024, least=64 * 1024, most=1024**3),
        graceful_timeout=server.secs("graceful_timeout_secs", timedelta(seconds=30), least=1),
    )


def _read_broker(broker: Table) -> BrokerSettings:
    return BrokerSettings(
        lease=broker.secs("lease_secs", timedelta(seconds=60), least=3),
        start_grace=broker.secs("start_grace_secs", timedelta(seconds=30)),
        max_wait=broker.secs("max_wait_secs", timedelta(seconds=25), least=1),
        delivery_cap=broker.integer("delivery_cap", 5, least=1, most=100),
    )


def _read_state(state: Table, state_dir: Path) -> StateSettings:
    url = state.maybe("url")
    return StateSettings(
        url=f"sqlite:///{state_dir / 'dbward.db'}" if url is None else _state_url(state, url),
        exclusive=state.flag("exclusive", default=True),
        lock_wait=state.maybe_secs("lock_wait_secs"),
        key_seed=_read_key_seed(state),
    )


def _read_key_seed(state: Table) -> Secret | None:
    seed = state.secret("key_seed")
    if seed is not None and len(seed.reveal()) < KEY_SEED_MIN:
        state.wrong("key_seed", f"must be at least {KEY_SEED_MIN} random characters")
    return seed


def _state_url(state: Table, url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if scheme == "postgres":
        scheme = "postgresql"
    if scheme == "postgresql" and separator:
        try:
            urlsplit(url).port  # noqa: B018 - reading it is the check
        except ValueError:
            state.wrong("url", "is not a URL")
        return f"postgresql://{rest}"
    if scheme == "sqlite" and rest.startswith("//"):
        return url
    state.wrong("url", "must be sqlite:////absolute/path or postgresql://user:password@host/database")
    return url


_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9_.!*'()-]+(/[A-Za-z0-9_.!*'()-]+)*")
_REGION = re.compile(r"[a-z0-9-]+")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+/?")


def _read_results(table: Table, base: Path, state_dir: Path) -> ResultSettings:
    root_dir = table.maybe("root_dir")
    backend: Literal["local", "s3"] = table.choice("backend", "local", ("local", "s3"))
    s3 = S3Settings(
        bucket=table.text("bucket", "dbward"),
        region=table.text("region", "us-east-1"),
        prefix=table.text("prefix", "results").strip("/"),
        endpoint=table.maybe("endpoint"),
        access_key_id=table.maybe("access_key_id"),
        secret_access_key=table.secret("secret_access_key"),
        path_style=table.flag("path_style", default=False),
    )
    for key, value, pattern, what in (
        ("bucket", s3.bucket, _BUCKET, "a bucket's name"),
        ("prefix", s3.prefix, _PREFIX, "letters, digits and -_.!*'() between slashes"),
        ("region", s3.region, _REGION, "a region such as eu-central-1"),
        ("endpoint", s3.endpoint, _ENDPOINT, "a URL such as https://s3.example.com, without a path or a login"),
    ):
        if value is not None and not pattern.fullmatch(value):
            table.wrong(key, f"must be {what}")
    if (s3.access_key_id is None) != (s3.secret_access_key is None):
        table.wrong("access_key_id", "goes together with secret_access_key")
    return ResultSettings(
        backend=backend,
        root_dir=state_dir / "results" if root_dir is None else base / Path(root_dir).expanduser(),
        max_persist_bytes=table.integer("max_persist_bytes", DEFAULT_MAX_BYTES, least=1024),
        s3=s3,
    )


def _read_retention(table: Table) -> Retention:
    usual = Retention()
    return Retention(
        request_ttl=table.days("request_ttl_days", usual.request_ttl),
        audit_ttl=table.days("audit_ttl_days", usual.audit_ttl),
        result_ttl=table.days("result_ttl_days", usual.result_ttl),
        approval_ttl=table.secs("approval_ttl_secs", usual.approval_ttl, least=1),
    )


def _read_namespace(metrics: Table) -> str | None:
    namespace = metrics.maybe("emf_namespace")
    if namespace is not None and not _NAMESPACE.fullmatch(namespace):
        metrics.wrong("emf_namespace", "must be up to 255 letters, digits and ._-/#:, and not begin with AWS/ or :")
    return namespace


def _read_proxies(root: Table) -> tuple[Network, ...]:
    found: list[Network] = []
    for text in root.texts("trusted_proxies"):
        try:
            found.append(ip_network(text.strip()))
        except ValueError as e:
            root.wrong("trusted_proxies", f"{text!a} is not an address or network ({str(e).rpartition(') ')[2]})")
    return tuple(found)
