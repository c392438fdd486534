"""The checks of `dbward doctor --agent`: its settings, the server and its broker, and every database, by logging in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from dbward import VERSION
from dbward.broker.source_http import HttpSource
from dbward.cli.diagnosis.files import CORRECT, check_config_access, check_directory, check_references, passwords_of
from dbward.cli.diagnosis.model import Check, config_read, failed, passed, plain_http, refused, skipped, warned
from dbward.cli.diagnosis.reach import Health, Reached, numbers, reach
from dbward.client.agent_api import AgentApi
from dbward.domain.model import Dialect, Limits, Operation, Target
from dbward.errors import DbwardError, Misconfigured, Refused, Unauthorized
from dbward.settings.agent import AgentSettings, load_agent
from dbward.settings.load import Source
from worker.accounts import can_write
from worker.drivers import open_driver
from worker.drivers.base import Driver
from worker.links import is_encrypted
from worker.rows import Nowhere

_WRITES: Final = frozenset(Operation) - {Operation.EXECUTE_SELECT, Operation.MIGRATE_STATUS}
_AT_ONCE: Final = 8
"""Databases looked at together: each may take its whole time-out."""


class Agent:
    """The checks in order; `secrets` must not be shown."""

    def __init__(self, source: Source, env: Mapping[str, str], seconds: float) -> None:
        self._source = source
        self._env = env
        self._seconds = seconds
        self.secrets: list[str] = []

    def close(self) -> None:
        """Nothing is kept open."""

    def checks(self) -> Iterator[Check]:
        yield check_references(self._source, self._env)
        try:
            settings = load_agent(self._source, self._env)
        except Misconfigured as e:
            yield refused("config_parse", e, hint=CORRECT)
            return
        urls = [url.reveal() for url in settings.databases.values()]
        passwords = [password for url in urls for password in passwords_of(url)]
        self.secrets += [settings.agent_token.reveal(), *passwords, *urls]
        yield _parsed(settings)
        yield check_config_access(self._source, self._env, [settings.agent_token.reveal(), *passwords])
        yield _scheme(settings)
        found = Reached()
        yield from reach(settings.server_url, self._seconds, found, skewed="fail")
        yield from self._token(settings, found.health)
        yield check_directory("probe_files", settings.alive_file.parent, "where health checks look for its files")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for checks in pool.map(lambda target: self._database(target, settings), settings.databases):
                yield from checks

    def _token(self, settings: AgentSettings, health: Health | None) -> Iterator[Check]:
        names = ("agent_version", "agent_token_valid", "broker")
        if health is None:
            yield from (skipped(name, "the server is not reachable") for name in names)
            return
        yield _version(health)
        api = AgentApi(settings.server_url, settings.agent_token.reveal(), version=VERSION)
        try:
            api.public_key()
        except Unauthorized:
            yield failed(
                "agent_token_valid",
                "the server does not know this token, or it was revoked or has expired",
                "make one with `dbward token create --subject-type agent --subject NAME`, and write it into "
                "server.agent_token; that of the first start is in the server's state_dir",
            )
            yield skipped("broker", "the server does not accept the token")
            return
        except Refused as e:
            yield failed(
                "agent_token_valid", "the token is not an agent's", "an agent needs one of its own: " + e.message
            )
            yield skipped("broker", "the token is not an agent's")
            return
        except DbwardError as e:
            yield refused("agent_token_valid", e)
            yield skipped("broker", "the server did not answer")
            return
        finally:
            api.close()
        yield passed("agent_token_valid", "the server accepts it")
        yield _broker(settings)

    def _database(self, target: Target, settings: AgentSettings) -> list[Check]:
        name = f"database:{target}"
        text = settings.databases[target].reveal()
        try:
            driver = open_driver(_hurried(text, self._seconds))
        except Misconfigured as e:
            return [refused(name, e)]
        with closing(driver):
            try:
                _read(driver, self._seconds)
            except DbwardError as e:
                return [refused(name, e, hint="try the same URL with the database's own client, from this machine")]
            read = passed(name, f"{driver.dialect}: logged in, and read in a read-only transaction")
            return [read, _account(target, driver, settings.operations), *_link(target, driver, text)]


def _read(driver: Driver, seconds: float) -> None:
    """One statement on the path that queries take. Raises what the driver does."""
    limits = Limits(timedelta(seconds=seconds), max_rows=1, max_bytes=1024)
    with driver.open() as session:
        session.run(["SELECT 1"], read_only=True, limits=limits, sink=Nowhere())


def _parsed(settings: AgentSettings) -> Check:
    serves = f"serves {', '.join(map(str, settings.databases))}"
    return config_read(serves, settings.warnings, doubtful=f"read with doubts; {serves}")


def _scheme(settings: AgentSettings) -> Check:
    return plain_http(settings.server_url) if settings.insecure else passed("server_url_scheme", settings.server_url)


def _version(health: Health) -> Check:
    if numbers(VERSION) < numbers(health.min_agent_version):
        return failed(
            "agent_version",
            f"the server takes agents from version {health.min_agent_version} on, this one is {VERSION}",
            "upgrade the agent",
        )
    return passed("agent_version", f"the server takes agents of version {VERSION}")


def _broker(settings: AgentSettings) -> Check:
    source = HttpSource(settings.server_url, settings.agent_token.reveal())
    try:
        welcome = source.hello()
    except DbwardError as e:
        return refused("broker", e, hint="does a proxy let POST /api/broker/* through?")
    finally:
        source.close()
    return passed("broker", f"jobs can be fetched; a lease lasts {welcome.lease_ms // 1000} s")


def _account(target: Target, driver: Driver, operations: Sequence[Operation]) -> Check:
    name = f"account:{target}"
    offers = sorted(_WRITES.intersection(operations))
    writer = can_write(driver)
    if writer is None:
        return skipped(name, "whether the account can write cannot be told")
    if writer and not offers:
        return warned(
            name,
            "this agent only reads (`operations`), but the account in its URL can write",
            "give it a login with no right but to read: the last wall, should all others fall",
        )
    if not writer and offers:
        return warned(
            name,
            f"this agent offers {', '.join(offers)}, but the account in its URL can only read",
            'grant it what people should be able to ask for, or set operations = ["execute_select", "migrate_status"]',
        )
    return passed(name, "the account can write, and this agent offers that" if writer else "the account can only read")


def _link(target: Target, driver: Driver, url: str) -> Iterator[Check]:
    name = f"tls:{target}"
    if driver.dialect is Dialect.SQLITE or _is_here(url):
        return
    encrypted = is_encrypted(driver)
    if encrypted is None:
        yield skipped(name, "whether the connection is encrypted cannot be told")
    elif encrypted:
        yield passed(name, "the connection is encrypted")
    else:
        yield warned(
            name,
            "the connection is not encrypted: rows and statements can be read on the way",
            "add sslmode=verify-full (PostgreSQL) or ssl_mode=verify_identity (MySQL) to the URL",
        )


def _is_here(url: str) -> bool:
    """Whether the database is on this machine, where nobody stands between."""
    host = urlsplit(url).hostname or "localhost"
    return host.startswith("127.") or host in {"localhost", "::1"} or host.endswith(".localhost")


def _hurried(url: str, seconds: float) -> str:
    """The URL with our patience for connecting, unless it has one of its own."""
    scheme = url.partition("://")[0]
    if scheme == "sqlite" or "connect_timeout=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}connect_timeout={seconds:g}"
