"""What the command line is told: flags over environment over project file over global file over defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, TypeVar

from dbward.errors import Misconfigured
from dbward.settings.load import Table, env_flag, environment, open_file
from dbward.settings.secret import Secret
from dbward.settings.server_oidc import refuse_url
from dbward.settings.transport import Transport, check_transport, check_url

ResultFormat = Literal["table", "json", "ndjson", "csv", "vertical"]
RESULT_FORMATS: Final[tuple[ResultFormat, ...]] = ("table", "json", "ndjson", "csv", "vertical")

DEFAULT_ENVIRONMENT = "development"
PROJECT_FILE = "dbward.toml"
HINT = "set DBWARD_SERVER_URL and DBWARD_TOKEN, or write them into [server] of ~/.config/dbward/config.toml"

T = TypeVar("T")

_GLOBAL, _FILE, _ENV = range(3)
"""How strong a layer is."""


@dataclass(frozen=True, slots=True)
class Flags:
    """The global options of the command line that take part; None and False mean: not given."""

    config: Path | None = None
    merge_global: bool = False
    database: str | None = None
    environment: str | None = None
    allow_insecure: bool = False


@dataclass(frozen=True, slots=True)
class Oidc:
    """`[server.oidc]`: the identity provider that `dbward login` goes to.

    `discovery_url` is where it describes itself when that is not below the issuer. `backchannel_url` is how this
    machine reaches it and `browser_url` how a browser does, where these differ from the issuer. Empty `scopes`: the
    usual ones.
    """

    issuer: str
    client_id: str
    discovery_url: str | None = None
    backchannel_url: str | None = None
    browser_url: str | None = None
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """`address` is that of the server, None when nothing names one: commands that ask no server need none.

    `wanted_database` is what flag or environment ask for; `databases` what the project file lists. `migrations_dirs`
    holds the directories of single databases, `migrations_dir` the common one. `logins_dir` is where `dbward login`
    keeps what it got; None where there is no home directory.
    """

    address: str | None
    token: Secret | None
    transport: Transport | None
    wanted_database: str | None = None
    wanted_environment: str | None = None
    default_database: str | None = None
    default_environment: str | None = None
    databases: tuple[str, ...] = ()
    migrations_dir: Path = Path("migrations")
    migrations_dirs: Mapping[str, Path] = field(default_factory=dict)
    results_dir: Path | None = None
    result_format: ResultFormat = "table"
    oidc: Oidc | None = None
    logins_dir: Path | None = None
    files: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Raises `Misconfigured` when nothing says which server."""
        if self.address is None:
            raise Misconfigured("which server? no URL is configured", hint=HINT)
        return self.address

    def database(self) -> str:
        """The database commands work on. Raises `Misconfigured` when nothing says which."""
        if self.wanted_database is not None:
            if self.databases and self.wanted_database not in self.databases:
                raise Misconfigured(
                    f"database {self.wanted_database!a} is not listed in [databases]",
                    hint=f"listed: {', '.join(self.databases)}",
                )
            return self.wanted_database
        if self.default_database is not None:
            return self.default_database
        if len(self.databases) == 1:
            return self.databases[0]
        raise Misconfigured("which database?", hint="pass --database, or set default_database in dbward.toml")

    def migrations(self) -> Path:
        """Where the migration files of that database are. With several databases each has a directory of its own.

        Raises `Misconfigured` when nothing says which database.
        """
        if len(self.databases) <= 1 and self.wanted_database is None:
            name = self.databases[0] if self.databases else ""
            return self.migrations_dirs.get(name, self.migrations_dir)
        name = self.database()
        common = self.migrations_dir if len(self.databases) <= 1 else self.migrations_dir / name
        return self.migrations_dirs.get(name, common)

    def environment(self) -> str:
        return self.wanted_environment or self.default_environment or DEFAULT_ENVIRONMENT


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one file says; None where it says nothing."""

    rank: int
    name: str
    url: str | None = None
    token: str | None = None
    oidc: Oidc | None = None
    allow_insecure: bool | None = None
    default_database: str | None = None
    default_environment: str | None = None
    databases: tuple[str, ...] = ()
    migrations_dir: Path | None = None
    migrations_dirs: Mapping[str, Path] = field(default_factory=dict)
    results_dir: Path | None = None
    result_format: ResultFormat | None = None


def load_client(
    env: Mapping[str, str] | None = None, cwd: Path | None = None, flags: Flags | None = None
) -> ClientSettings:
    """Put the layers together. Raises `Misconfigured` with every mistake of every file, and never for a missing URL."""
    env = environment() if env is None else env
    cwd = Path.cwd() if cwd is None else cwd
    flags = flags or Flags()
    warnings: list[str] = []
    layers = _read_layers(env, cwd, flags, warnings)
    url, url_rank = _pick(layers, "url", env.get("DBWARD_SERVER_URL"))
    token, oidc, credential_rank = _credential(layers, env)
    if url is not None and credential_rank is not None and url_rank > credential_rank:
        raise Misconfigured(
            f"the server's URL comes from {_place(layers, url_rank)}, the credential from "
            f"{_place(layers, credential_rank)}: a token is only sent where its own source, or a weaker one, points",
            hint="give the token in the same place as the URL",
        )
    allow = _allow_insecure(layers, env, flags)
    transport = None if url is None else check_transport(url, allow_insecure=allow and oidc is None)
    if transport == "insecure":
        warnings.append(f"plain http to {url}: everyone on the way can read the token and the results")
    project = layers[-1] if layers else _Layer(_ENV, "environment")
    return ClientSettings(
        address=None if url is None else check_url(url),
        token=None if token is None else Secret(token),
        transport=transport,
        wanted_database=flags.database or env.get("DBWARD_DATABASE") or None,
        wanted_environment=flags.environment or env.get("DBWARD_ENV") or None,
        default_database=_last(layer.default_database for layer in layers),
        default_environment=_last(layer.default_environment for layer in layers),
        databases=project.databases,
        migrations_dir=project.migrations_dir or cwd / "migrations",
        migrations_dirs=project.migrations_dirs,
        results_dir=_last(layer.results_dir for layer in layers),
        result_format=_last(layer.result_format for layer in layers) or "table",
        oidc=oidc,
        logins_dir=None if (everywhere := global_path(env)) is None else everywhere.parent / "credentials",
        files=tuple(layer.name for layer in layers),
        warnings=tuple(warnings),
    )


def broker_from_env(env: Mapping[str, str] | None = None) -> tuple[str, str]:
    """URL and token for `celery` and Flower, which are told by DBWARD_SERVER_URL and DBWARD_TOKEN alone."""
    env = environment() if env is None else env
    url, token = env.get("DBWARD_SERVER_URL"), env.get("DBWARD_TOKEN")
    missing = [n for n, value in (("DBWARD_SERVER_URL", url), ("DBWARD_TOKEN", token)) if not value]
    if not url or not token:
        raise Misconfigured(f"{' and '.join(missing)} must be set", hint="the token needs the permission metrics.view")
    check_transport(url, allow_insecure=env_flag(env, "DBWARD_ALLOW_INSECURE") or False)
    return check_url(url), token


def _read_layers(env: Mapping[str, str], cwd: Path, flags: Flags, warnings: list[str]) -> list[_Layer]:
    """Weakest first. Every file is read before the mistakes of all are raised."""
    wanted: list[tuple[int, Path]] = []
    config = flags.config or (Path(env["DBWARD_CONFIG"]) if env.get("DBWARD_CONFIG") else None)
    everywhere = global_path(env)
    if (config is None or flags.merge_global) and everywhere is not None and everywhere.is_file():
        wanted.append((_GLOBAL, everywhere))
    if config is not None:
        wanted.append((_FILE, cwd / config.expanduser()))
    elif (cwd / PROJECT_FILE).is_file():
        wanted.append((_FILE, cwd / PROJECT_FILE))
    layers: list[_Layer] = []
    mistakes: list[str] = []
    for rank, path in wanted:
        try:
            layers.append(_read_file(rank, path, env, warnings))
        except Misconfigured as e:
            mistakes += (e.detail or {}).get("problems", [e.message])
    if mistakes:
        raise Misconfigured("\n".join(mistakes), detail={"problems": mistakes})
    if config is None and layers and layers[-1].rank == _FILE and layers[-1].token:
        warnings.append(f"{layers[-1].name} holds a token; keep tokens out of project files, which get shared")
    return layers


def global_path(env: Mapping[str, str]) -> Path | None:
    """Where a person's own settings are; None where there is no home directory."""
    base = env.get("XDG_CONFIG_HOME") or (f"{env['HOME']}/.config" if env.get("HOME") else None)
    return None if base is None else Path(base) / "dbward" / "config.toml"


