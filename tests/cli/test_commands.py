"""Every command against the real application: what people see, what programs read, how it ends."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.conftest import Person

READ = ("execute", "SELECT 1", "-e", "production")
Become = Callable[[str], Person]


@pytest.fixture
def pending(alice: Person) -> str:
    """The id of a request of alice's that waits for approval."""
    request_id: str = alice(*READ, "--format", "json").data["request_id"]
    return request_id


def test_whoami(alice: Person) -> None:
    assert alice("whoami").out == "  Subject: alice\n  Roles: requester\n  Groups: none\n"
    assert alice("whoami", "--format", "json").data == {
        "subject_id": "alice",
        "subject_type": "user",
        "roles": ["requester"],
        "groups": [],
    }


def test_a_wrong_token(alice: Person) -> None:
    ran = alice("whoami", "--format", "json", DBWARD_TOKEN="dbw_" + "0" * 32)
    assert (ran.status, ran.json["error"]["code"]) == (1, "unauthorized")


def test_databases(alice: Person) -> None:
    assert "app   development, production" in alice("databases").out
    assert alice("--format", "quiet", "databases").data == {
        "databases": [{"name": "app", "environments": ["development", "production"]}]
    }


def test_agents(alice: Person, olga: Person) -> None:
    ran = olga("agents")
    assert (ran.status, ran.out, ran.err) == (0, "", "No agents.\n")
    refused = alice("agents")
    assert refused.status == 1
    assert "metrics.view" in refused.err


def test_a_request_that_waits(alice: Person) -> None:
    ran = alice(*READ)
    assert (ran.status, ran.out) == (2, "")
    assert "waits for approval by role:approver" in ran.err
    assert "dbward request resume" in ran.err
    assert "Error" not in ran.err


def test_a_request_that_waits_for_programs(alice: Person) -> None:
    ran = alice(*READ, "--format", "json")
    assert ran.status == 2
    assert ran.json["error"]["code"] == "pending_approval"
    assert ran.data["status"] == "pending_approval"
    assert ran.data["approvers"] == ["role:approver"]
    assert ran.err.startswith("Error: request ")


def test_approval_in_two_steps_and_what_is_said(alice: Person, bob: Person, olga: Person, pending: str) -> None:
    refused = alice("request", "approve", pending, "--format", "json")
    assert (refused.status, refused.json["error"]["code"]) == (1, "forbidden")

    mine = bob("request", "list", "--pending-for-me", "--format", "json").data["requests"]
    assert [item["id"] for item in mine] == [pending]
    first = bob("request", "approve", pending[:8], "--comment", "fine")
    assert first.status == 0
    assert "Approved" in first.err
    assert "1 of 2 steps" in first.err
    again = bob("request", "approve", pending, "--format", "json")
    assert again.status == 1

    text = alice("request", "show", pending[:4]).out
    assert f"  Request: {pending}\n" in text
    assert "  Status: pending\n" in text
    assert "[ok] Step 1 [all]: role:approver ✓" in text
    assert "approved by bob" in text
    assert "- fine" in text
    assert "[wait] Step 2 [any]: group:dba ⏳ 0/1 | role:operator ⏳ 0/1" in text

    done = olga("request", "approve", pending, "--as", "role:operator", "--format", "json").data
    assert done == {
        "id": pending,
        "step": 2,
        "total_steps": 2,
        "fully_approved": True,
        "matched_selector": "role:operator",
    }
    resumed = alice("request", "resume", pending, "--timeout", "0", "--format", "json")
    assert (resumed.status, resumed.json["error"]["code"]) == (124, "timeout")
    assert resumed.data == {"request_id": pending, "status": "dispatched"}
    again = alice("request", "resume", pending, "--format", "json")
    assert (again.status, again.json["error"]["code"]) == (1, "not_ready")


def test_rejecting(alice: Person, bob: Person, pending: str) -> None:
    assert bob("request", "reject", pending, "--reason", "not today").status == 0
    assert "  Rejected: not today\n" in alice("request", "show", pending).out
    again = bob("request", "reject", pending, "--format", "json")
    assert again.status == 1
    assert alice("request", "resume", pending, "--format", "json").json["error"]["code"] == "not_ready"


def test_cancelling(alice: Person, bob: Person, olga: Person, pending: str) -> None:
    assert bob("request", "cancel", pending, "--format", "json").json["error"]["code"] == "forbidden"
    wanting = olga("request", "cancel", pending, "--format", "json")
    assert wanting.json["error"]["code"] == "validation.failed"
    assert olga("request", "cancel", pending, "--reason", "cleaning up").status == 0
    assert "  Cancelled: by olga: cleaning up\n" in alice("request", "show", pending).out


