"""Results: what is handed out, to whom, for how long, and that damage is noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from dbward.client.wire import WireError
from dbward.db.tables import executions as executions_table
from dbward.errors import Conflict, Gone, Missing, Unavailable
from dbward.results.local import LocalResults
from dbward.services import housekeeping, results
from tests.services.conftest import COLUMNS, World, refused, stream_of


def blobs(world: World) -> set[str]:
    root = world.rt.settings.results.root_dir
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def listed(world: World, name: str) -> set[str]:
    return {item["request_id"] for item in results.list_results(world.rt, world.who(name), 50)["results"]}


# --- the envelope -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [[1, "a"], [2, "b"]],
        [[None, 'quote " and \\ and \n'], [12345678901234567890123, "日本\U0001f600"], [1.5, ""]],
        [[{"a": [1, None]}, "x"], [[1, 2], True]],
        [[number, "x" * 20] for number in range(100)],
    ],
)
def test_the_envelope_is_json_with_rows_as_objects(world: World, rows: list[list[Any]]) -> None:
    made = world.create()
    world.agent().run(made, rows)
    found = world.envelope(made)
    data = found.pop("result_data")
    assert data["rows"] == [{"n": first, "n_2": second} for first, second in rows]
    assert data["columns"] == COLUMNS
    assert found == {
        "_dbward_result": True,
        "execution_id": made["execution_id"],
        "success": True,
        "rows_affected": None,
        "truncated": False,
        "error_message": None,
        "request_id": made["id"],
        "error": None,
        "duration_ms": 3,
    }


def test_an_envelope_longer_than_its_chunks(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.begin(made)
    stream = stream_of([[number, "x" * 1000] for number in range(500)])
    agent.part(made, stream)
    agent.complete(made, stream=stream, truncated=True, truncation_reason="max_bytes", row_count=500)
    found = world.envelope(made)
    assert [row["n"] for row in found["result_data"]["rows"]] == list(range(500))
    assert (found["truncated"], found["result_data"]["truncation_reason"]) == (True, "max_bytes")
    assert found["result_data"]["row_count"] == 500


def test_a_change_without_rows_says_how_many(world: World) -> None:
    made = world.create(detail="DELETE FROM t WHERE n = 1")
    agent = world.agent()
    agent.begin(made)
    agent.complete(made, rows_affected=4)
    assert world.envelope(made)["result_data"] == {"rows_affected": 4}
    assert world.envelope(made)["rows_affected"] == 4
    assert listed(world, "alice") == set()


def test_a_failure_says_why(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.begin(made)
    error = WireError(
        code="statement.failed", message="no such table: t", hint="create it", position=15, sqlstate="42P01"
    )
    agent.complete(made, "failed", error=error)
    found = world.envelope(made)
    assert not found["success"]
    assert found["error_message"] == "no such table: t\nHINT: create it\nPOSITION: character 15"
    assert (found["error"]["sqlstate"], found["result_data"]) == ("42P01", None)
    assert world.show(made)["error_message"] == found["error_message"]


def test_which_execution(world: World) -> None:
    made = world.create(environment="many")
    with pytest.raises(Missing):
        world.envelope(made)
    agent = world.agent()
    agent.begin(made)
    with pytest.raises(Conflict):
        world.envelope(made, execution_id=made["execution_id"])
    agent.complete(made, "failed")
    world.clock.advance(seconds=1)
    again = world.resume("alice", made)
    assert world.envelope(made)["execution_id"] == made["execution_id"], "the other has not finished"
    agent.run(again)
    assert world.envelope(made)["execution_id"] == again["execution_id"]
    assert not world.envelope(made, execution_id=made["execution_id"])["success"]
    other = world.executed()
    with pytest.raises(Missing):
        world.envelope(made, execution_id=other["execution_id"])
    shown = results.list_executions(world.rt, world.who("alice"), made["id"], 20)["executions"]
    assert [(e["status"], e["has_stored_result"]) for e in shown] == [("completed", True), ("failed", False)]
    assert shown[1]["error_message"] == "no such table: t"


def test_what_was_withdrawn_never_ran(world: World) -> None:
    made = world.create()
    world.cancel("alice", made)
    with pytest.raises(Missing):
        world.envelope(made)
    with pytest.raises(Missing):
        world.envelope(made, execution_id=made["execution_id"])


def test_an_old_execution_is_found_behind_many_newer_ones(world: World) -> None:
    made = world.executed()
    with world.rt.store.read() as conn:
        row = dict(conn.execute(executions_table.select()).mappings().one())
    copies = [
        row
        | {"id": f"{number:036}", "created_at": row["created_at"] + timedelta(seconds=number), "outcome_digest": None}
        for number in range(1, 130)
    ]
    world.rt.store.write(lambda tx: tx.conn.execute(executions_table.insert(), copies))
    assert world.envelope(made, execution_id=made["execution_id"])["result_data"]["row_count"] == 2


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_waits_is_ready_or_has_ended(world: World) -> None:
    def state(request: dict[str, Any], name: str = "alice") -> Any:
        return results.stream_state(world.rt, world.who(name), request["id"])

    made = world.create()
    assert state(made) == results.Waiting(made["id"])
    agent = world.agent()
    agent.begin(made)
    assert state(made) == results.Waiting(made["id"])
    world.clock.advance(seconds=61)
    housekeeping.sweep_leases(world.rt)
    lost = state(made)
    assert isinstance(lost, results.Ended)
    assert "not known" in lost.envelope["error_message"]
    agent.complete(made, "failed")
    assert state(made) == results.Ready(made["id"], made["execution_id"])
    ended = world.create(environment="prod")
    world.reject("bob", ended)
    found = state(ended)
    assert isinstance(found, results.Ended)
    assert (found.envelope["error_message"], found.envelope["execution_id"]) == ("request rejected", "")
    assert refused(lambda: state(made, "rita")) == "request.not_found"


@pytest.mark.parametrize("how", ["no_result_store", "stream"])
def test_what_is_not_stored_is_delivered_to_who_waits(world: World, how: str) -> None:
    body = {"no_result_store": True} if how == "no_result_store" else {"environment": "stream"}
    made = world.executed(share_with=["user:rita"], **body)
    with pytest.raises(Gone) as caught:
        world.envelope(made)
    assert caught.value.code == "result.not_stored"
    assert len(world.envelope(made, live=True)["result_data"]["rows"]) == 2
    assert listed(world, "rita") == set()
    world.clock.advance(minutes=10)
    with pytest.raises(Gone):
        world.envelope(made, live=True)
    housekeeping.purge(world.rt)
    assert blobs(world) == set()
    with pytest.raises(Gone):
        world.envelope(made, live=True)


def test_why_it_failed_is_told_though_nothing_is_stored(world: World) -> None:
    made = world.create(no_result_store=True)
    agent = world.agent()
    agent.begin(made)
    stream = stream_of([[1, "a"]])
    agent.part(made, stream)
    agent.complete(made, "failed", stream=stream)
    assert world.envelope(made)["error_message"] == "no such table: t"
    assert world.envelope(made)["result_data"] is None


# --- who --------------------------------------------------------------------------------------------------------------


def test_who_may_read(world: World) -> None:
    made = world.executed("alice", "prod", share_with=["user:rita", "role:watcher"])
    plain = world.executed("alice", "auto")
    readers = {"alice": True, "rita": True, "bob": True, "dana": True, "olga": True, "beth": False, "dev": False}
    for name, may in readers.items():
        assert (listed(world, name) >= {made["id"]}) is may, name
        if may:
            assert world.envelope(made, name)["success"]
        else:
            assert refused(lambda name=name: world.envelope(made, name)) == "request.not_found"
    assert listed(world, "dev") == {plain["id"]}, "`any` in the environments of the role"
    assert world.envelope(plain, "dev")["success"]
    for name in ("rita", "bob", "dana"):
        assert refused(lambda name=name: world.envelope(plain, name)) == "request.not_found"
    assert refused(lambda: world.envelope(made, "sam")) == "forbidden"
    assert refused(lambda: listed(world, "sam")) == "forbidden"


def test_the_policy_gives_access_to_a_group(world: World) -> None:
    made = world.executed("alice", "prod")
    assert world.envelope(made, "dana")["success"]
    assert listed(world, "dana") == {made["id"]}


def test_who_decides_sees_the_executions(world: World) -> None:
    made = world.create(environment="prod")
    assert results.list_executions(world.rt, world.who("bob"), made["id"], 20) == {"executions": []}
    assert refused(lambda: results.list_executions(world.rt, world.who("rita"), made["id"], 20)) == "request.not_found"


# --- how long ---------------------------------------------------------------------------------------------------------


def test_retention_ends_a_result(world: World) -> None:
    for environment, days in (("prod", 5), ("auto", 30)):
        made = world.executed(environment=environment)
        world.clock.advance(days=days, seconds=-1)
        housekeeping.purge(world.rt)
        assert world.envelope(made)["success"]
        world.clock.advance(seconds=1)
        with pytest.raises(Gone) as caught:
            world.envelope(made)
        assert caught.value.code == "result.expired"
        housekeeping.purge(world.rt)
        assert blobs(world) == set()
        with pytest.raises(Gone):
            world.envelope(made)
        assert listed(world, "alice") == set()
        event = world.events(event_type="result.purged")[-1]
        assert (event["request_id"], event["actor_type"], event["reason"]) == (
            made["id"],
            "system",
            "its retention has passed",
        )


def test_requests_go_with_everything_that_hangs_on_them(world: World) -> None:
    made = world.executed()
    waiting = world.create(environment="own", reason="x")
    stray = world.rt.settings.results.root_dir / made["id"] / "finished-but-never-reported"
    stray.write_bytes(b"x")
    world.clock.advance(days=29)
    housekeeping.purge(world.rt)
    assert str(stray.relative_to(stray.parent.parent)) in blobs(world)
    world.clock.advance(days=62)
    housekeeping.purge(world.rt)
    assert blobs(world) == set()
    assert world.listed("olga") == {waiting["id"]}, "what is still open is kept"
    assert refused(lambda: world.show(made)) == "request.not_found"
    assert world.events(request_id=made["id"]), "the log has its own retention"
    assert world.verify()["valid"]


def test_more_than_one_batch_goes_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "BATCH", 2)
    for _ in range(5):
        world.executed()
    world.clock.advance(days=31)
    housekeeping.purge(world.rt)
    assert blobs(world) == set()
    world.clock.advance(days=60)
    housekeeping.purge(world.rt)
    assert world.listed("olga") == set()


def test_an_upload_nobody_goes_on_with_is_removed(world: World) -> None:
    dead, alive = world.create(), world.create(environment="many")
    agent = world.agent()
    agent.begin(dead)
    agent.part(dead, b"half")
    claim_of_dead = agent.claim_id
    agent.claim(alive)
    agent.start(alive)
    agent.part(alive, b"half")
    world.clock.advance(seconds=61)
    agent.renew(alive)
    housekeeping.sweep_leases(world.rt)
    world.clock.advance(days=1, hours=1)
    housekeeping.purge(world.rt)
    left = {path.split("/")[0] for path in blobs(world)}
    assert left == {alive["id"]}, "its statement takes its time between two rows"
    assert agent.part(alive, b"half and half", offset=0) == 13
    agent.claim_id = claim_of_dead
    with pytest.raises(Conflict) as caught:
        agent.part(dead, b"more", offset=4)
    assert caught.value.detail == {"size": 0}


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_changed_file_is_not_passed_off_as_the_result(world: World) -> None:
    made = world.executed()
    path = world.rt.settings.results.root_dir / made["id"] / made["execution_id"]
    text = path.read_bytes()
    path.write_bytes(text.replace(b'"a"', b'"z"'))
    chunks = results.open_envelope(world.rt, world.who("alice"), made["id"], None)
    with pytest.raises(Unavailable) as caught:
        json.loads(b"".join(chunks))
    assert caught.value.code == "result.corrupt"
    path.unlink()
    assert refused(lambda: world.envelope(made)) == "result.missing"


def test_reading_that_never_begins_holds_no_file(world: World) -> None:
    made = world.executed()
    chunks = results.open_envelope(world.rt, world.who("alice"), made["id"], None)
    chunks.close()  # type: ignore[attr-defined]


def test_results_survive_a_restart(world: World) -> None:
    made = world.executed()
    again = LocalResults(world.rt.settings.results.root_dir)
    key = f"{made['id']}/{made['execution_id']}"
    with pytest.raises(Unavailable):
        list(again.read(key, sha256="0"))
    with pytest.raises(ValueError, match="storage key"):
        again.read("../x", sha256="0")


def test_the_reader_is_refused_before_the_first_byte(world: World) -> None:
    made = world.executed()
    with pytest.raises(Missing):
        results.open_envelope(world.rt, world.who("rita"), made["id"], None)


def test_a_longer_standard_retention_is_the_files(world: World) -> None:
    """`[retention] result_ttl_days` is what holds where no result policy covers the target."""
    settings = world.rt.settings
    kept = replace(settings.retention, result_ttl=timedelta(days=3))
    object.__setattr__(world.rt, "settings", replace(settings, retention=kept))
    made = world.executed()
    world.clock.advance(days=3)
    assert refused(lambda: world.envelope(made)) == "result.expired"


def test_completed_rows_of_a_lost_upload_are_not_invented(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.begin(made)
    agent.complete(made)
    world.rt.store.write(lambda tx: tx.conn.execute(update(executions_table).values(rows_affected=None)))
    assert refused(lambda: world.envelope(made)) == "result.expired"
