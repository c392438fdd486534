"""What webhooks are to be told of, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select, update

from dbward.client.shapes import DeliveryFilter, NewUser
from dbward.db import deliveries
from dbward.db.engine import Tx
from dbward.db.tables import webhook_deliveries
from dbward.domain.notifications import DeliveryStatus
from dbward.errors import Conflict, DbwardError, Missing, Refused
from dbward.runtime import open_runtime
from dbward.services import bootstrap, housekeeping, outbox, user_access, users, webhooks
from dbward.services.views import View
from tests.services.conftest import Clock, Place, World, refused

HOOKS = """
[[webhooks]]
id = "everything"
url = "https://hooks.example.com/all"

[[webhooks]]
id = "approvals"
url = "https://caller:hunter2@hooks.slack.com/services/T0000000/B0000000/abcdefghijklmnopqrstuvwx?key=hunter2#hunter2"
events = ["request.created", "step.*"]
format = "slack"
secret = "hunter2"
"""
ROUTED = f"""
{HOOKS}
[[notification_policies]]
environment = "prod"
webhooks = ["approvals"]
events = ["request.*"]

[[notification_policies]]
environment = "own"
"""


def opened(place: Place, clock: Clock, more: str, **options: Any) -> World:
    settings = place.load(more=more, **options)
    bootstrap.prepare(settings, now=clock)
    return World(open_runtime(settings, now=clock), clock)


@pytest.fixture
def hooked(place: Place, clock: Clock) -> Iterator[World]:
    world = opened(place, clock, HOOKS)
    forget_all(world)
    yield world
    world.rt.close()


def forget_all(world: World) -> None:
    """The first start has told of the people of the configuration."""
    world.rt.store.write(lambda tx: tx.conn.execute(webhook_deliveries.delete()))


def rows(world: World) -> list[dict[str, Any]]:
    """Oldest first; those of one event by the webhook."""
    query = select(webhook_deliveries).order_by(webhook_deliveries.c.created_at, webhook_deliveries.c.webhook_id)
    with world.rt.store.read() as conn:
        return [dict(row) for row in conn.execute(query).mappings()]


def told(world: World) -> set[tuple[str, str]]:
    return {(row["webhook_id"], row["event_type"]) for row in rows(world)}


def listed(world: World, name: str = "olga", **wanted: Any) -> View:
    return webhooks.list_deliveries(world.rt, world.who(name), DeliveryFilter(**wanted))


# --- what is put in ---------------------------------------------------------------------------------------------------


def test_each_webhook_is_told_by_its_own_filter(hooked: World) -> None:
    made = hooked.create(environment="prod")
    assert told(hooked) == {("everything", "request.created"), ("approvals", "request.created")}
    forget_all(hooked)
    hooked.approve("bob", made)
    assert told(hooked) == {
        ("everything", "step.approved"),
        ("approvals", "step.approved"),
        ("everything", "request.approved"),
    }
    forget_all(hooked)
    made |= hooked.resume("alice", made)
    hooked.agent().run(made)
    assert [row["event_type"] for row in rows(hooked)] == [
        "request.dispatched",
        "execution.started",
        "execution.completed",
    ]


def test_what_it_is_told(hooked: World) -> None:
    made = hooked.create(environment="prod", detail="SELECT 'secret' FROM t WHERE n = 4711 -- of mine", reason="why")
    row = rows(hooked)[0]
    assert row["id"].startswith("wd-")
    assert len(row["id"]) == 39
    assert {name: row[name] for name in ("status", "attempts", "max_attempts", "last_error", "request_id")} == {
        "status": "pending",
        "attempts": 0,
        "max_attempts": 10,
        "last_error": None,
        "request_id": made["id"],
    }
    assert row["next_retry_at"] == row["created_at"] == hooked.clock()
    payload = row["payload"]
    assert payload.pop("occurred_at") == hooked.events(request_id=made["id"])[0]["created_at"]
    assert payload == {
        "event": "request.created",
        "request_id": made["id"],
        "execution_id": None,
        "user_id": None,
        "database": "app",
        "environment": "prod",
        "operation": "execute_select",
        "actor": "alice",
        "requester": "alice",
        "detail": "SELECT ? FROM t WHERE n = ?",
        "matched_selector": None,
    }


def test_an_approval_says_who_and_as_what(hooked: World) -> None:
    made = hooked.create(environment="prod")
    forget_all(hooked)
    hooked.approve("bob", made, comment="not for everybody")
    payload = rows(hooked)[0]["payload"]
    assert (payload["event"], payload["actor"], payload["requester"], payload["matched_selector"]) == (
        "step.approved",
        "bob",
        "alice",
        "role:approver",
    )
    assert payload["detail"] is None
    assert "not for everybody" not in json.dumps(payload)


def test_an_execution_is_named(hooked: World) -> None:
    made = hooked.executed()
    done = next(row["payload"] for row in rows(hooked) if row["event_type"] == "execution.completed")
    assert (done["execution_id"], done["request_id"], done["actor"]) == (made["execution_id"], made["id"], "agent")


def test_what_the_review_blocks_is_told_without_its_values(hooked: World) -> None:
    with pytest.raises(DbwardError) as caught:
        hooked.create(environment="prod", detail='DELETE FROM t; DROP TABLE "x"')
    assert caught.value.code == "sql.blocked_by_review"
    (row,) = [row for row in rows(hooked) if row["event_type"] == "request.blocked_by_review"]
    assert (row["webhook_id"], row["request_id"]) == ("everything", None)
    payload = row["payload"]
    assert (payload["actor"], payload["requester"], payload["environment"]) == ("alice", None, "prod")
    assert payload["detail"].startswith("DELETE FROM t")


@pytest.mark.parametrize(("redaction", "detail"), [("full", None), ("none", "SELECT ?"), ("literals", "SELECT ?")])
def test_no_more_sql_than_the_log_shows_and_never_its_values(
    place: Place, clock: Clock, redaction: str, detail: str | None
) -> None:
    world = opened(place, clock, f'{HOOKS}\n[audit]\nredaction = "{redaction}"')
    forget_all(world)
    world.create(environment="prod", detail="SELECT 'secret'")
    assert rows(world)[0]["payload"]["detail"] == detail
    world.rt.close()


def test_people_of_the_configuration_are_announced_by_their_id(place: Place, clock: Clock) -> None:
    people = {"alice": ("requester", ""), "olga": ("operator", "")}
    opened(place, clock, HOOKS, people=people).rt.close()
    world = opened(place, clock, HOOKS, people={"olga": ("operator", "")})
    told_of = [(row["event_type"], row["payload"]["user_id"], row["payload"]["actor"]) for row in rows(world)]
    assert sorted(told_of) == [
        ("user.created", "admin", "system"),
        ("user.created", "alice", "system"),
        ("user.created", "olga", "system"),
        ("user.suspended", "alice", "system"),
    ]
    world.rt.close()


def test_people_made_and_deleted_over_the_api_are_announced_by_their_id(hooked: World) -> None:
    admin = hooked.who("admin")
    users.create_user(hooked.rt, admin, NewUser(id="nina", roles=["requester"], email="nina@example.com"))
    user_access.delete_user(hooked.rt, admin, "nina", "left the company")
    told_of = [(row["event_type"], row["payload"]["user_id"], row["payload"]["actor"]) for row in rows(hooked)]
    assert sorted(told_of) == [("user.created", "nina", "admin"), ("user.deleted", "nina", "admin")]
    assert not any(said in str(rows(hooked)) for said in ("nina@", "left the company"))


def test_a_policy_decides_for_its_targets(place: Place, clock: Clock) -> None:
    world = opened(place, clock, ROUTED)
    forget_all(world)
    made = world.create(environment="prod")
    world.approve("bob", made)
    assert told(world) == {("approvals", "request.created"), ("approvals", "request.approved")}
    forget_all(world)
    world.create(environment="own")
    assert told(world) == set()
    world.create(environment="any")
    assert told(world) == {("approvals", "request.created"), ("everything", "request.created")}
    world.rt.close()


def test_without_webhooks_nothing_is_written(world: World) -> None:
    world.executed()
    assert rows(world) == []


def test_what_is_rolled_back_is_not_told(hooked: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = hooked.create(environment="prod")
    forget_all(hooked)
    seen: list[int] = []
    add = deliveries.add

    def add_and_fail(tx: Tx, new: Any) -> None:
        add(tx, new)
        seen.append(len(new))
        raise Conflict("too late")

    monkeypatch.setattr(deliveries, "add", add_and_fail)
    with pytest.raises(Conflict):
        hooked.approve("bob", made)
    assert seen == [2]
    assert rows(hooked) == []
    assert hooked.event_types(made) == ["request.created"]


# --- what becomes of it -----------------------------------------------------------------------------------------------


def test_what_waits_for_a_removed_webhook_is_cancelled_at_the_next_start(place: Place, clock: Clock) -> None:
    world = opened(place, clock, HOOKS)
    forget_all(world)
    world.create(environment="prod")
    world.rt.close()
    clock.advance(minutes=1)
    world = opened(place, clock, HOOKS.replace('id = "approvals"', 'id = "other"'))
    found = {row["webhook_id"]: row for row in rows(world)}
    assert {name: row["status"] for name, row in found.items()} == {"approvals": "cancelled", "everything": "pending"}
    gone = found["approvals"]
    assert (gone["next_retry_at"], gone["finished_at"]) == (None, clock())
    assert "configuration" in gone["last_error"]
    world.rt.close()
    world = opened(place, clock, "")
    assert {row["status"] for row in rows(world)} == {"cancelled"}
    world.rt.close()


def test_what_cannot_be_sent_for_a_week_is_given_up_and_forgotten_a_week_later(hooked: World) -> None:
    hooked.create(environment="prod")
    hooked.clock.advance(days=7)
    housekeeping.purge(hooked.rt)
    assert {row["status"] for row in rows(hooked)} == {"pending"}
    hooked.clock.advance(seconds=1)
    hooked.create(environment="prod")
    housekeeping.purge(hooked.rt)
    first, second = rows(hooked)[:2], rows(hooked)[2:]
    assert {(row["status"], row["last_error"], row["next_retry_at"]) for row in first} == {
        ("dead", "not sent within 7 days", None)
    }
    assert {row["status"] for row in second} == {"pending"}
    hooked.clock.advance(days=7)
    housekeeping.purge(hooked.rt)
    assert len(rows(hooked)) == 4
    hooked.clock.advance(seconds=1)
    housekeeping.purge(hooked.rt)
    assert [row["id"] for row in rows(hooked)] == [row["id"] for row in second]


def test_tidying_goes_through_more_than_a_batch(hooked: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "BATCH", 2)
    for _ in range(3):
        hooked.create(environment="prod")
    hooked.clock.advance(days=8)
    housekeeping.purge(hooked.rt)
    assert {row["status"] for row in rows(hooked)} == {"dead"}
    hooked.clock.advance(days=8)
    housekeeping.purge(hooked.rt)
    assert rows(hooked) == []


# --- what people see of it --------------------------------------------------------------------------------------------


def test_the_list_of_deliveries(hooked: World) -> None:
    made = hooked.create(environment="prod")
    hooked.clock.advance(seconds=1)
    hooked.approve("bob", made)
    page = listed(hooked, limit=2)
    assert (page["total"], page["limit"], page["offset"], len(page["deliveries"])) == (5, 2, 0, 2)
    newest_first = [one["event_type"] for one in listed(hooked)["deliveries"]]
    assert newest_first[-2:] == ["request.created", "request.created"]
    pages = [listed(hooked, limit=2, offset=offset)["deliveries"] for offset in (0, 2, 4, 6)]
    assert [one["id"] for page in pages for one in page] == [one["id"] for one in listed(hooked)["deliveries"]]
    assert listed(hooked, limit=0)["deliveries"] == []
    assert listed(hooked, limit=1000, offset=2**60)["limit"] == 100
    assert listed(hooked, webhook="approvals")["total"] == 2
    assert listed(hooked, webhook="none")["total"] == 0
    hooked.rt.store.write(
        lambda tx: tx.conn.execute(
            update(webhook_deliveries)
            .where(webhook_deliveries.c.webhook_id == "approvals")
            .values(status="delivered", next_retry_at=None, finished_at=hooked.clock())
        )
    )
    assert listed(hooked, status=DeliveryStatus.DELIVERED)["total"] == 2
    assert listed(hooked, status=DeliveryStatus.PENDING, webhook="approvals")["total"] == 0


def test_a_delivery_in_the_list_tells_nothing_of_the_request(hooked: World) -> None:
    made = hooked.create(environment="prod", detail="SELECT 1 FROM private_table")
    (one,) = listed(hooked, webhook="approvals")["deliveries"]
    assert sorted(one) == [
        *("attempts", "created_at", "event_type", "id", "last_error", "max_attempts", "next_retry_at"),
        *("status", "webhook_id"),
    ]
    assert made["id"] not in str(one)
    with pytest.raises(Refused):
        listed(hooked, "alice")


def test_webhooks_are_shown_without_what_opens_them(hooked: World) -> None:
    found = webhooks.list_webhooks(hooked.rt, hooked.who("none"))["webhooks"]
    assert [hook["id"] for hook in found] == ["everything", "approvals"]
    assert found[0]["url"] == "https://hooks.example.com/all"
    assert (found[0]["secret"], found[0]["has_secret"], found[0]["events"]) == (None, False, ())
    approvals = webhooks.show(hooked.rt, hooked.who("none"), "approvals")
    assert approvals == found[1]
    assert approvals["url"] == "https://***@hooks.slack.com/services/T0000000/B0000000/***?***"
    assert (approvals["secret"], approvals["has_secret"], approvals["status"]) == ("***", True, "active")
    assert "hunter2" not in str(found)
    assert refused(lambda: webhooks.show(hooked.rt, hooked.who("none"), "nothing")) == "request.not_found"
    with pytest.raises(Refused):
        webhooks.list_webhooks(hooked.rt, hooked.who("sam"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h.example.com", "https://h.example.com"),
        ("https://h.example.com:8443/a/b/", "https://h.example.com:8443/a/b/"),
        ("https://token@h.example.com/a", "https://***@h.example.com/a"),
        ("https://h.example.com/a?token", "https://h.example.com/a?***"),
        ("https://h.example.com/a#key", "https://h.example.com/a"),
        ("https://h.example.com/" + "k" * 20, "https://h.example.com/***"),
        ("https://[2606:4700::1]/a", "https://[2606:4700::1]/a"),
    ],
)
def test_what_is_masked(url: str, shown: str) -> None:
    assert webhooks.masked(url) == shown


def test_nothing_is_called_to_try_it(hooked: World) -> None:
    with pytest.raises(Conflict) as caught:
        webhooks.try_out(hooked.rt, hooked.who("admin"), "approvals")
    assert caught.value.code == "webhook.not_called"
    with pytest.raises(Missing):
        webhooks.try_out(hooked.rt, hooked.who("admin"), "nothing")
    for webhook_id in ("approvals", "nothing"):
        with pytest.raises(Refused):
            webhooks.try_out(hooked.rt, hooked.who("alice"), webhook_id)
