"""What a request pins of its migrations survives the way to the agent, and nothing else passes for it."""

import json

import pytest

from dbward.domain.migration import Pinned, Repair, read_pinned, read_repair, signed_texts
from dbward.errors import Invalid

FILE = Pinned("20260101", "add_orders", "a" * 64, True, ["CREATE TABLE orders (id int)", "SELECT 1"])
OTHER = Pinned("20260102", "drop_orders", "b" * 64, False, ["DROP TABLE orders"])
REPAIR = Repair("mark_applied", "20260101", "add_orders", "a" * 64)


def test_pinned_files_come_back_as_they_were() -> None:
    assert read_pinned(signed_texts([FILE, OTHER])) == (FILE, OTHER)


@pytest.mark.parametrize("repair", [REPAIR, Repair("remove", "7")])
def test_a_repair_comes_back_as_it_was(repair: Repair) -> None:
    assert read_repair(signed_texts(repair)) == repair


def changed(**values: object) -> str:
    return json.dumps({**json.loads(signed_texts([FILE])[0]), **values})


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["{}"],
        ["not JSON"],
        ["[" * 100_000],
        [*signed_texts([FILE]), *signed_texts([FILE])],
        [*signed_texts([FILE]), changed(version="0" + FILE.version)],
        [changed(version="V1")],
        [changed(version="1\n")],
        [changed(checksum="A" * 64)],
        [changed(transactional="yes")],
        [changed(statements=[])],
        [changed(statements=[1])],
        [changed(more=1)],
        [changed(name="a\n  risk low")],
        [changed(name="a\u202eb")],
        [changed(name="a\0")],
        [changed(name="../a")],
        [*signed_texts(REPAIR)],
    ],
)
def test_anything_else_is_refused(texts: list[str]) -> None:
    with pytest.raises(Invalid) as refused:
        read_pinned(texts)
    assert refused.value.code == "migration.malformed"


@pytest.mark.parametrize(
    "texts", [[], [*signed_texts([FILE])], [*signed_texts(REPAIR)] * 2, ['{"action":"drop","version":"1"}']]
)
def test_no_other_repair_is_read(texts: list[str]) -> None:
    with pytest.raises(Invalid) as refused:
        read_repair(texts)
    assert refused.value.code == "migration.malformed"
