"""The caps, the batches and the spool, without a database."""

from __future__ import annotations

import json
import tracemalloc
from datetime import timedelta

import pytest

from dbward.domain.model import Limits
from tests.worker.targets import Collected
from worker.rows import BATCH_BYTES, BATCH_ROWS, Batch, Results, RowTooLarge, RowWriter, encode_row, named_columns
from worker.values import from_json


def of(max_rows: int = 10**9, max_bytes: int = 10**12) -> Limits:
    return Limits(timedelta(seconds=1), max_rows, max_bytes)


COLUMNS = named_columns([("a", "int")])


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a"], ["a", "a_2", "a_3"]),
        (["a", "a_2", "a"], ["a", "a_2", "a_3"]),
        (["a", "a", "a_2"], ["a", "a_3", "a_2"]),
        (["a_2", "a", "a", "a_2"], ["a_2", "a", "a_3", "a_2_2"]),
        (["", ""], ["", "_2"]),
    ],
)
def test_keys_are_unique_and_first_come(names: list[str], keys: list[str]) -> None:
    assert [column.key for column in named_columns([(name, "t") for name in names])] == keys


def test_a_batch_is_its_rows_and_their_lines() -> None:
    sink = Collected()
    writer = RowWriter(sink, COLUMNS, of(), strict=True)
    rows = [[n, "é\n", None, {"a": [1.5]}] for n in range(BATCH_ROWS * 2 + 1)]
    for row in rows:
        assert writer.add(row)
    writer.flush()
    writer.flush()
    assert sink.rows_ == rows
    assert [json.loads(line) for line in sink.lines.splitlines()] == rows


def test_batches_are_bounded_in_bytes() -> None:
    sizes: list[int] = []

    class Sizes(Collected):
        def rows(self, rows: Batch, /) -> None:
            sizes.append(len(rows.encoded))

    writer = RowWriter(Sizes(), COLUMNS, of(), strict=True)
    for _ in range(100):
        writer.add(["x" * 50_000])
    writer.flush()
    assert max(sizes) < BATCH_BYTES + 60_000
    assert sum(sizes) == 100 * len(encode_row(["x" * 50_000]))


@pytest.mark.parametrize(
    ("rows", "kept", "reason"), [(0, 0, "row limit of 0 reached"), (3, 3, "row limit of 3 reached")]
)
def test_row_cap(rows: int, kept: int, reason: str) -> None:
    writer = RowWriter(Collected(), COLUMNS, of(max_rows=rows), strict=True)
    assert [writer.add([n]) for n in range(5)] == [n < kept for n in range(5)]
    assert (writer.row_count, writer.truncation_reason) == (kept, reason)


def test_the_byte_cap_counts_the_encoded_row() -> None:
    line = len(encode_row(["é"]))
    writer = RowWriter(Collected(), COLUMNS, of(max_bytes=2 * line), strict=True)
    assert [writer.add(["é"]) for _ in range(3)] == [True, True, False]


def test_a_row_that_could_never_fit() -> None:
    with pytest.raises(RowTooLarge):
        RowWriter(Collected(), COLUMNS, of(max_bytes=10), strict=True).add(["x" * 20])
    lenient = RowWriter(Collected(), COLUMNS, of(max_bytes=10), strict=False)
    assert (lenient.add(["x" * 20]), lenient.truncation_reason) == (False, "size limit of 10 bytes reached")


def test_a_spooled_result_arrives_whole_or_not_at_all() -> None:
    sink = Collected()
    results = Results(sink, of(), strict=False)
    for result in range(3):
        writer = results.open(named_columns([(f"c{result}", "t")]), last=False)
        for n in range(2000):
            writer.add([result, n, "x" * 600])
    assert sink.begun == 0
    results.finish()
    results.close()
    assert (sink.begun, sink.names, len(sink.rows_), sink.rows_[-1][:2]) == (1, ["c2"], 2000, [2, 1999])


def test_the_spool_is_not_memory() -> None:
    class Discarding(Collected):
        def rows(self, rows: Batch, /) -> None:
            pass

    results = Results(Discarding(), of(), strict=False)
    writer = results.open(COLUMNS, last=False)
    tracemalloc.start()
    for _ in range(20_000):
        writer.add(["x" * 2000])
    results.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1, 2.50, true, null]", [1, 2.5, True, None]),
        ("1e2", 100.0),
        ('{"a": {"b": 1}}', {"a": {"b": 1}}),
        ('{"a": {"b": 1, "b": 1}}', '{"a": {"b": 1, "b": 1}}'),
        ("9007199254740993", 9007199254740993),
        ("9007199254740993.0", "9007199254740993.0"),
        ("1" * 5000, "1" * 5000),
        ("1e99999999999999999999", "1e99999999999999999999"),
        ("0.1000000000000000000001", "0.1000000000000000000001"),
        ('"\\ud800"', '"\\ud800"'),
        ('"\\u00e9"', "é"),
        ('{"\\udfff": 1}', '{"\\udfff": 1}'),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("no json", "no json"),
        ("", ""),
        ("[" * 64 + "]" * 64, json.loads("[" * 64 + "]" * 64)),
        ("[" * 65 + "]" * 65, "[" * 65 + "]" * 65),
        ("[" * 100_000 + "]" * 100_000, "[" * 100_000 + "]" * 100_000),
        ("[" + ", ".join(["[]"] * 100) + "]", [[] for _ in range(100)]),
    ],
)
def test_json_is_parsed_when_nothing_is_lost(text: str, value: object) -> None:
    assert from_json(text.encode()) == value
