"""Envelopes read piece by piece: whatever the pieces, the same rows; a broken one is never half a result."""

from __future__ import annotations

import io
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbward.cli import resultset
from dbward.cli.resultset import Column, ResultSet, read
from dbward.errors import Unavailable

HEAD = {"_dbward_result": True, "execution_id": "e", "success": True, "rows_affected": None, "truncated": False}
COLUMNS = [{"name": "id", "type": "integer", "key": "id"}, {"name": "id", "type": "text", "key": "id_2"}]


def of(envelope: Any) -> ResultSet:
    return read(io.BytesIO(envelope if isinstance(envelope, bytes) else json.dumps(envelope).encode()))


def with_rows(rows: list[Any], **facts: Any) -> dict[str, Any]:
    return {**HEAD, "result_data": {"columns": COLUMNS, **facts, "rows": rows}}


def test_rows_columns_and_facts() -> None:
    result = of(with_rows([{"id": 1, "id_2": "a"}, {"id": None, "id_2": "b"}], truncated=True, truncation_reason="cap"))
    assert result.columns == (Column("id", "id", "integer"), Column("id", "id_2", "text"))
    assert list(result.rows()) == [{"id": 1, "id_2": "a"}, {"id": None, "id_2": "b"}]
    assert list(result.rows()) == list(result.rows())
    assert (result.row_count, result.truncated, result.truncation_reason) == (2, True, "cap")
    assert result.success


def test_no_rows_still_has_columns() -> None:
    result = of(with_rows([]))
    assert result.columns is not None
    assert (result.row_count, list(result.rows())) == (0, [])


@pytest.mark.parametrize("data", [None, "text", {"rows_affected": 3}, {}])
def test_nothing_to_show(data: Any) -> None:
    result = of({**HEAD, "result_data": data})
    assert result.columns is None
    assert result.row_count == 0


def test_rows_affected_may_stand_in_either_place() -> None:
    assert of({**HEAD, "rows_affected": 2, "result_data": {"rows_affected": 2}}).rows_affected == 2
    bare = {key: value for key, value in HEAD.items() if key != "rows_affected"}
    assert of({**bare, "result_data": {"rows_affected": 3}}).rows_affected == 3


def test_older_shapes() -> None:
    arrays = of({**HEAD, "result_data": {"columns": ["a", "b"], "rows": [[1, 2], [3, 4]]}})
    assert list(arrays.rows()) == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    bare = of({**HEAD, "result_data": {"rows": [{"x": 1}], "truncated": False}})
    assert bare.columns == (Column("x", "x"),)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.lists(st.dictionaries(st.text(max_size=3), values, max_size=3), max_size=8), st.integers(1, 40), st.booleans()
)
def test_any_rows_in_any_pieces(rows: list[Any], size: int, plain: bool) -> None:
    envelope = {**HEAD, "result_data": {"rows": rows, "columns": COLUMNS, "late": 12345}}
    raw = json.dumps(envelope, ensure_ascii=plain, indent=1 if plain else None).encode(errors="surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resultset, "_CHUNK", size)
        try:
            raw.decode()
        except UnicodeDecodeError:
            with pytest.raises(Unavailable):
                of(raw)
            return
        result = of(raw)
        assert list(result.rows()) == rows
        assert result.facts["late"] == 12345


@given(st.integers(0, 400))
def test_a_part_is_never_taken_for_the_whole(length: int) -> None:
    raw = json.dumps(with_rows([{"id": i, "id_2": "x" * i} for i in range(10)])).encode()
    if length < len(raw):
        with pytest.raises(Unavailable):
            of(raw[:length])


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"nonsense", b"{} {}", b'{"result_data": {"rows": [1 2]}}', b'{"a" 1}', b"{1: 2}", b"\xff"]
)
def test_what_is_no_envelope(raw: bytes) -> None:
    with pytest.raises(Unavailable):
        of(raw)


def test_passing_on_keeps_everything_on_one_ascii_line() -> None:
    envelope = with_rows([{"id": "ä\n数\u2028🎉\x9b", "id_2": None}])
    raw = json.dumps(envelope, ensure_ascii=False, indent=2).encode()
    out = io.StringIO()
    of(raw).write_json(out)
    assert out.getvalue().isascii()
    assert "\n" not in out.getvalue()
    assert json.loads(out.getvalue()) == envelope


def test_memory_does_not_grow_with_the_rows(tmp_path: Any) -> None:
    path = tmp_path / "result.json"
    row = json.dumps({"id": 1, "id_2": "x" * 200})
    head = json.dumps(with_rows([]))[:-3]
    with path.open("w") as out:
        out.write(head)
        out.write(",\n".join([row] * 1000))
        for _ in range(199):
            out.write(",\n" + ",\n".join([row] * 1000))
        out.write("]}}")
    with path.open("rb") as file:
        tracemalloc.start()
        result = read(file)
        count = sum(1 for _ in result.rows())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert count == result.row_count == 200_000
    assert peak < 5 * 1024 * 1024