def _read_file(rank: int, path: Path, env: Mapping[str, str], warnings: list[str]) -> _Layer:
    root, problems, _ = open_file(path, env)
    server, results = root.table("server"), root.table("results")
    url = server.maybe("url")
    if url is not None:
        try:
            url = check_url(url)
        except ValueError as e:
            server.wrong("url", str(e))
    result_format = results.choice("format", "table", RESULT_FORMATS)
    databases = _read_databases(root, path.parent)
    allow_insecure = server.flag("allow_insecure", default=False)
    layer = _Layer(
        rank=rank,
        name=str(path),
        url=url,
        token=server.maybe("token"),
        oidc=_read_oidc(server.table("oidc"), present=server.has("oidc")),
        allow_insecure=allow_insecure if server.has("allow_insecure") else None,
        default_database=root.maybe("default_database"),
        default_environment=root.maybe("default_environment"),
        databases=tuple(databases),
        migrations_dir=_path(root.maybe("migrations_dir"), path.parent),
        migrations_dirs={name: where for name, where in databases.items() if where is not None},
        results_dir=_path(results.maybe("dir"), path.parent, env),
        result_format=result_format if results.has("format") else None,
    )
    problems.finish()
    if rank == _GLOBAL and (root.has("migrations_dir") or root.has("databases")):
        warnings.append(f"{path}: migrations_dir and [databases] belong into a project's dbward.toml; ignored here")
        return replace(layer, databases=(), migrations_dir=None, migrations_dirs={})
    return layer