def test_no_such_request(alice: Person) -> None:
    ran = alice("request", "show", "0000-nothing", "--format", "json")
    assert (ran.status, ran.json["error"]["code"]) in [(1, "not_found"), (1, "validation.failed")]
    odd = alice("request", "show", "../../api/me?x=#", "--format", "json")
    assert odd.status == 1


def test_nobody_takes_it(alice: Person) -> None:
    ran = alice("execute", "SELECT 1", "-e", "development", "--timeout", "1")
    assert ran.status == 124
    assert "no agent" in ran.err
    assert "goes on by itself" in ran.err
    assert "dbward request show" in ran.err


def test_the_same_key_is_the_same_request(alice: Person) -> None:
    first = alice(*READ, "--idempotency-key", "k", "--format", "json").data["request_id"]
    assert alice(*READ, "--idempotency-key", "k", "--format", "json").data["request_id"] == first
    other = alice("execute", "SELECT 2", "-e", "production", "--idempotency-key", "k", "--format", "json")
    assert other.json["error"]["code"] == "request.conflict"


def test_what_is_kept_with_a_request(alice: Person) -> None:
    made = alice(*READ, "--reason", "why not", "--ticket", "OPS-1", "--repo", "r", "--share-with", "user:bob",
                 "--format", "json").data["request_id"]  # fmt: skip
    text = alice("request", "show", made).out
    for line in ("Reason: why not", "Metadata: ticket=OPS-1, repo=r", "Shared with: user:bob", "Created by: alice"):
        assert f"  {line}\n" in text


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["SELEC 1"], "sql."),
        (["BEGIN"], "sql."),
        ([""], "sql."),
        (["SELECT 1", "--database", "nope"], "database.not_registered"),
        (["SELECT 1", "--emergency"], "config_error"),
        (["SELECT 1", "--share-with", "bob"], "validation.failed"),
    ],
)
def test_refused_submissions(alice: Person, argv: list[str], code: str) -> None:
    ran = alice("execute", *argv, "--format", "json")
    assert ran.status == 1
    assert ran.json["error"]["code"].startswith(code)
    assert ran.json["error"]["message"]


def test_sql_from_a_file_and_from_a_pipe(alice: Person) -> None:
    sql = "SELECT '%s :x ?' -- ünïcode\n"
    (alice.cwd / "q.sql").write_bytes(b"\xef\xbb\xbf" + sql.encode())
    for argv, stdin in ((("-f", "q.sql"), ""), (("-f", "-"), sql), (("-",), sql)):
        made = alice("execute", *argv, "-e", "production", "--format", "json", stdin=stdin).data["request_id"]
        assert alice("request", "show", made, "--format", "json").data["detail"] == sql
    assert alice("execute", "-f", "missing.sql", "--format", "json").json["error"]["code"] == "input_unreadable"
    (alice.cwd / "latin.sql").write_bytes(b"SELECT '\xe4'")
    assert alice("execute", "-f", "latin.sql", "--format", "json").json["error"]["code"] == "validation.failed"


def test_a_directory_as_output_is_found_before_anything_runs(alice: Person) -> None:
    ran = alice(*READ, "--output", ".", "--format", "json")
    assert ran.json["error"]["code"] == "output_unwritable"
    assert alice("request", "list", "--format", "json").data["requests"] == []


def test_a_person_is_asked_before_production(alice: Person) -> None:
    declined = alice(*READ, answers="\n")
    assert declined.status == 1
    assert declined.err.startswith("  Status: requestable\n  Risk: unknown (schema not synced)\n")
    assert "\n  Approval: required (role:approver, " in declined.err
    assert "\n  SQL: SELECT 1\nRun this on app/production? [y/N]" in declined.err
    assert "nothing was done" in declined.err
    assert alice("request", "list", "--format", "json").data["requests"] == []
    assert alice(*READ, answers="yes\n").status == 2
    assert "[y/N]" not in alice(*READ, "--yes", answers="").err
    assert "[y/N]" not in alice(*READ, answers="", DBWARD_YES="TRUE").err


@pytest.mark.parametrize("form", ["human", "json", "quiet"])
@pytest.mark.parametrize(
    "argv", [READ, ("execute", "DELETE FROM t WHERE a = 1"), ("execute", "SELECT 1; DELETE FROM t WHERE a = 1")]
)
def test_where_nobody_can_be_asked_a_yes_is_needed(alice: Person, argv: tuple[str, ...], form: str) -> None:
    ran = alice(*argv, "--format", form, DBWARD_YES="no")
    assert ran.status == 1
    if form == "human":
        assert "there is nobody to ask" in ran.err
    else:
        assert ran.json["error"]["code"] == "confirmation_required"
    assert alice("request", "list", "--format", "json").data["requests"] == []


