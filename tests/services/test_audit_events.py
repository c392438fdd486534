"""Every type of event is really written, about the right thing, by the right one and with the right outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from dbward.client.shapes import AuditExport, NewToken
from dbward.domain.audit import CATEGORY
from dbward.domain.model import SYSTEM, Event
from dbward.errors import Conflict, Refused, Unauthorized
from dbward.runtime import open_runtime
from dbward.services import api_tokens, audit, auditexport, bootstrap, housekeeping
from dbward.services.journal import CHECKPOINT_EVERY, record
from dbward.services.views import View
from tests.services.conftest import PEOPLE, Clock, Place, World, refused
from tests.services.test_preflight import ask
from tests.services.test_schemas import Hand, table
from tests.services.test_users import add, delete, edit, reissue

PENDING = {"auth.login_success", "backup.created", "state.restored"}
"""Written by a part that has tests of its own for it."""


@dataclass(frozen=True)
class Expected:
    """How an event is provoked, and what it must say. `reason` and `metadata`: what must be there, if anything."""

    provoke: Callable[[World], object]
    actor: tuple[str, str] = ("alice", "user")
    outcome: str = "success"
    resource: str | None = None
    reason: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def passed(_: World) -> None:
    """Nothing more is needed: a start writes it."""


def new_token(world: World) -> View:
    return api_tokens.create_token(world.rt, world.who("alice"), NewToken(subject_id="alice", subject_type="user"))


def unknown_token(world: World) -> None:
    with pytest.raises(Unauthorized):
        world.enter("dbw_" + "0" * 32)


def own_request(world: World) -> None:
    assert refused(lambda: world.approve("alice", world.create(environment="prod"))) == Refused.code


def rejected(world: World) -> None:
    world.reject("bob", world.create(environment="prod"), "not today")


def cancelled(world: World) -> None:
    world.cancel("alice", world.create(environment="prod"), "a typo")


def approved(world: World) -> None:
    world.approve("bob", world.create(environment="prod"), comment="fine")


def expired(world: World) -> None:
    world.create(environment="brief")
    world.clock.advance(seconds=61)
    world.keep_house()


def never_fetched(world: World) -> None:
    world.create()
    world.clock.advance(hours=1)
    world.keep_house()


def emergency(world: World) -> None:
    world.create("olga", "prod", emergency=True, reason="fire")


def emergency_with_ddl(world: World) -> None:
    world.create("olga", detail="DROP TABLE t", emergency=True, allow_ddl=True, reason="fire")


def blocked(world: World) -> None:
    assert refused(lambda: world.create(detail="DELETE FROM t", reason="clean up")) == "sql.blocked_by_review"


def released(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.fetch()
    agent.claim(made)
    agent.release(made)


def failed(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.begin(made)
    agent.complete(made, "failed")


def lost(world: World) -> None:
    world.agent().begin(world.create())
    world.clock.advance(days=1)
    world.keep_house()


def spent_twice(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.begin(made)
    with pytest.raises(Conflict):
        agent.start(made, nonce="another nonce of that job")


def read(world: World) -> None:
    world.envelope(world.executed())


def kept_too_long(world: World) -> None:
    world.executed()
    world.clock.advance(days=31)
    housekeeping.purge(world.rt)


def revoked(world: World) -> None:
    api_tokens.revoke_token(world.rt, world.who("alice"), new_token(world)["id"])


def reissued(world: World) -> None:
    add(world)
    reissue(world)


def deleted(world: World) -> None:
    add(world)
    delete(world, reason="left")


def left_a_group(world: World) -> None:
    add(world, groups=["dba"])
    edit(world, groups=[])


def exported(world: World) -> None:
    list(auditexport.export(world.rt, world.who("olga"), AuditExport(outcome="denied")))


def vouched(world: World) -> None:
    def work(tx: Any) -> None:
        for _ in range(CHECKPOINT_EVERY):
            record(world.rt, tx, Event.RESULT_PURGED, actor=SYSTEM)

    world.rt.store.write(work)


def purged(world: World) -> None:
    vouched(world)
    world.clock.advance(days=2)
    assert audit.purge(world.rt, timedelta(days=1))


OWN = ("system", "system")
AGENT = ("agent", "agent")
ADMIN = ("admin", "user")

EXPECTED = {
    Event.REQUEST_CREATED: Expected(
        lambda w: w.create(environment="prod", reason="why"), resource="request", reason="why"
    ),
    Event.REQUEST_AUTO_APPROVED: Expected(lambda w: w.create(reason="why"), resource="request", reason="why"),
    Event.REQUEST_BREAK_GLASS: Expected(emergency, actor=("olga", "user"), resource="request", reason="fire"),
    Event.REQUEST_DISPATCHED: Expected(lambda w: w.create(), resource="request"),
    Event.REQUEST_REFUSED: Expected(
        own_request, outcome="denied", resource="request", reason="requester", metadata={"action": "approve"}
    ),
    Event.REQUEST_BLOCKED_BY_REVIEW: Expected(
        blocked, outcome="denied", reason="clean up", metadata={"break_glass_attempted": False}
    ),
    Event.DDL_BREAK_GLASS_BYPASS: Expected(
        emergency_with_ddl, actor=("olga", "user"), resource="request", reason="fire", metadata={"reason": "fire"}
    ),
    Event.PREFLIGHT_ATTEMPTED: Expected(ask, metadata={"status": "requestable"}),
    Event.STEP_APPROVED: Expected(
        approved, actor=("bob", "user"), resource="request", metadata={"approval_comment": "fine", "step_number": 1}
    ),
    Event.REQUEST_APPROVED: Expected(
        approved, actor=("bob", "user"), resource="request", metadata={"approval_comment": "fine"}
    ),
    Event.REQUEST_REJECTED: Expected(rejected, actor=("bob", "user"), resource="request", reason="not today"),
    Event.REQUEST_CANCELLED: Expected(cancelled, resource="request", reason="a typo"),
    Event.REQUEST_EXPIRED: Expected(expired, actor=OWN, resource="request", reason=""),
    Event.REQUEST_DISPATCH_TIMEOUT: Expected(never_fetched, actor=OWN, resource="request", reason=""),
    Event.EXECUTION_CLAIMED: Expected(released, actor=AGENT, resource="execution"),
    Event.EXECUTION_RELEASED: Expected(released, actor=AGENT, resource="execution", reason="database is down"),
    Event.EXECUTION_STARTED: Expected(failed, actor=AGENT, resource="execution"),
    Event.EXECUTION_COMPLETED: Expected(
        lambda w: w.executed(), actor=AGENT, resource="execution", metadata={"duration_ms": 3, "row_count": 2}
    ),
    Event.EXECUTION_FAILED: Expected(
        failed, actor=AGENT, outcome="failure", resource="execution", reason="statement.failed"
    ),
    Event.EXECUTION_LOST: Expected(lost, actor=OWN, outcome="failure", resource="execution", reason="not known"),
    Event.EXECUTION_TOKEN_REFUSED: Expected(
        spent_twice, actor=AGENT, outcome="denied", resource="execution", reason="spent before"
    ),
    Event.AGENT_REGISTERED: Expected(lambda w: w.agent(), actor=AGENT, resource="agent"),
    Event.SCHEMA_SNAPSHOT_UPDATED: Expected(
        lambda w: Hand(w.agent()).send(table("t")), actor=AGENT, resource="schema", metadata={"tables": 1}
    ),
    Event.SCHEMA_SNAPSHOT_FAILED: Expected(
        lambda w: Hand(w.agent()).fail("is down"), actor=AGENT, outcome="failure", resource="schema", reason="is down"
    ),
    Event.RESULT_READ: Expected(read, resource="execution", metadata={"rows": 2}),
    Event.RESULT_PURGED: Expected(kept_too_long, actor=OWN, resource="execution"),
    Event.AUTH_FAILURE: Expected(
        unknown_token,
        actor=("anonymous", "user"),
        outcome="denied",
        reason="unknown",
        metadata={"failure_reason": "unknown"},
    ),
    Event.TOKEN_CREATED: Expected(new_token, resource="token", metadata={"issued_for": "alice"}),
    Event.TOKEN_REVOKED: Expected(revoked, resource="token"),
    Event.USER_CREATED: Expected(passed, actor=OWN, resource="user"),
    Event.TOKEN_REISSUED_INITIAL: Expected(reissued, actor=ADMIN, resource="token"),
    Event.USER_DELETED: Expected(deleted, actor=ADMIN, resource="user", reason="left"),
    Event.GROUP_MEMBER_ADDED: Expected(
        lambda w: add(w, groups=["dba"]), actor=ADMIN, resource="group", metadata={"user": "nina"}
    ),
    Event.GROUP_MEMBER_REMOVED: Expected(left_a_group, actor=ADMIN, resource="group", metadata={"user": "nina"}),
    Event.CONFIG_SYNCED: Expected(passed, actor=OWN),
    Event.AUDIT_EXPORTED: Expected(
        exported, actor=("olga", "user"), metadata={"format": "ndjson", "filters": {"outcome": "denied"}}
    ),
    Event.AUDIT_SIGNED_CHECKPOINT: Expected(vouched, actor=OWN, outcome="info"),
    Event.AUDIT_PURGE_CHECKPOINT: Expected(purged, actor=OWN, outcome="info"),
}  # fmt: skip

RECONFIGURED = {
    Event.USER_UPDATED: PEOPLE | {"alice": ("approver", "dba")},
    Event.USER_SUSPENDED: {name: said for name, said in PEOPLE.items() if name != "alice"},
    Event.USER_ACTIVATED: PEOPLE,
}
"""What a start with these people, after one without alice for the last, writes about her."""


def test_nobody_forgot_an_event() -> None:
    assert {str(event) for event in Event} - PENDING == {str(event) for event in EXPECTED | RECONFIGURED}
    assert set(CATEGORY) == set(Event)


@pytest.mark.parametrize("event", EXPECTED)
def test_the_event_is_written(world: World, event: Event) -> None:
    expected = EXPECTED[event]
    expected.provoke(world)
    found = world.events(event_type=event)
    assert found
    said = found[-1]
    assert said["event_category"] == CATEGORY[event]
    assert ((said["actor_id"], said["actor_type"]), said["outcome"]) == (expected.actor, expected.outcome)
    assert said["resource_type"] == expected.resource
    assert (said["resource_id"] is None) == (expected.resource is None)
    if expected.reason is not None:
        assert said["reason"]
        assert expected.reason in said["reason"]
    assert said["metadata"].items() >= expected.metadata.items()
    person = expected.actor[1] != "system"
    assert (said["peer_ip"], said["client_ip"], said["client_ip_source"]) == (
        ("192.0.2.1", "192.0.2.1", "peer") if person else (None, None, None)
    )
    assert world.verify()["valid"]


@pytest.fixture
def reconfigured(place: Place, clock: Clock, request: pytest.FixtureRequest) -> Iterator[World]:
    event: Event = request.param
    starts = [PEOPLE, RECONFIGURED[Event.USER_SUSPENDED], PEOPLE] if event is Event.USER_ACTIVATED else [PEOPLE]
    for people in [*starts, RECONFIGURED[event]]:
        settings = place.load(people=people)
        bootstrap.prepare(settings, now=clock)
    rt = open_runtime(settings, now=clock)
    yield World(rt, clock)
    rt.close()


@pytest.mark.parametrize(("reconfigured", "event"), [(e, e) for e in RECONFIGURED], indirect=["reconfigured"])
def test_a_change_of_the_configured_people_is_written(reconfigured: World, event: Event) -> None:
    said = reconfigured.events(event_type=event)[-1]
    assert (said["actor_id"], said["actor_type"], said["outcome"]) == ("system", "system", "success")
    assert (said["event_category"], said["resource_type"], said["resource_id"]) == ("identity", "user", "alice")