def _read_databases(root: Table, base: Path) -> dict[str, Path | None]:
    databases = root.table("databases")
    return {name: _path(databases.table(name).maybe("migrations_dir"), base) for name in databases.names()}


def _read_oidc(table: Table, *, present: bool) -> Oidc | None:
    if not present:
        return None
    for key in ("issuer", "discovery_url", "backchannel_url", "browser_url"):
        url = table.maybe(key)
        if url is not None and (wrong := refuse_url(url)) is not None:
            table.wrong(key, wrong)
    return Oidc(
        issuer=table.required("issuer"),
        client_id=table.required("client_id"),
        discovery_url=table.maybe("discovery_url"),
        backchannel_url=table.maybe("backchannel_url"),
        browser_url=table.maybe("browser_url"),
        scopes=table.texts("scopes"),
    )


def _path(text: str | None, base: Path, env: Mapping[str, str] | None = None) -> Path | None:
    if text is None:
        return None
    if env is not None and text.startswith("~/") and env.get("HOME"):
        return Path(env["HOME"]) / text[2:]
    return base / text


def _pick(layers: list[_Layer], key: Literal["url", "token"], from_env: str | None) -> tuple[str | None, int]:
    if from_env:
        return from_env, _ENV
    for layer in reversed(layers):
        value: str | None = getattr(layer, key)
        if value:
            return value, layer.rank
    return None, _GLOBAL


def _credential(layers: list[_Layer], env: Mapping[str, str]) -> tuple[str | None, Oidc | None, int | None]:
    """Token, identity provider, and where the stronger of them comes from. A project that names a provider of its own
    does not get the global token."""
    token, token_rank = _pick(layers, "token", env.get("DBWARD_TOKEN"))
    oidc, oidc_rank = None, None
    for layer in layers:
        if layer.oidc is not None:
            oidc, oidc_rank = layer.oidc, layer.rank
    if token is not None and oidc_rank is not None and oidc_rank > token_rank:
        token = None
    return token, oidc, token_rank if token is not None else oidc_rank


def _allow_insecure(layers: list[_Layer], env: Mapping[str, str], flags: Flags) -> bool:
    if flags.allow_insecure:
        return True
    over = env_flag(env, "DBWARD_ALLOW_INSECURE")
    return over if over is not None else _last(layer.allow_insecure for layer in layers) or False


def _last(values: Iterable[T | None]) -> T | None:
    """The strongest layer's word."""
    found = None
    for value in values:
        found = value if value is not None else found
    return found


def _place(layers: list[_Layer], rank: int) -> str:
    if rank == _ENV:
        return "the environment"
    return next(layer.name for layer in layers if layer.rank == rank)
