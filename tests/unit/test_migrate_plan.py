"""What is to run, from the files and what the database has recorded."""

from __future__ import annotations

import pytest

from dbward.domain.migration import Applied
from dbward.errors import DbwardError
from dbward.migrate.files import Migration, parse
from dbward.migrate.plan import Entry, State, Tolerated, Wanted, backward, find, forward, join, sent

STRICT = Tolerated()
ALL = Wanted()


def a_file(version: str, name: str = "x", *, down: str = "DROP TABLE t;") -> Migration:
    text = f"-- migrate:up\nCREATE TABLE t (i int);\n-- migrate:down\n{down}\n"
    return parse(f"{version}_{name}.sql", text.encode())


def recorded(file: Migration) -> Applied:
    return Applied(file.version, file.name, file.checksum)


def versions(entries: tuple[Entry, ...]) -> list[str]:
    return [one.version for one in entries]


ONE, TWO, THREE = a_file("1", "one"), a_file("2", "two"), a_file("10", "three")


def test_each_side_and_both() -> None:
    changed = Applied("2", "two", "0" * 64)
    entries = join([ONE, TWO, THREE], [recorded(ONE), changed, Applied("4", "gone"), Applied("V1")])
    assert [(one.version, one.state, one.late) for one in entries] == [
        ("V1", State.MISSING, False),
        ("1", State.APPLIED, False),
        ("2", State.CHANGED, False),
        ("4", State.MISSING, False),
        ("10", State.PENDING, False),
    ]
    assert [one.title for one in entries] == ["V1", "1_one", "2_two", "4_gone", "10_three"]


def test_what_another_tool_applied_has_no_checksum_to_differ_from() -> None:
    assert join([ONE], [Applied("1")])[0].state is State.APPLIED


def test_a_version_that_no_number_can_hold_is_not_taken_for_one() -> None:
    assert versions(join([ONE], [Applied("9" * 5000)])) == ["9" * 5000, "1"]


def test_forward_by_number_and_no_further_than_asked() -> None:
    entries = join([THREE, ONE, TWO], [])
    assert versions(forward(entries, ALL, STRICT)) == ["1", "2", "10"]
    assert versions(forward(entries, Wanted(count=2), STRICT)) == ["1", "2"]
    assert versions(forward(entries, Wanted(to="2_two"), STRICT)) == ["1", "2"]
    assert versions(forward(entries, Wanted(count=1, to="10_three.sql"), STRICT)) == ["1"]
    assert forward(join([ONE], [recorded(ONE)]), Wanted(to="1"), STRICT) == ()


def test_one_that_comes_late_is_applied_unless_that_is_refused() -> None:
    entries = join([ONE, TWO, THREE], [recorded(ONE), recorded(THREE)])
    assert [(one.version, one.late) for one in forward(entries, ALL, STRICT)] == [("2", True)]
    with pytest.raises(DbwardError) as raised:
        forward(entries, ALL, Tolerated(late=False))
    assert raised.value.code == "migration.late"


@pytest.mark.parametrize(
    ("applied", "code", "tolerated"),
    [
        (Applied("1", "one", "0" * 64), "migration.changed", Tolerated(changed=True)),
        (Applied("0", "gone"), "migration.missing", Tolerated(missing=True)),
    ],
)
def test_nothing_is_applied_on_what_is_not_understood(applied: Applied, code: str, tolerated: Tolerated) -> None:
    entries = join([ONE, TWO], [recorded(ONE), applied][-1 if applied.version == "1" else 0 :])
    with pytest.raises(DbwardError) as raised:
        forward(entries, ALL, STRICT)
    assert raised.value.code == code
    assert versions(forward(entries, ALL, tolerated)) == ["2"]


def test_backward_the_highest_first() -> None:
    entries = join([ONE, TWO, THREE], [recorded(one) for one in (ONE, TWO, THREE)])
    assert versions(backward(entries, Wanted(count=2), STRICT)) == ["10", "2"]
    assert versions(backward(entries, Wanted(to="1"), STRICT)) == ["10", "2"]
    assert versions(backward(entries, Wanted(count=9), STRICT)) == ["10", "2", "1"]
    assert backward(entries, Wanted(to="10"), STRICT) == ()


def test_backward_past_a_pending_one() -> None:
    entries = join([ONE, TWO, THREE], [recorded(ONE), recorded(TWO)])
    assert versions(backward(entries, Wanted(count=1), STRICT)) == ["2"]
    with pytest.raises(DbwardError) as raised:
        backward(entries, Wanted(to="10"), STRICT)
    assert raised.value.code == "migration.unknown"


@pytest.mark.parametrize(
    ("file", "applied", "code"),
    [
        (None, Applied("2", "two"), "migration.missing"),
        (a_file("2", down="-- nothing"), Applied("2"), "migration.irreversible"),
        (TWO, Applied("2", "two", "0" * 64), "migration.changed"),
    ],
)
def test_nothing_is_reverted_when_one_of_them_cannot_be(file: Migration | None, applied: Applied, code: str) -> None:
    files = [ONE, THREE] + ([file] if file is not None else [])
    entries = join(files, [recorded(ONE), applied, recorded(THREE)])
    with pytest.raises(DbwardError) as raised:
        backward(entries, Wanted(count=2), STRICT)
    assert raised.value.code == code
    assert "2" in raised.value.message
    assert versions(backward(entries, Wanted(count=1), STRICT)) == ["10"]


def test_a_changed_one_is_reverted_by_what_its_file_says_now() -> None:
    entries = join([TWO], [Applied("2", "two", "0" * 64)])
    chosen = backward(entries, Wanted(count=1), Tolerated(changed=True))
    assert [one.sql for one in sent(chosen, up=False)] == ["DROP TABLE t;"]


def test_what_is_sent_of_each_direction() -> None:
    file = parse("7_a.sql", b"-- migrate:up transaction:false\n\n-- why\nVACUUM;\n-- migrate:down\nSELECT 1;\n")
    entries = join([file], [])
    up, down = sent(entries, up=True)[0], sent(entries, up=False)[0]
    assert (up.sql, up.line, up.transactional, up.reversible) == ("-- why\nVACUUM;", 3, False, True)
    assert (down.sql, down.line, down.transactional) == ("SELECT 1;", 6, True)
    assert up.checksum == down.checksum == file.checksum


@pytest.mark.parametrize("asked", ["1", "1_one", "1_one.sql"])
def test_names_of_one(asked: str) -> None:
    assert find(join([ONE, TWO], []), asked).version == "1"


@pytest.mark.parametrize("asked", ["", "01", "1_on", "one", "1_one.sql.sql"])
def test_names_of_none(asked: str) -> None:
    with pytest.raises(DbwardError):
        find(join([ONE, TWO], []), asked)
