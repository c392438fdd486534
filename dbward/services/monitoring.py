"""What Prometheus is told: this process's counters, and what all replicas share, read from the state at that moment."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dbward.broker import store as broker
from dbward.broker.names import parse_job_queue
from dbward.broker.store import Depth
from dbward.db import agents, audit, requests
from dbward.domain.model import Status
from dbward.errors import Unavailable
from dbward.metrics import OTHER
from dbward.runtime import Runtime
from dbward.services.agents import status_of

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

OPEN: Final = (Status.PENDING, Status.APPROVED, Status.DISPATCHED, Status.RUNNING)
MISSED_FOR: Final = timedelta(hours=1)
"""Who has said goodbye is not missed, and who comes back under another name after a crash not for ever."""
AGENT_STATUSES: Final = ("healthy", "saturated", "draining", "offline")

SHARED: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "dbward_state_up": ("1 when the state database could be read for this answer.", ()),
    "dbward_requests_current": ("Requests that are under way, by status.", ("status",)),
    "dbward_agents": ("Agent processes known, by status.", ("status",)),
    "dbward_agents_active": ("Agent processes that are alive and take work.", ()),
    "dbward_agents_saturated": ("Agent processes that have no free slot.", ()),
    "dbward_queue_depth": ("Jobs that wait for an agent, by queue.", ("queue",)),
    "dbward_queue_oldest_seconds": ("How long the oldest waiting job has waited; 0 without one.", ("queue",)),
    "dbward_audit_head_sequence": ("The number of the last event in the audit log.", ()),
}
"""Gauges of shared state: what each says, and its labels. Every replica says the same."""

Samples = Iterable[tuple[Sequence[str], float]]


class _Read(Collector):
    """Families that were read before: `generate_latest` asks a registry, and a registry asks a collector."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def exposition(rt: Runtime) -> bytes:
    """All of it in Prometheus' text format. Without a state database what this process counted is told still."""
    rt.metrics.waiting.set(rt.polls.taken)
    try:
        shared = _shared(rt)
    except Unavailable:
        shared = {"dbward_state_up": [((), 0)]}
    registry = CollectorRegistry()
    registry.register(_Read([_family(name, samples) for name, samples in shared.items()]))
    return generate_latest(rt.metrics.registry) + generate_latest(registry)


def _shared(rt: Runtime) -> dict[str, Samples]:
    now = rt.now()
    with rt.store.read() as conn:
        current = requests.count_by_status(conn, OPEN)
        known = agents.all_agents(conn)
        depths = broker.depths(conn, now)
        end = audit.tail(conn)
    by_status = Counter(status_of(row, now) for row in known)
    queues = _queues(rt, depths)
    return {
        "dbward_state_up": [((), 1)],
        "dbward_requests_current": [((status,), current.get(status, 0)) for status in OPEN],
        "dbward_agents": [((status,), by_status[status]) for status in AGENT_STATUSES],
        "dbward_agents_active": [((), by_status["healthy"] + by_status["saturated"])],
        "dbward_agents_saturated": [((), by_status["saturated"])],
        "dbward_queue_depth": [((queue,), ready) for queue, (ready, _) in queues.items()],
        "dbward_queue_oldest_seconds": [((queue,), oldest) for queue, (_, oldest) in queues.items()],
        "dbward_audit_head_sequence": [((), end.seq if end is not None else 0)],
    }


def _queues(rt: Runtime, depths: Iterable[Depth]) -> dict[str, tuple[int, int]]:
    """Waiting jobs and the age of the oldest, by queue; those of targets that are configured no more are `other`."""
    found: dict[str, tuple[int, int]] = {}
    for depth in depths:
        target = parse_job_queue(depth.queue)
        if target is not None:
            name = depth.queue if target in rt.settings.policy.targets else OTHER
            ready, oldest = found.get(name, (0, 0))
            found[name] = (ready + depth.ready, max(oldest, depth.oldest_secs or 0))
    return found


def emf(rt: Runtime) -> str | None:
    """What a log line says so that CloudWatch makes metrics of it: agents, and jobs that wait for one, by state now.

    None where no namespace is configured. Replicas all say the same: look at maxima, not at sums.
    """
    namespace = rt.settings.emf_namespace
    if namespace is None:
        return None
    now = rt.now()
    with rt.store.read() as conn:
        known = agents.all_agents(conn)
        queues = _queues(rt, broker.depths(conn, now))
    by_status = Counter(status_of(row, now) for row in known)
    missed = [row for row in known if not row.draining and now - row.last_seen_at <= MISSED_FOR]
    values = {
        "AgentsActive": by_status["healthy"] + by_status["saturated"],
        "AgentsSaturated": by_status["saturated"],
        "AgentsOffline": sum(status_of(row, now) == "offline" for row in missed),
        "QueueDepth": sum(ready for ready, _ in queues.values()),
        "QueueOldestSeconds": max((oldest for _, oldest in queues.values()), default=0),
    }
    metrics = [{"Name": name, "Unit": "Seconds" if name.endswith("Seconds") else "Count"} for name in values]
    about = {"Namespace": namespace, "Dimensions": [[]], "Metrics": metrics}
    return json.dumps({"_aws": {"Timestamp": int(now.timestamp() * 1000), "CloudWatchMetrics": [about]}, **values})


def _family(name: str, samples: Samples) -> Metric:
    text, labels = SHARED[name]
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
