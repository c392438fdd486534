"""The parts of a running server, opened once and handed to every use case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock

from dbward import keys
from dbward.allowance import Allowances, Places
from dbward.broker.publish import Publisher
from dbward.broker.wake import EVERYBODY, Hub
from dbward.db import identities
from dbward.db.engine import Store, open_store
from dbward.errors import Misconfigured
from dbward.identity.keys import ProviderKeys
from dbward.keys import Keys
from dbward.metrics import Metrics
from dbward.results.local import LocalResults
from dbward.settings.server import ServerSettings
from dbward.tokencache import TokenCache


@dataclass(frozen=True, slots=True)
class Runtime:
    """What services are given. `now` is the only clock; `hub` wakes the calls that wait, each of which holds one of
    `polls`; who verifies the audit log holds `verifying`.

    `provider_keys` is None without single sign-on.
    """

    settings: ServerSettings
    store: Store
    hub: Hub
    publisher: Publisher
    results: LocalResults
    keys: Keys
    tokens: TokenCache
    provider_keys: ProviderKeys | None
    metrics: Metrics
    allowances: Allowances
    polls: Places
    now: Callable[[], datetime]
    _close: Callable[[], None] = field(repr=False)
    verifying: Lock = field(default_factory=Lock, repr=False)

    def close(self) -> None:
        """Wake every waiting call, finish queued writes and close the database."""
        self._close()


def utc_now() -> datetime:
    return datetime.now(UTC)


def open_runtime(settings: ServerSettings, *, now: Callable[[], datetime] = utc_now) -> Runtime:
    """Open everything `prepare` has laid out. The database is open from here on: never call this before a fork."""
    if settings.results.backend != "local":
        raise Misconfigured(
            "result_storage.backend: only `local` is available in this version", code="result_store.unsupported"
        )
    signing = keys.load(settings.state_dir)
    results = LocalResults(settings.results.root_dir)
    hub = Hub()
    tokens = TokenCache()

    def wake(channels: frozenset[str]) -> None:
        if not channels.isdisjoint({identities.CHANGED, EVERYBODY}):
            tokens.forget_all()  # before anybody is woken: a call that waited is authenticated again
        hub.fire(channels)

    metrics = Metrics(settings.policy.targets)
    store = open_store(settings.state, on_wake=wake, on_moved=lambda row: metrics.request_moved(row.status, row.target))

    oidc = settings.oidc
    provider_keys = ProviderKeys(oidc.issuer, oidc.jwks_uri) if oidc is not None else None

    def close() -> None:
        hub.close()
        store.close()
        if provider_keys is not None:
            provider_keys.close()

    return Runtime(
        settings=settings,
        store=store,
        hub=hub,
        publisher=Publisher(now),
        results=results,
        keys=signing,
        tokens=tokens,
        provider_keys=provider_keys,
        metrics=metrics,
        allowances=Allowances(),
        polls=Places(settings.http.max_polls),
        now=now,
        _close=close,
    )
