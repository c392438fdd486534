"""The checks of `dbward doctor` for whoever types commands: settings, server, token, and what there is to work on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx2

from dbward import VERSION
from dbward.cli.credentials import Login
from dbward.cli.diagnosis.agents import check_agents
from dbward.cli.diagnosis.files import CORRECT, check_config_access, check_directory
from dbward.cli.diagnosis.model import Check, config_read, failed, passed, plain_http, refused, skipped, warned
from dbward.cli.diagnosis.oidc import check_provider
from dbward.cli.diagnosis.reach import Reached, reach
from dbward.client.http import ApiClient
from dbward.errors import DbwardError, Misconfigured, Refused
from dbward.identity.grants import find_provider
from dbward.settings.client import ClientSettings, Flags, load_client

VARIABLES: Final = (
    "DBWARD_CONFIG",
    "DBWARD_SERVER_URL",
    "DBWARD_TOKEN",
    "DBWARD_DATABASE",
    "DBWARD_ENV",
    "DBWARD_ALLOW_INSECURE",
    "DBWARD_YES",
)
"""What the command line reads from the environment."""

_FLAGS: Final = {"DBWARD_ALLOW_INSECURE", "DBWARD_YES"}
_SWITCHED: Final = frozenset({"", "0", "1", "false", "true", "no", "yes", "off", "on"})


class Client:
    """The checks in order. What they learn is kept for those that follow; `secrets` must not be shown."""

    def __init__(
        self, env: Mapping[str, str], cwd: Path, flags: Flags, seconds: float, transport: httpx2.BaseTransport | None
    ) -> None:
        self._env = env
        self._cwd = cwd
        self._flags = flags
        self._seconds = seconds
        self._transport = transport
        self._closing = ExitStack()
        self.secrets: list[str] = [env[name] for name in ("DBWARD_TOKEN",) if env.get(name)]

    def close(self) -> None:
        self._closing.close()

    def checks(self) -> Iterator[Check]:
        yield self._variables()
        try:
            settings = load_client(self._env, self._cwd, self._flags)
            url = settings.url
        except Misconfigured as e:
            name = "server_url_scheme" if e.code == "transport.insecure" else "config_parse"
            yield refused(name, e, hint=CORRECT)
            return
        if settings.token is not None:
            self.secrets.append(settings.token.reveal())
        yield _parsed(settings)
        yield from self._permissions(settings)
        yield _scheme(settings)
        found = Reached()
        yield from reach(url, self._seconds, found, skewed="warn", transport=self._transport)
        if settings.oidc is not None:
            oidc = settings.oidc
            yield check_provider("oidc_discovery", oidc.issuer, lambda http: find_provider(http, oidc).jwks_uri)
        yield from self._signed_in(settings, there=found.health is not None)
        if settings.results_dir is not None:
            yield check_directory("results_dir", settings.results_dir, "where results are saved")

    def _variables(self) -> Check:
        given = [name for name in VARIABLES if self._env.get(name)]
        odd = [name for name in given if name in _FLAGS and self._env[name].strip().lower() not in _SWITCHED]
        if odd:
            return warned(
                "env_vars", f"{', '.join(odd)}: neither true nor false, and so it means false", "say true or false"
            )
        return passed("env_vars", f"in effect: {', '.join(given)}" if given else "none of dbward's is set")

    def _permissions(self, settings: ClientSettings) -> Iterator[Check]:
        secrets = [settings.token.reveal()] if settings.token is not None else []
        checks = [check_config_access(Path(name), self._env, secrets) for name in settings.files]
        bad = [check for check in checks if check.status != "pass"]
        yield from bad or checks[-1:]

    def _signed_in(self, settings: ClientSettings, *, there: bool) -> Iterator[Check]:
        """`auth_configured` and what needs a good token."""
        behind = ("auth_valid", "databases_exist", "workflows_exist", "agents_serve")
        token, how = None, ""
        if settings.token is not None:
            token, how = settings.token.reveal(), "a token is configured"
        elif settings.oidc is not None and settings.logins_dir is not None:
            how = f"[server.oidc] {settings.oidc.issuer}"
            try:
                token = Login(settings.logins_dir, settings.url, settings.oidc).token()
                self.secrets.append(token)
            except DbwardError as e:
                yield warned("auth_configured", f"{how}, but {e.message}", e.hint or "run `dbward login`")
                yield from (skipped(name, "nobody is signed in") for name in behind)
                return
        if token is None:
            yield failed(
                "auth_configured",
                "there is nothing to sign in with",
                "set DBWARD_TOKEN, or write token or [server.oidc] into ~/.config/dbward/config.toml; the server's "
                "first start leaves tokens in its state_dir",
            )
            yield from (skipped(name, "there is nothing to sign in with") for name in behind)
            return
        yield passed("auth_configured", how)
        if not there:
            yield from (skipped(name, "the server is not reachable") for name in behind)
            return
        api = ApiClient(settings.url, token, version=VERSION, transport=self._transport)
        self._closing.callback(api.close)
        get = partial(api.get, answer_secs=self._seconds)
        try:
            me = get("/api/me")
        except DbwardError as e:
            yield refused(
                "auth_valid",
                e,
                hint="the server does not know this token, or it was revoked or has expired: ask for a "
                "new one, or run `dbward login`",
            )
            yield from (skipped(name, "the server does not accept the token") for name in behind[1:])
            return
        roles = ", ".join(role["name"] for role in me["roles"]) or "no role"
        yield passed("auth_valid", f"{me['subject_id']} ({roles})")
        yield from _inventory(get, settings)


def _parsed(settings: ClientSettings) -> Check:
    return config_read(", ".join(settings.files) or "the environment alone", settings.warnings)


def _scheme(settings: ClientSettings) -> Check:
    if settings.transport == "insecure":
        return plain_http(settings.url)
    return passed("server_url_scheme", f"{settings.url} ({settings.transport})")


def _inventory(get: Any, settings: ClientSettings) -> Iterator[Check]:
    """What the server has for this person to work on."""
    targets: list[dict[str, str]] = []
    try:
        targets = get("/api/databases")["databases"]
    except Refused:
        yield skipped("databases_exist", "you may not list databases")
    except DbwardError as e:
        yield refused("databases_exist", e)
    else:
        yield _databases(targets, settings)
    try:
        flows = get("/api/workflows")["workflows"]
    except Refused:
        yield skipped("workflows_exist", "you may not list workflows")
    except DbwardError as e:
        yield refused("workflows_exist", e)
    else:
        if flows:
            yield passed("workflows_exist", f"{len(flows)} in force")
        else:
            yield warned(
                "workflows_exist",
                "there is no workflow: every request is denied",
                "add [[workflows]] to the server's file",
            )
    yield check_agents(get, [(target["database"], target["environment"]) for target in targets])


def _databases(targets: list[dict[str, str]], settings: ClientSettings) -> Check:
    if not targets:
        return warned(
            "databases_exist",
            "there is no database that you may work on",
            "add [[databases]] to the server's file, or have an administrator give you a role that covers one",
        )
    known = {target["database"] for target in targets}
    wanted = [*settings.databases, settings.default_database, settings.wanted_database]
    if strange := sorted({name for name in wanted if name} - known):
        return warned(
            "databases_exist",
            f"configured here, and not among those you may work on: {', '.join(strange)}",
            f"the server has {', '.join(sorted(known))}",
        )
    return passed("databases_exist", ", ".join(f"{t['database']}/{t['environment']}" for t in targets))
