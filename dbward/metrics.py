"""What one server process counts, for Prometheus: after the commit of what is counted, and from zero at each start.

What replicas share is not here: `services.monitoring` reads it from the state when it is asked for. Every label has few
values, known beforehand: names of targets are those of the configuration, and anything else is `other`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.metrics_core import Metric

from dbward import VERSION
from dbward.domain.model import Target

OTHER: Final = "other"
UNMATCHED: Final = "<unmatched>"

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
STATEMENT_BUCKETS: Final = (*BUCKETS, 300.0, 900.0, 3600.0)
APPROVAL_BUCKETS: Final = (*STATEMENT_BUCKETS, 14_400.0, 86_400.0)
"""People take their time."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each counter, which nobody asks for


class Metrics:
    """One registry for one server process; everything in it may be raised from any thread.

    `targets`: those whose names may become labels; may be replaced when the configuration is.
    """

    def __init__(self, targets: Collection[Target] = ()) -> None:
        self.targets = frozenset(targets)
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        where = ("environment", "database")
        self._requests = self._counter(
            "dbward_requests",
            "Requests, by each status they were given: when made, and with every change.",
            "status",
            *where,
        )
        self.approvals = self._counter(
            "dbward_approvals", "Decisions of approvers.", "action", values=("approve", "reject")
        )
        self.break_glass = self._counter("dbward_break_glass", "Requests that ran without approval, in an emergency.")
        self.ddl_attempted = self._counter(
            "dbward_break_glass_ddl_attempted", "Emergencies that asked to change the schema."
        )
        self.ddl_allowed = self._counter("dbward_break_glass_ddl_allowed", "Those of them that ran.")
        self.ddl_denied = self._counter("dbward_break_glass_ddl_denied", "Those of them that were refused.")
        self.break_glass_audit_failure = self._counter(
            "dbward_break_glass_audit_failure", "Emergencies that did not run as they could not be put on the record."
        )
        self.executions = self._counter(
            "dbward_agent_executions",
            "Executions, by how they ended; one that was lost and reported later counts as both.",
            "status",
            values=("completed", "failed", "refused", "cancelled", "unknown", "lost"),
        )
        self.auth_failures = self._counter(
            "dbward_auth_failures",
            "Calls without valid credentials.",
            "reason",
            values=("missing", "malformed", "unknown", "expired", "revoked", "suspended"),
        )
        self.rate_limited = self._counter(
            "dbward_rate_limited",
            "Calls over a limit.",
            "limit",
            values=("reads", "writes", "polls", "preflights", "sign_ins"),
        )
        self.lease_expirations = self._counter(
            "dbward_agent_lease_expirations", "Claimed or running executions whose agent was not heard of any more."
        )
        self.webhook_deliveries = self._counter("dbward_webhook_deliveries", "Attempts to deliver a webhook.", "status")
        self.result_storage = self._counter(
            "dbward_result_storage",
            "Results stored, removed, or not stored.",
            "status",
            values=("stored", "purged", "failed"),
        )
        self.backups = self._counter(
            "dbward_backups", "Backups of the state.", "status", values=("made", "failed", "not_removed")
        )
        self.last_backup = Gauge(
            "dbward_last_backup_timestamp_seconds",
            "When this process last made a backup of the state; 0 before that.",
            registry=self.registry,
        )
        self.background_panics = self._counter("dbward_background_panics", "Background work that failed unexpectedly.")
        self.preflights = self._counter("dbward_preflights", "Preflights, by their answer.", "status")
        self.audit_appends = self._counter("dbward_audit_appends", "Events appended to the audit log.")
        self.approval_wait = self._histogram(
            "dbward_approval_wait_seconds", "From the submission of a request to its last approval.", APPROVAL_BUCKETS
        )
        self._execution_duration = self._histogram(
            "dbward_execution_duration_seconds",
            "How long statements ran, by the agent's clock.",
            STATEMENT_BUCKETS,
            *where[::-1],
        )
        self._http = self._counter("dbward_http_requests", "HTTP requests answered.", "method", "path", "status")
        self._http_duration = self._histogram(
            "dbward_http_request_duration_seconds",
            "From a request's head to the head of its answer; calls that waited for something are left out.",
            BUCKETS,
            "method",
            "path",
        )
        self.waiting = Gauge(
            "dbward_waiting_calls", "Calls that are waiting for something at the moment.", registry=self.registry
        )
        self.housekeeping = Gauge(
            "dbward_housekeeping",
            "1 on the server that does the housekeeping for all on its state.",
            registry=self.registry,
        )
        self.config_behind = Gauge(
            "dbward_config_behind",
            "1 while this server keeps another configuration than the one in force on its state.",
            registry=self.registry,
        )
        info = Gauge("dbward_build_info", "1, with the version as a label.", ("version",), registry=self.registry)
        info.labels(VERSION).set(1)
        # A child is looked up by its labels once, not for each request.
        self._http_children: dict[tuple[str, str, int], Counter] = {}
        self._duration_children: dict[tuple[str, str], Histogram] = {}

    def families(self) -> Iterable[Metric]:
        """Everything there is, with its samples."""
        return self.registry.collect()

    def request_moved(self, status: str, target: Target) -> None:
        """A request was made with this status, or has changed to it."""
        self._requests.labels(status, *self._names(target)[::-1]).inc()

    def executed(self, target: Target, seconds: float) -> None:
        """A statement ran for so long, however it ended."""
        self._execution_duration.labels(*self._names(target)).observe(seconds)

    def limited(self, limit: str) -> None:
        """A call was over one of the limits."""
        self.rate_limited.labels(limit).inc()

    def answered(self, method: str, path: str | None, status: int, seconds: float | None) -> None:
        """A call was answered. `path` is its route's template; `seconds` None for one that waited."""
        method = method if method in _METHODS else OTHER
        path = path or UNMATCHED
        counter = self._http_children.get((method, path, status))
        if counter is None:
            counter = self._http_children[method, path, status] = self._http.labels(method, path, str(status))
        counter.inc()
        if seconds is not None:
            duration = self._duration_children.get((method, path))
            if duration is None:
                duration = self._duration_children[method, path] = self._http_duration.labels(method, path)
            duration.observe(seconds)

    def _names(self, target: Target) -> tuple[str, str]:
        return (target.database, target.environment) if target in self.targets else (OTHER, OTHER)

    def _counter(self, name: str, text: str, *labels: str, values: Iterable[str] = ()) -> Counter:
        """`values` of the one label that are there from the start, so that a first event is seen as an increase."""
        made = Counter(name, text, labels, registry=self.registry)
        for value in values:
            made.labels(value)
        return made

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)