def test_the_server_says_what_a_statement_is(alice: Person, olga: Person) -> None:
    """What only looks like a change is not asked about; what is refused is refused, not asked about."""
    assert alice("execute", "SELECT 'delete it'", "--timeout", "0", answers="").status == 124
    assert alice("execute", "SELECT mine(1)", "--timeout", "0", "--format", "json", DBWARD_YES="").status == 1
    for sql in ("SELEC 1", "DELETE FROM t"):
        refused = alice("execute", sql, answers="")
        assert refused.status == 1
        assert "[y/N]" not in refused.err
        assert "nothing was done" not in refused.err


def test_an_emergency_is_asked_about(olga: Person) -> None:
    argv = ("execute", "UPDATE t SET a = 1 WHERE b = 2", "--emergency", "--reason", "fire")
    assert "Run this WITHOUT APPROVAL on app/development? [y/N]" in olga(*argv, answers="n\n").err


def test_who_may_not_preflight_is_asked_all_the_same(person: Callable[[str], Person]) -> None:
    dave = person("dave")
    declined = dave("execute", "UPDATE t SET a = 1 WHERE b = 2", answers="\n")
    assert declined.err.startswith("  Preflight: not possible: ")
    assert "\n  SQL: UPDATE t SET a = 1 WHERE b = 2\nRun this on app/development? [y/N]" in declined.err
    assert dave("execute", "UPDATE t SET a = 1 WHERE b = 2", "--timeout", "0").status == 124


def test_the_question_shows_the_whole_statement(alice: Person) -> None:
    wide = "SELECT 1, '" + "x" * 300 + "'"
    assert wide in alice("execute", wide, "-e", "production", answers="n\n").err
    many = "SELECT\n" + ",\n".join(f"  {number}" for number in range(500))
    shown = alice("execute", many, "-e", "production", answers="n\n").err
    assert "… 301 lines are not shown …" in shown
    assert "      499\nRun this" in shown
    assert "\x1b" not in alice("execute", "SELECT '\x1b[2J'", "-e", "production", answers="n\n").err


def test_a_read_elsewhere_is_not_asked_about(alice: Person) -> None:
    ran = alice("execute", "SELECT 1", "-e", "development", "--timeout", "0", answers="")
    assert "[y/N]" not in ran.err
    assert ran.status == 124


def test_listing(alice: Person, olga: Person) -> None:
    for number in range(5):
        alice("execute", f"SELECT {number}", "-e", "production", "--reason", "r" * 50)
    alice("execute", "SELECT 9", "-e", "development", "--timeout", "0")
    text = alice("request", "list")
    assert text.out.splitlines()[0].split() == ["ID", "STATUS", "CREATED", "USER", "TARGET", "OP", "DETAIL", "REASON"]
    assert len(text.out.splitlines()) == 8
    limited = alice("request", "list", "--limit", "2")
    assert len(limited.out.splitlines()) == 4
    assert "(2 of 6; --limit or --all for more)" in limited.err

    def count(*argv: str) -> int:
        return len(olga("request", "list", "--format", "json", *argv).data["requests"])

    assert count() == 6
    assert count("--all") == 6
    assert count("--status", "pending") == 5
    assert count("-e", "development") == 1
    assert count("--database", "other") == 0
    assert count("--user", "bob") == 0
    assert count("--since", "1h") == 6
    assert count("--since", "2099-01-01") == 0
    assert olga("request", "list", "--user", "bob").err == "No requests.\n"


