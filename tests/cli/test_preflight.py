"""`dbward preflight` and `dbward policy resolve`."""

from __future__ import annotations

from tests.cli.conftest import Person


def test_a_preflight_of_a_read(alice: Person) -> None:
    ran = alice("preflight", "SELECT 1", "-e", "development")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines()[:5] == [
        "  Status: requestable",
        "  Risk: low (read only)",
        "  Statement: SELECT (execute_select)",
        "  Findings: none",
        "  Approval: approved by itself",
    ]
    assert "  Why: It is a read: all that it uses is known to only read." in ran.out


def test_a_preflight_of_what_is_blocked(alice: Person) -> None:
    ran = alice("preflight", "DELETE FROM t", "-e", "production")
    assert ran.status == 1
    assert "  Status: blocked" in ran.out
    assert "[BLOCK] no_where_delete: " in ran.out
    assert "💡" in ran.err
    seen = alice("preflight", "DELETE FROM t", "-e", "production", "--format", "json")
    assert (seen.status, seen.json["ok"], seen.json["error"]["code"]) == (1, False, "blocked")
    assert seen.data["review"]["blocked"] is True


def test_a_preflight_of_what_cannot_be_read(alice: Person) -> None:
    ran = alice("preflight", "SELECT 'open", "-e", "production")
    assert ran.status == 1
    assert "[BLOCK] parse_failure: " in ran.out


def test_a_preflight_reads_a_file(alice: Person) -> None:
    (alice.cwd / "q.sql").write_text("SELECT 1")
    assert "requestable" in alice("preflight", "-f", "q.sql", "-e", "development").out
    assert alice("preflight").status == 2


def test_policy_resolve_lists_the_operations(alice: Person) -> None:
    ran = alice("policy", "resolve", "app", "production")
    assert ran.status == 0
    lines = ran.out.splitlines()
    assert lines[0].split() == ["OPERATION", "WORKFLOW", "DECISION"]
    assert lines[2].startswith("execute_select ")
    assert "needs approval" in ran.out
    assert "SQL review: builtin-default" in ran.out


def test_policy_resolve_of_one_operation(alice: Person) -> None:
    ran = alice("policy", "resolve", "app", "production", "--operation", "execute_dml")
    assert "  Decision: needs approval" in ran.out
    assert "  Steps: role:approver (at least 1)" in ran.out
    seen = alice("policy", "resolve", "app", "nowhere", "--format", "json")
    assert (seen.status, seen.data["registered"], seen.data["decision_preview"]) == (0, False, "deny")


def test_a_request_says_why(alice: Person) -> None:
    made = alice("execute", "SELECT refund(1)", "-e", "production", "--yes", "--format", "json").data["request_id"]
    shown = alice("request", "show", made).out
    assert "Why: It counts as a write: nobody vouches for the function refund to only read." in shown
    assert "It needs approval by role:approver" in shown
