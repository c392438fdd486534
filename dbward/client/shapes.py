"""Bodies and filters of the public REST API, validated by the same types on both sides of the wire."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from dbward.domain.model import Status
from dbward.domain.notifications import DeliveryStatus

_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}")
_DATETIME: TypeAdapter[datetime] = TypeAdapter(datetime)

PAGE_MAX = 100
AUDIT_PAGE_MAX = 200
AUDIT_OFFSET_MAX = 10_000
AUDIT_COUNT_MAX = 10_000
"""The record is counted no further than this."""
OFFSET_MAX = 2**53
"""More than there ever is; a larger one is lowered, for not every database counts that far."""


def _rfc3339(value: Any) -> Any:
    """A time as text only: a number would be taken for seconds, and nobody who sends one means that."""
    if not isinstance(value, str):
        return value
    if not _RFC3339.match(value):
        raise ValueError("must be a time such as 2026-05-01T00:00:00Z")
    return _DATETIME.validate_python(value)


Moment = Annotated[datetime, BeforeValidator(_rfc3339)]
Limit = Annotated[int, Field(ge=0)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NewRequest(Body):
    """`POST /api/requests`."""

    database: str
    environment: str
    operation: str = ""
    detail: str
    reason: str | None = None
    idempotency_key: str | None = Field(default=None, min_length=1, max_length=255)
    metadata: dict[str, Any] = {}
    emergency: bool = False
    allow_ddl: bool = False
    no_result_store: bool = False
    share_with: list[str] = []


class NewPreflight(Body):
    """`POST /api/preflight`. `explain_timeout_ms` above the server's cap is lowered to it."""

    database: str
    environment: str
    sql: str
    operation: str | None = None
    include_explain: bool = True
    explain_timeout_ms: Annotated[int, Field(ge=1)] = 5000


class AppliedQuestion(Body):
    """Query of `GET /api/migrations/{database}/{environment}`: how long to wait for the agent's answer."""

    timeout_ms: Annotated[int, Field(ge=1, le=60_000)] = 20_000


class PolicyQuestion(Body):
    """Query of `GET /api/policy-resolution`."""

    database: str
    environment: str
    operation: str | None = None


class Approve(Body):
    comment: str | None = None
    selector: str | None = None


class Reject(Body):
    comment: str | None = None


class WithReason(Body):
    """Body of cancel and resume; may be absent."""

    reason: str | None = None


class RequestFilter(Body):
    """Query of `GET /api/requests`. Limits above the cap are lowered."""

    limit: Limit = 50
    offset: Annotated[int, Field(ge=0)] = 0
    status: Status | None = None
    user: str | None = None
    database: str | None = None
    environment: str | None = None
    operation: str | None = None
    since: Moment | None = None
    pending_for_me: bool = False


class SchemaFilter(Body):
    """Query of `GET /api/schemas/{database}`. `table` is `name` or `schema.name`; without it, all tables."""

    environment: str | None = None
    table: str | None = Field(default=None, min_length=1)
    summary: bool = True


class DeliveryFilter(Body):
    """Query of `GET /api/webhook-deliveries`. `webhook` is the id of one."""

    status: DeliveryStatus | None = None
    webhook: str | None = None
    limit: Limit = 50
    offset: Annotated[int, Field(ge=0)] = 0


class AuditMatch(Body):
    """Which events of the record are meant: exact matches, all of them at once. `since` and `until` are inclusive.

    `status` is another name of `outcome`.
    """

    actor_id: str | None = None
    actor_type: str | None = None
    event_type: str | None = None
    event_category: str | None = None
    outcome: str | None = None
    status: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    client_ip: str | None = None
    database: str | None = None
    environment: str | None = None
    operation: str | None = None
    request_id: str | None = None
    since: Moment | None = None
    until: Moment | None = None


class AuditFilter(AuditMatch):
    """Query of `GET /api/audit/events`. `before_seq`: only events older than that one, for reading page after page."""

    limit: Limit = 50
    offset: Annotated[int, Field(ge=0)] = 0
    before_seq: Annotated[int, Field(ge=1, le=OFFSET_MAX)] | None = None


class AuditExport(AuditMatch):
    """Query of `GET /api/audit/export`."""

    format: Literal["ndjson", "csv"] = "ndjson"


class ScopeCeiling(Body):
    roles: list[str]


class TokenScope(Body):
    """One target an agent token may serve; either part may be `*`."""

    database: str
    environment: str


class NewToken(Body):
    """`POST /api/tokens`."""

    subject_id: str = Field(min_length=1, max_length=128)
    subject_type: str
    name: str | None = Field(default=None, max_length=128)
    scope_ceiling: ScopeCeiling | None = None
    scopes: list[TokenScope] | None = None
    expires_at: Moment | None = None


class TokenFilter(Body):
    """Query of `GET /api/tokens`."""

    subject_id: str | None = None
    subject_type: Literal["user", "agent"] | None = None
    status: Literal["active", "revoked"] | None = None


UserRoles = Annotated[list[Annotated[str, Field(max_length=128)]], Field(max_length=200)]
"""Names of roles, or of groups."""


class NewUser(Body):
    """`POST /api/users`. Roles and groups must exist; without any, the default role must."""

    id: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_@.-]+$")
    roles: UserRoles = []
    groups: UserRoles = []
    display_name: str | None = Field(default=None, min_length=1, max_length=200)
    email: str | None = Field(default=None, min_length=3, max_length=320)


class UserChange(Body):
    """`PATCH /api/users/{id}`: what is left out stays. `roles` and `groups` replace, and do not go with `add_` and
    `rm_`. An empty text or null takes the Slack id, the name or the address away.
    """

    roles: UserRoles | None = None
    add_roles: UserRoles | None = None
    rm_roles: UserRoles | None = None
    groups: UserRoles | None = None
    add_groups: UserRoles | None = None
    rm_groups: UserRoles | None = None
    slack_user_id: str | None = Field(default=None, max_length=32, pattern=r"^([UW][A-Z0-9]+)?$")
    display_name: str | None = Field(default=None, max_length=200)
    email: str | None = Field(default=None, max_length=320)
