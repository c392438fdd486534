"""The checks of `dbward doctor --server`, where the server runs: settings, state, results, keys, people and policy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from dbward import VERSION, keys, signalling
from dbward.backups import places
from dbward.cli.diagnosis.agents import check_agents
from dbward.cli.diagnosis.files import (
    CORRECT,
    anybody_may,
    check_config_access,
    check_directory,
    check_references,
    others_may,
    passwords_of,
)
from dbward.cli.diagnosis.model import Check, config_read, failed, passed, refused, skipped, warned
from dbward.cli.diagnosis.oidc import check_provider
from dbward.cli.diagnosis.policy import check_policy
from dbward.cli.diagnosis.reach import Reached, reach
from dbward.cli.onhost import read_admin_token, refuse_port, url_of
from dbward.client.http import ApiClient
from dbward.db import connect
from dbward.db.lock import StateLock
from dbward.db.look import look
from dbward.domain import roles
from dbward.domain.model import MAX_SKEW, Principal
from dbward.errors import DbwardError, Misconfigured
from dbward.identity.discovery import discover
from dbward.runtime import open_results
from dbward.services.backup import open_place
from dbward.services.bootstrap import ADMIN_TOKEN, AGENT_TOKEN, REQUESTER_TOKEN
from dbward.settings.load import Source
from dbward.settings.server import ServerSettings, load_server

SECRET_FILES: Final = (keys.EXECUTION_KEY, keys.AUDIT_KEY, ADMIN_TOKEN, AGENT_TOKEN, REQUESTER_TOKEN)
DISK_FAIL_BYTES: Final = 100 * 1024 * 1024
DISK_WARN_BYTES: Final = 1024 * 1024 * 1024
TOKEN_WARN: Final = timedelta(days=14)


class Server:
    """The checks in order; `secrets` must not be shown."""

    def __init__(self, source: Source, env: Mapping[str, str], seconds: float, url: str | None) -> None:
        self._source = source
        self._env = env
        self._seconds = seconds
        self._url = url
        self._closing = ExitStack()
        self.secrets: list[str] = []

    def close(self) -> None:
        self._closing.close()

    def checks(self) -> Iterator[Check]:
        yield check_references(self._source, self._env)
        try:
            settings = load_server(self._source, self._env)
        except Misconfigured as e:
            yield refused("config_parse", e, hint=CORRECT)
            return
        secrets = _secrets(settings)
        self.secrets += secrets
        yield _parsed(settings)
        yield check_config_access(self._source, self._env, secrets)
        yield check_directory("state_dir", settings.state_dir, "where the server keeps its keys and state")
        yield _state_access(settings)
        yield _disk(settings.state_dir)
        running, check = _running(settings.state_dir)
        yield check
        yield from self._state(settings, running=running)
        yield self._results(settings)
        yield from _backup(settings)
        if (oidc := settings.oidc) is not None:
            issuer, uri = oidc.issuer, oidc.jwks_uri
            yield check_provider("oidc_discovery", issuer, lambda http: uri or discover(http, issuer).jwks_uri)
        get: Callable[[str], Any] | None = None
        if running:
            found = Reached()
            yield from reach(self._url or url_of(settings.listen), self._seconds, found, skewed="warn")
            if found.health is not None:
                get, check = self._admin(settings)
                yield check
        else:
            yield _listen(settings.listen)
        if get is not None:
            yield _tokens(get)
            yield check_agents(get, [(target.database, target.environment) for target in settings.policy.targets])
        yield from check_policy(settings.policy, _people(settings, get))

    def _state(self, settings: ServerSettings, *, running: bool) -> Iterator[Check]:
        try:
            doubts = connect.check_filesystem(settings.state)
            local = settings.state.url.startswith("sqlite:")
            if doubts:
                yield warned("state_filesystem", doubts[0], "see docs/deployment/sqlite.md", doubts[1:])
            elif local:
                yield passed("state_filesystem", "its locks hold here")
            if running and local:
                yield passed("state_store", "SQLite, in use by the server that runs")
                return
            if not local or not settings.state_dir.exists():
                found = look(settings.state)
            else:
                with StateLock(settings.state_dir):
                    found = look(settings.state)
        except OSError as e:
            yield failed(
                "state_store", f"the state cannot be read: {e}", "run this as the user that the server runs as"
            )
            return
        except DbwardError as e:
            yield refused("state_store", e, hint="try the same URL with psql, from this machine")
            return
        if found is None or found.revision is None:
            yield passed("state_store", "empty; the first start fills it")
        elif not found.known:
            yield passed(
                "state_store", f"at revision {found.revision} of a newer version; this one works on it as well"
            )
        elif found.revision != found.newest:
            yield passed("state_store", f"at revision {found.revision}; the next start brings it to {found.newest}")
        else:
            yield passed("state_store", f"{'SQLite' if local else 'PostgreSQL'}, at revision {found.revision}")
        yield _keys(settings, signed=found is not None and found.revision is not None)
        if found is not None and found.clock is not None:
            yield _clock(found.clock)

    def _results(self, settings: ServerSettings) -> Check:
        if settings.results.backend == "local":
            return check_directory("result_store", settings.results.root_dir, "where results are kept")
        try:
            store = open_results(settings.results)
        except DbwardError as e:
            return refused("result_store", e)
        try:
            store.ping()
        except DbwardError as e:
            return refused("result_store", e, hint="are bucket, region, credentials and the role's permissions right?")
        finally:
            store.close()
        return passed("result_store", f"S3 bucket {settings.results.s3.bucket}: written to and listed")

    def _admin(self, settings: ServerSettings) -> tuple[Callable[[str], Any] | None, Check]:
        """How to ask the server as its first administrator, where that is still possible."""
        try:
            token = read_admin_token(settings.state_dir / ADMIN_TOKEN)
        except Misconfigured as e:
            return None, skipped("admin_token", f"what only the server knows is not looked at: {e.message}")
        self.secrets.append(token)
        api = ApiClient(self._url or url_of(settings.listen), token, version=VERSION)
        self._closing.callback(api.close)
        get = partial(api.get, answer_secs=self._seconds)
        try:
            get("/api/me")
        except DbwardError as e:
            return None, warned(
                "admin_token",
                f"the server does not accept {ADMIN_TOKEN}: {e.message}",
                "remove the file if the token was revoked on purpose; `server start --force-bootstrap` makes new ones",
            )
        return get, passed("admin_token", "the server accepts it")


def _secrets(settings: ServerSettings) -> list[str]:
    given = [user.token for user in settings.users]
    given += [settings.state.key_seed, settings.results.s3.secret_access_key]
    given += [hook.secret for hook in settings.features.webhooks]
    found = [secret.reveal() for secret in given if secret]
    if not settings.state.url.startswith("sqlite:"):
        found += [*passwords_of(settings.state.url), settings.state.url]
    return found


def _parsed(settings: ServerSettings) -> Check:
    found = f"{len(settings.policy.targets)} databases, {len(settings.policy.workflows)} workflows"
    return config_read(found, settings.warnings)


def _state_access(settings: ServerSettings) -> Check:
    paths = [settings.state_dir / name for name in SECRET_FILES]
    if settings.state.url.startswith("sqlite:"):
        paths.append(connect.sqlite_path(connect.parse_url(settings.state)))
    exposed = [text for path in paths for text in others_may(path, reading=True)]
    if not exposed:
        return passed("state_permissions", "keys, tokens and state are the server's alone")
    mend = "chmod 600 these files, and replace what may have been read"
    if any(anybody_may(path) for path in paths):
        return failed(
            "state_permissions", "everybody on this machine may read or change the server's secrets", mend, exposed
        )
    return warned(
        "state_permissions",
        "the server's group may read its secrets",
        f"{mend}; volumes of Kubernetes with an fsGroup are so",
        exposed,
    )


def _disk(state_dir: Path) -> Check:
    there = next(one for one in (state_dir, *state_dir.absolute().parents) if one.exists())
    free = shutil.disk_usage(there).free
    said = f"{free / 1024**3:.1f} GiB free for {state_dir}"
    if free < DISK_FAIL_BYTES:
        return failed("disk", said, "make room: what cannot be recorded is refused")
    if free < DISK_WARN_BYTES:
        return warned("disk", said, "make room before it is full")
    return passed("disk", said)


def _running(state_dir: Path) -> tuple[bool, Check]:
    try:
        pid = signalling.running(state_dir)
    except Misconfigured as e:
        if e.code == "server.not_running":
            return False, skipped("server_running", "no server runs on this state; what only it knows is not looked at")
        return True, warned("server_running", e.message, e.hint)
    return True, passed("server_running", f"process {pid}")


def _listen(listen: tuple[str, int]) -> Check:
    host, port = listen
    if (why := refuse_port(host, port)) is not None:
        return failed("listen", f"{host}:{port} cannot be listened on: {why}", "choose another [server] listen")
    return passed("listen", f"{host}:{port} is free")


def _keys(settings: ServerSettings, *, signed: bool) -> Check:
    missing = keys.missing(settings.state_dir)
    if missing and signed and settings.state.key_seed is None:
        return failed(
            "signing_keys",
            f"{', '.join(missing)} missing in {settings.state_dir}, but the state was signed with it",
            "restore it from the backup of state_dir, or copy it from the server that shares the database",
        )
    return passed("signing_keys", "the first start makes them" if missing else "all there")


def _clock(theirs: datetime) -> Check:
    off = abs(datetime.now(UTC) - theirs)
    if off > MAX_SKEW:
        return warned(
            "state_clock",
            f"the clocks of this machine and of the state database are {off.total_seconds():.0f} s apart",
            "set both by NTP",
        )
    return passed("state_clock", "this machine and the state database agree on the time")


def _backup(settings: ServerSettings) -> Iterator[Check]:
    every = settings.backup.every
    if not settings.state.url.startswith("sqlite:"):
        return
    if every is None:
        yield warned("backup", "the state is not backed up on schedule", "set [backup] every_hours and target")
        return
    try:
        names = open_place(settings).names()
    except DbwardError as e:
        yield refused("backup", e)
        return
    made = max((at for name in names if (at := places.made_at(name)) is not None), default=None)
    if made is None:
        yield warned("backup", "there is no backup yet", "`dbward server backup` makes one now")
    elif (age := datetime.now(UTC) - made) > 2 * every:
        yield warned("backup", f"the newest is {age} old", "the server's log says why there is none since")
    else:
        yield passed("backup", f"{len(names)}, the newest of {made:%Y-%m-%d %H:%M} UTC")


def _tokens(get: Callable[[str], Any]) -> Check:
    try:
        listed = get("/api/tokens")["tokens"]
    except DbwardError as e:
        return refused("tokens", e)
    now = datetime.now(UTC)
    active = [token for token in listed if token["status"] == "active"]
    ends = [(token, datetime.fromisoformat(token["expires_at"])) for token in active if token["expires_at"] is not None]
    soon = [
        f"{token['id']} of {token['subject_type']} {token['subject_id']}: {at:%Y-%m-%d %H:%M} UTC"
        for token, at in ends
        if now < at < now + TOKEN_WARN
    ]
    if soon:
        return warned("tokens", "some expire soon", "make new ones with `dbward token create` and hand them over", soon)
    return passed("tokens", f"{len(active)} active; none expires within {TOKEN_WARN.days} days")


def _people(settings: ServerSettings, get: Callable[[str], Any] | None) -> list[Principal] | None:
    """Everybody who can sign in. None while the server does not run, and with single sign-on: then others may."""
    if get is None or settings.oidc is not None:
        return None
    try:
        users = get("/api/users")["users"]
    except DbwardError:
        return None
    return [
        Principal(
            user["id"],
            "user",
            roles=roles.resolve(user["roles"], user["groups"], settings.policy, None),
            groups=tuple(user["groups"]),
        )
        for user in users
        if user["status"] == "active"
    ]