def test_paging_goes_on_to_the_end(alice: Person, rt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from dbward.cli import request

    monkeypatch.setattr(request, "PAGE", 2)
    for number in range(5):
        alice("execute", f"SELECT {number}", "-e", "production")
    listed = alice("request", "list", "--all", "--format", "json").data
    assert len({item["id"] for item in listed["requests"]}) == 5
    assert len(alice("request", "list", "--limit", "3", "--format", "json").data["requests"]) == 3


def test_control_characters_in_a_request_reach_no_terminal(alice: Person) -> None:
    sql = "SELECT '\x1b]0;pwned\x07'\n-- \x9b31m"
    made = alice("execute", sql, "-e", "production", "--reason", "\x1b[2J", "--format", "json").data["request_id"]
    for ran in (
        alice("request", "list"),
        alice("request", "show", made),
        alice(*READ[:1], sql, *READ[2:], answers="n\n"),
    ):
        assert "\x1b" not in ran.out + ran.err
        assert "\x9b" not in ran.out + ran.err


def test_results_there_are_none_of(alice: Person, pending: str) -> None:
    assert alice("request", "results").err == "No stored results.\n"
    assert alice("request", "result", pending, "--list").err == "No executions.\n"
    ran = alice("request", "result", pending, "--format", "json")
    assert (ran.status, ran.json["error"]["code"]) == (1, "not_found")


def test_audit(alice: Person, olga: Person, pending: str) -> None:
    assert alice("audit").status == 1
    ran = olga("audit", "--event-type", "request.created")
    assert "request.created" in ran.out
    assert "app/production" in ran.out
    found = olga("audit", "--request", pending, "--format", "json").data
    assert {event["request_id"] for event in found["events"]} == {pending}
    assert olga("audit", "--user", "alice", "--since", "1h", "-e", "production", "--outcome", "success").status == 0
    assert olga("audit", "--until", "2020-01-01").err == "No events.\n"
    limited = olga("audit", "--limit", "1")
    assert len(limited.out.splitlines()) == 3
    assert "for more" in limited.err
    rows = list(csv.reader(io.StringIO(olga("audit", "--result-format", "csv").out)))
    assert rows[0][:3] == ["id", "event_type", "event_category"]
    assert all(len(row) == 15 for row in rows)
    assert json.loads(olga("audit", "--result-format", "json").out)[0]["event_hash"]


def test_verifying(olga: Person, rt: Any) -> None:
    ran = olga("audit", "--verify")
    assert (ran.status, ran.out) == (0, "")
    assert "The chain is whole" in ran.err
    assert olga("audit", "--verify", "--format", "json").data["valid"] is True

    rt.store.write(lambda tx: tx.conn.exec_driver_sql("UPDATE audit_events SET actor_id = 'mallory' WHERE seq = 2"))
    broken = olga("audit", "--verify", "--format", "json")
    assert (broken.status, broken.json["error"]["code"]) == (1, "integrity_violation")
    assert broken.data["valid"] is False
    assert "BROKEN" in olga("audit", "--verify").err


def test_names_in_the_project_file(alice: Person) -> None:
    (alice.cwd / "dbward.toml").write_text('default_environment = "production"\n[databases.app]\n')
    del alice.variables["DBWARD_DATABASE"]
    assert alice("execute", "SELECT 1").status == 2
    other = alice("execute", "SELECT 1", "--database", "shop", "--format", "json")
    assert other.json["error"]["code"] == "config_error"


def test_running_what_was_lost_again_must_be_confirmed(alice: Person, rt: Any, pending: str) -> None:
    """It may have taken effect already: without anybody to ask, --yes must say that it is meant."""
    rt.store.write(
        lambda tx: tx.conn.exec_driver_sql(
            "UPDATE requests SET status = 'execution_lost', operation = 'execute_dml', execution_id = 'e'"
        )
    )
    unasked = alice("request", "resume", pending, "--format", "json", DBWARD_YES="")
    assert (unasked.status, unasked.json["error"]["code"]) == (1, "confirmation_required")
    declined = alice("request", "resume", pending, answers="\n")
    assert declined.status == 1
    assert "which may have taken effect. Run it again? [y/N]" in declined.err
    again = alice(*READ, "--idempotency-key", "x", "--format", "json")
    assert again.status == 2
    meant = alice("request", "resume", pending, "--yes", "--timeout", "0", "--format", "json")
    assert meant.json["error"]["code"] != "confirmation_required"


def test_a_lost_request_found_by_its_key(alice: Person, rt: Any) -> None:
    alice(*READ, "--idempotency-key", "k")
    rt.store.write(lambda tx: tx.conn.exec_driver_sql("UPDATE requests SET status = 'execution_lost'"))
    ran = alice(*READ, "--idempotency-key", "k", "--format", "json")
    assert (ran.status, ran.json["error"]["code"]) == (1, "execution_lost")
    assert ran.data["status"] == "execution_lost"
    assert "look into the database first" in ran.json["error"]["hint"]


def test_an_approved_request_found_by_its_key(alice: Person, bob: Person, olga: Person) -> None:
    made = alice(*READ, "--idempotency-key", "k", "--format", "json").data["request_id"]
    bob("request", "approve", made)
    olga("request", "approve", made)
    ran = alice(*READ, "--idempotency-key", "k", "--format", "json")
    assert (ran.status, ran.json["error"]["code"]) == (2, "approved_pending_resume")
    assert ran.data == {"request_id": made, "status": "approved"}
