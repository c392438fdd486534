"""The result stream over real HTTP: parts, lost answers, a server that lost bytes, and when to give up."""

from __future__ import annotations

import hashlib
import json
import threading

import pytest

from dbward.client.agent_api import AgentApi
from dbward.client.wire import ResultColumn
from tests.worker.tiny_server import LOSE_ANSWER, TinyServer
from worker.rows import Batch, encode_row
from worker.upload import PART_BYTES, Upload, UploadFailed

COLUMNS = [ResultColumn(name="a", type="text", key="a")]


def batch(*values: str) -> Batch:
    made = Batch()
    for value in values:
        made.add([value], encode_row([value]))
    return made


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def upload(api: AgentApi, server: TinyServer, stop: threading.Event) -> Upload:
    server.add_job("e1", "SELECT 1")
    return Upload(api, "e1", "claim-e1", stop=stop)


def test_a_small_result_is_one_part_with_columns_first(upload: Upload, server: TinyServer) -> None:
    upload.columns(COLUMNS)
    upload.rows(batch("é", 'quote " and \n'))
    stored = upload.finish()
    assert server.calls["parts"] == 1
    lines = bytes(server.stream["e1"]).splitlines()
    assert json.loads(lines[0]) == {"columns": [{"name": "a", "type": "text", "key": "a"}]}
    assert [json.loads(line) for line in lines[1:]] == [["é"], ['quote " and \n']]
    assert stored is not None
    assert stored.size == len(server.stream["e1"])
    assert stored.sha256 == hashlib.sha256(server.stream["e1"]).hexdigest()


def test_no_rows_still_has_columns(upload: Upload, server: TinyServer) -> None:
    upload.columns(COLUMNS)
    assert upload.finish() is not None
    assert server.stream["e1"].count(b"\n") == 1


def test_no_result_set_is_no_upload(upload: Upload, server: TinyServer) -> None:
    assert upload.finish() is None
    assert server.calls["parts"] == 0


def test_a_big_result_goes_out_in_parts_as_it_comes(upload: Upload, server: TinyServer) -> None:
    upload.columns(COLUMNS)
    for _ in range(8):
        upload.rows(batch("x" * 400_000))
    assert server.calls["parts"] == 3
    stored = upload.finish()
    assert stored is not None
    assert server.calls["parts"] == 4
    assert stored.sha256 == hashlib.sha256(server.stream["e1"]).hexdigest()
    assert stored.size > 3 * PART_BYTES


def test_lost_answers_and_outages_change_nothing(upload: Upload, server: TinyServer) -> None:
    server.fail["parts"] = [LOSE_ANSWER, 503, 0, 500, LOSE_ANSWER, 429]
    upload.columns(COLUMNS)
    for _ in range(4):
        upload.rows(batch("y" * 600_000))
    stored = upload.finish()
    assert stored is not None
    assert stored.sha256 == hashlib.sha256(server.stream["e1"]).hexdigest()


def test_the_end_that_a_server_lost_is_sent_again(upload: Upload, server: TinyServer) -> None:
    upload.columns(COLUMNS)
    upload.rows(batch("z" * 2_500_000))
    stored = upload.finish()
    assert stored is not None
    del server.stream["e1"][-1000:]
    assert upload.resend(len(server.stream["e1"]))
    assert stored.sha256 == hashlib.sha256(server.stream["e1"]).hexdigest()


def test_what_is_not_kept_any_more_cannot_be_sent_again(upload: Upload, server: TinyServer) -> None:
    upload.columns(COLUMNS)
    upload.rows(batch("z" * 2_500_000))
    upload.finish()
    assert not upload.resend(10)


def test_a_server_that_lost_earlier_parts_ends_the_upload(upload: Upload, server: TinyServer) -> None:
    upload.columns(COLUMNS)
    upload.rows(batch("z" * 1_200_000))
    server.stream["e1"].clear()
    with pytest.raises(UploadFailed) as failed:
        upload.rows(batch("z" * 900_000))
    assert failed.value.code == "result.upload_lost"


def test_a_result_over_the_servers_limit_fails_at_once(upload: Upload, server: TinyServer) -> None:
    server.max_result = 100
    upload.columns(COLUMNS)
    upload.rows(batch("x" * 200))
    with pytest.raises(UploadFailed) as failed:
        upload.finish()
    assert failed.value.code == "payload.too_large"
    assert server.calls["parts"] == 1


def test_a_stopped_job_does_not_wait_for_the_server(upload: Upload, server: TinyServer, stop: threading.Event) -> None:
    server.fail["parts"] = [503] * 1000
    upload.columns(COLUMNS)
    stop.set()
    with pytest.raises(UploadFailed) as failed:
        upload.finish()
    assert failed.value.stopped
