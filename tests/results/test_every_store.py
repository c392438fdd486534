"""What `ResultStore` promises, on every store there is."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from dbward.errors import Conflict, DbwardError, Missing, TooLarge, Unavailable
from dbward.results.store import ResultStore

KEY = "01REQUEST/01EXECUTION"
OTHER = "01REQUEST/02EXECUTION"
LIMIT = 64 * 1024 * 1024
MIB = 1024 * 1024
EXPIRES = datetime(2027, 1, 31, 12, tzinfo=UTC)


def noise(size: int, seed: int = 7) -> bytes:
    return random.Random(seed).randbytes(size)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def send(store: ResultStore, data: bytes, key: str = KEY, *, part: int = MIB, start: int = 0) -> int:
    held = start
    while held < len(data):
        held = store.append(key, offset=held, data=data[held : held + part], limit=LIMIT)
    return held


def finish(store: ResultStore, data: bytes, key: str = KEY) -> None:
    store.finish(key, size=len(data), sha256=sha(data), expires_at=EXPIRES)


def keep(store: ResultStore, data: bytes, key: str = KEY) -> None:
    send(store, data, key)
    finish(store, data, key)


def content(store: ResultStore, data: bytes, key: str = KEY) -> bytes:
    """What is stored, read as one whose digest is that of `data`."""
    return b"".join(store.read(key, sha256=sha(data)))


def refused(call: Callable[[], object]) -> tuple[str, object]:
    with pytest.raises(DbwardError) as caught:
        call()
    return caught.value.code, (caught.value.detail or {}).get("size")


def ahead() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


@pytest.mark.parametrize("size", [1, MIB - 1, 3 * MIB + 17, 8 * MIB, 8 * MIB + 1, 17 * MIB])
def test_what_was_sent_is_what_is_read(store, size):
    data = noise(size)
    assert send(store, data) == size
    finish(store, data)
    assert content(store, data) == data


def test_an_empty_result_is_a_result(store):
    finish(store, b"")
    assert content(store, b"") == b""


def test_reading_comes_in_chunks(store):
    data = noise(2 * MIB)
    keep(store, data)
    assert max(map(len, store.read(KEY, sha256=sha(data)))) <= MIB


def test_a_part_is_sent_again_when_its_answer_was_lost(store):
    data = noise(3000)
    for _ in range(2):
        assert store.append(KEY, offset=0, data=data[:1000], limit=LIMIT) == 1000
    assert store.append(KEY, offset=1000, data=data[1000:2000], limit=LIMIT) == 2000
    assert store.append(KEY, offset=0, data=data[:1000], limit=LIMIT) == 2000
    assert store.append(KEY, offset=1500, data=data[1500:3000], limit=LIMIT) == 3000  # half of it is there
    assert store.append(KEY, offset=3000, data=b"", limit=LIMIT) == 3000
    finish(store, data)
    assert content(store, data) == data


def test_a_gap_is_refused_and_says_where_to_go_on(store):
    assert refused(lambda: store.append(KEY, offset=5, data=b"x", limit=LIMIT)) == ("result.offset", 0)
    store.append(KEY, offset=0, data=b"12345", limit=LIMIT)
    assert refused(lambda: store.append(KEY, offset=6, data=b"x", limit=LIMIT)) == ("result.offset", 5)
    assert store.append(KEY, offset=5, data=b"6", limit=LIMIT) == 6


def test_what_is_over_the_limit_is_not_kept(store):
    with pytest.raises(TooLarge):
        store.append(KEY, offset=0, data=b"123456", limit=5)
    store.append(KEY, offset=0, data=b"12345", limit=5)
    with pytest.raises(TooLarge):
        store.append(KEY, offset=5, data=b"6", limit=5)
    finish(store, b"12345")


def test_an_upload_goes_on_in_another_process(opened):
    data = noise(3 * MIB)
    assert send(opened(), data[:MIB]) == MIB
    assert send(opened(), data[: 2 * MIB], start=MIB) == 2 * MIB
    assert send(opened(), data, start=2 * MIB) == 3 * MIB
    finish(opened(), data)
    assert content(opened(), data) == data


@pytest.mark.parametrize("size", [4096, 9 * MIB])
def test_less_than_was_said_is_no_result(store, size):
    data = noise(size)
    cut = data[:-1]
    send(store, cut)
    assert refused(lambda: finish(store, data)) == ("result.incomplete", size - 1)
    assert refused(lambda: content(store, data)) == ("result.missing", None)
    assert store.append(KEY, offset=size - 1, data=data[-1:], limit=LIMIT) == size  # and it can be mended
    finish(store, data)
    assert content(store, data) == data


@pytest.mark.parametrize("size", [4096, 9 * MIB])
def test_another_digest_is_no_result(store, size):
    data = noise(size)
    send(store, data)
    wrong = bytes([data[0] ^ 1]) + data[1:]
    assert refused(lambda: finish(store, wrong)) == ("result.incomplete", size)
    assert refused(lambda: content(store, wrong)) == ("result.missing", None)


def test_nothing_uploaded_is_no_result(store):
    assert refused(lambda: finish(store, b"x")) == ("result.incomplete", 0)


@pytest.mark.parametrize("size", [4096, 9 * MIB])
def test_finishing_is_repeatable(opened, size):
    data = noise(size)
    keep(opened(), data)
    finish(opened(), data)
    assert content(opened(), data) == data
    code, _ = refused(lambda: finish(opened(), data + b"more"))
    assert code == "result.incomplete"
    assert content(opened(), data) == data


def test_many_finish_at_once(store):
    data = noise(9 * MIB)
    send(store, data)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(finish, store, data) for _ in range(4)]:
            done.result()
    assert content(store, data) == data
    assert list(store.abandoned(ahead())) == []


@pytest.mark.parametrize("opened", ["local", "moto"], indirect=True)  # s3rver writes into the very file that is read
def test_the_same_part_at_once(store):
    data = noise(MIB)
    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(store.append, KEY, offset=0, data=data, limit=LIMIT) for _ in range(4)]
        assert {done.result() for done in sent} == {MIB}
    finish(store, data)
    assert content(store, data) == data


def test_another_digest_is_told_at_the_end(store):
    keep(store, b"rows")
    chunks = store.read(KEY, sha256=sha(b"other"))
    with pytest.raises(Unavailable) as caught:
        b"".join(chunks)
    assert caught.value.code == "result.corrupt"


def test_what_is_not_there_is_missing_at_once(store):
    with pytest.raises(Missing):
        store.read(KEY, sha256=sha(b""))
    send(store, b"half of it")
    with pytest.raises(Missing):
        store.read(KEY, sha256=sha(b""))


def test_reading_may_stop_in_the_middle(store):
    keep(store, noise(2 * MIB))
    chunks = store.read(KEY, sha256="0")
    next(chunks)
    chunks.close()
    store.read(KEY, sha256="0").close()


def test_delete(store):
    keep(store, b"one")
    keep(store, b"two", OTHER)
    store.delete(KEY)
    store.delete(KEY)
    assert refused(lambda: content(store, b"one")) == ("result.missing", None)
    assert content(store, b"two", OTHER) == b"two"


def test_deleting_an_upload(store):
    send(store, b"half")
    store.delete(KEY)
    assert refused(lambda: store.append(KEY, offset=4, data=b"x", limit=LIMIT)) == ("result.offset", 0)


def test_delete_all_of_a_request(store):
    keep(store, b"one")
    send(store, b"two", OTHER)
    keep(store, b"three", "01REQUEST2/01EXECUTION")
    store.delete_all("01REQUEST")
    store.delete_all("01REQUEST")
    assert refused(lambda: content(store, b"one")) == ("result.missing", None)
    assert list(store.abandoned(ahead())) == []
    assert content(store, b"three", "01REQUEST2/01EXECUTION") == b"three"


def test_abandoned_uploads(store):
    send(store, noise(3 * MIB))
    keep(store, b"finished", OTHER)
    assert list(store.abandoned(datetime.now(UTC) - timedelta(hours=1))) == []
    assert list(store.abandoned(ahead())) == [("01REQUEST", "01EXECUTION")]
    store.discard(KEY)
    store.discard(KEY)
    assert list(store.abandoned(ahead())) == []
    assert refused(lambda: store.append(KEY, offset=1, data=b"x", limit=LIMIT)) == ("result.offset", 0)
    assert content(store, b"finished", OTHER) == b"finished"


def test_a_straggler_does_no_harm_to_the_result(store):
    """The first attempt of a part, delayed until its retry has long been taken and the result finished."""
    keep(store, b"rows")
    store.append(KEY, offset=0, data=b"rows", limit=LIMIT)
    finish(store, b"rows")
    store.append(KEY, offset=0, data=b"rows", limit=LIMIT)
    store.discard(KEY)
    assert content(store, b"rows") == b"rows"


@pytest.mark.parametrize("key", ["../x", "x", "a/b/c", "/x", "x/", "a/..", "a/.uploads", "é/x", "a\n/x"])
def test_no_key_names_another_place(store, key):
    with pytest.raises(ValueError, match="storage key"):
        store.read(key, sha256="0")
    with pytest.raises(ValueError, match="storage key"):
        store.append(key, offset=0, data=b"x", limit=LIMIT)
    with pytest.raises(ValueError, match="storage key"):
        store.delete_all(key.rpartition("/")[0] + "/..")


def test_ping(store):
    store.ping()


def test_refusals_are_of_the_tree(store):
    with pytest.raises(Conflict):
        store.append(KEY, offset=1, data=b"x", limit=LIMIT)
