"""What the server counts, for Prometheus. Counted after the commit of what is counted, and lost at a restart."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, disable_created_metrics, generate_latest

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each counter, which nobody asks for


class Metrics:
    """One registry for one server process; its counters may be raised from any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "dbward_requests",
            "Requests made, by the status they began with.",
            ("status", "environment", "database"),
            registry=self._registry,
        )
        self.break_glass = self._counter("dbward_break_glass", "Requests that ran without approval, in an emergency.")
        self.ddl_attempted = self._counter(
            "dbward_break_glass_ddl_attempted", "Emergencies that asked to change the schema."
        )
        self.ddl_allowed = self._counter("dbward_break_glass_ddl_allowed", "Those of them that ran.")
        self.ddl_denied = self._counter("dbward_break_glass_ddl_denied", "Those of them that were refused.")
        self.preflights = Counter(
            "dbward_preflights", "Preflights, by their answer.", ("status",), registry=self._registry
        )

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self._registry)

    def exposition(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)
