"""`/api/agents` and `/api/databases`, `/health` and `/ready`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dbward.client.answers.base import Answer, Count
from dbward.client.wire import ServedDatabase
from dbward.domain.model import Operation


class Target(Answer):
    database: str
    environment: str


class Capabilities(Answer):
    scopes: list[Target]
    operations: list[Operation]


class Job(Answer):
    """What an agent works at. `request_id` is null for a request that the caller may not see."""

    request_id: str | None
    operation: Operation
    elapsed_secs: int


class Agent(Answer):
    """One agent process. `last_poll_ago_secs` is at most 9999."""

    id: str
    status: Literal["healthy", "saturated", "draining", "offline"]
    version: str
    last_poll_ago_secs: Count
    in_flight: Count
    max_concurrent: Count
    uptime_secs: Count
    active_jobs: list[Job]
    capabilities: Capabilities
    databases: list[ServedDatabase]


class Queue(Answer):
    """Jobs of one target: waiting, in an agent's hands, and given up after too many deliveries."""

    database: str
    environment: str
    ready: Count
    leased: Count
    dead: Count
    oldest_job_age_secs: Count | None


class Agents(Answer):
    agents: list[Agent]
    queues: list[Queue]


class Databases(Answer):
    databases: list[Target]


class PublicKey(Answer):
    """Ed25519, 64 hex digits."""

    public_key: str


class Alive(Answer):
    status: Literal["ok"]
    version: str
    min_agent_version: str


class Ready(Answer):
    """`ok` and `degraded` come with what was checked; `starting`, and `waiting` for another server to let go of the
    state, with a `reason`.
    """

    status: Literal["ok", "degraded", "draining", "starting", "waiting"]
    checks: dict[str, str] = Field(default={})
    reason: str | None = None
