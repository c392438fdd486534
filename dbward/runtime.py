"""The parts of a running server, opened once and handed to every use case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from threading import Lock

from dbward import keys
from dbward.allowance import Allowances, Places
from dbward.broker.publish import Publisher
from dbward.broker.wake import EVERYBODY, Hub
from dbward.db import identities
from dbward.db.engine import Store, end_process, open_store
from dbward.errors import Misconfigured
from dbward.identity.keys import ProviderKeys
from dbward.keys import Keys
from dbward.metrics import Metrics
from dbward.results.local import LocalResults
from dbward.results.store import ResultStore
from dbward.settings.server import ResultSettings, ServerSettings
from dbward.tokencache import TokenCache


@dataclass(frozen=True, slots=True)
class Runtime:
    """What services are given. `now` is the only clock; `hub` wakes the calls that wait, each of which holds one of
    `polls`; who verifies the audit log holds `verifying`.

    `provider_keys` is None without single sign-on. `config_behind`: the servers on this state have a configuration that
    this one could not take over.
    """

    settings: ServerSettings
    store: Store
    hub: Hub
    publisher: Publisher
    results: ResultStore
    keys: Keys
    tokens: TokenCache
    provider_keys: ProviderKeys | None
    metrics: Metrics
    allowances: Allowances
    polls: Places
    now: Callable[[], datetime]
    _close: Callable[[], None] = field(repr=False)
    verifying: Lock = field(default_factory=Lock, repr=False)
    config_behind: bool = False

    def close(self) -> None:
        """Wake every waiting call, finish queued writes, close the database and the result store."""
        self._close()
        if self.provider_keys is not None:
            self.provider_keys.close()


class Current:
    """The runtime in force. A reload replaces it whole: take it once for each piece of work, and again after a wait."""

    __slots__ = ("_rt",)

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt

    def get(self) -> Runtime:
        return self._rt

    def put(self, rt: Runtime) -> None:
        """For the thread that reloads, and nobody else."""
        self._rt = rt


def with_settings(rt: Runtime, settings: ServerSettings) -> Runtime:
    """The same parts under other settings, as far as they may change while the server runs.

    Keys of an identity provider that is another one now are fetched anew. Those of the former are closed by whoever
    has put the new runtime into force.
    """
    return replace(
        rt,
        settings=settings,
        provider_keys=rt.provider_keys if _provider(settings) == _provider(rt.settings) else _provider_keys(settings),
        config_behind=False,
    )


def _provider(settings: ServerSettings) -> tuple[str, str | None] | None:
    return (settings.oidc.issuer, settings.oidc.jwks_uri) if settings.oidc is not None else None


def _provider_keys(settings: ServerSettings) -> ProviderKeys | None:
    provider = _provider(settings)
    return ProviderKeys(*provider) if provider is not None else None


def utc_now() -> datetime:
    return datetime.now(UTC)


def open_runtime(
    settings: ServerSettings,
    *,
    now: Callable[[], datetime] = utc_now,
    on_fatal: Callable[[BaseException], None] = end_process,
) -> Runtime:
    """Open everything `prepare` has laid out. The database is open from here on: never call this before a fork.

    `on_fatal` is called when a SQLite file can no longer be trusted.
    """
    signing = keys.load(settings.state_dir)
    results = open_results(settings.results)
    hub = Hub()
    tokens = TokenCache()

    def wake(channels: frozenset[str]) -> None:
        if not channels.isdisjoint({identities.CHANGED, EVERYBODY}):
            tokens.forget_all()  # before anybody is woken: a call that waited is authenticated again
        hub.fire(channels)

    metrics = Metrics(settings.policy.targets)
    store = open_store(
        settings.state,
        on_wake=wake,
        on_moved=lambda row: metrics.request_moved(row.status, row.target),
        on_fatal=on_fatal,
    )

    def close() -> None:
        hub.close()
        store.close()
        results.close()

    return Runtime(
        settings=settings,
        store=store,
        hub=hub,
        publisher=Publisher(now),
        results=results,
        keys=signing,
        tokens=tokens,
        provider_keys=_provider_keys(settings),
        metrics=metrics,
        allowances=Allowances(),
        polls=Places(settings.http.max_polls),
        now=now,
        _close=close,
    )


def open_results(settings: ResultSettings) -> ResultStore:
    """Raises `Misconfigured` when the library of the chosen store is not installed."""
    if settings.backend == "local":
        return LocalResults(settings.root_dir)
    try:
        from dbward.results.s3 import S3Results
    except ModuleNotFoundError as e:
        raise Misconfigured(
            "result_storage.backend: `s3` needs a library that is not installed",
            code="result_store.unsupported",
            hint="install dbward[s3]",
        ) from e
    return S3Results(settings.s3)
