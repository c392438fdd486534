"""What only a bucket can do wrong: policies that deny, servers that fail for a while, and others at the same upload."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dbward.errors import Misconfigured, Unavailable
from dbward.results import s3
from dbward.results.s3 import EXPIRY_TAG, S3Results
from dbward.runtime import open_runtime
from dbward.services import bootstrap
from dbward.settings.secret import Secret
from dbward.settings.server import load_server
from tests.results.test_every_store import (
    EXPIRES,
    KEY,
    LIMIT,
    MIB,
    OTHER,
    ahead,
    content,
    finish,
    keep,
    noise,
    refused,
    send,
)
from tests.support.processes import POLICY
from tests.support.s3 import (
    ACCESS_KEY,
    MINIMAL,
    SECRET_KEY,
    Bucket,
    Gate,
    fresh_bucket,
    gate,
    moto_url,
    s3rver_url,
)

NAME = f"results/{KEY}"
BIG = 9 * MIB


@pytest.fixture
def between() -> Iterator[Gate]:
    """The proxy, letting pass what the guide's policy allows."""
    with gate(moto_url()) as between:
        yield between


@contextmanager
def opened(bucket: Bucket, url: str | None = None) -> Iterator[S3Results]:
    store = S3Results(bucket.settings(url))
    yield store
    store.close()


@pytest.fixture
def store(bucket: Bucket, between: Gate) -> Iterator[S3Results]:
    with opened(bucket, between.url) as store:
        yield store


# --- policies ---------------------------------------------------------------------------------------------------------


def test_a_whole_life_under_the_smallest_policy(store, bucket, between):
    small, big = noise(3 * MIB), noise(BIG)
    store.ping()
    keep(store, small)
    keep(store, big, OTHER)
    finish(store, big, OTHER)
    assert content(store, small) == small
    assert content(store, big, OTHER) == big
    assert sorted(bucket.names()) == ["results/.ping", NAME, f"results/{OTHER}"]
    assert refused(lambda: store.read("01REQUEST/03NONE", sha256="0")) == ("result.missing", None)
    store.delete(KEY)
    store.delete_all("01REQUEST")
    assert between.denied == {}
    send(store, small)
    assert list(store.abandoned(ahead())) == [("01REQUEST", "01EXECUTION")]
    store.discard(KEY)
    assert bucket.names() == ["results/.ping"]
    assert set(between.denied) == {"ListBucketMultipartUploads"}


def test_what_is_denied_is_asked_for_once(store, between):
    for _ in range(3):
        list(store.abandoned(ahead()))
        store.discard(KEY)
    assert between.denied == {"ListBucketMultipartUploads": 1}


def test_the_expiry_is_a_tag(store, bucket):
    keep(store, b"rows")
    tags = bucket.raw.get_object_tagging(Bucket=bucket.name, Key=NAME)["TagSet"]
    assert tags == [{"Key": EXPIRY_TAG, "Value": EXPIRES.strftime("%Y-%m-%dT%H:%M:%SZ")}]


def test_tags_may_be_denied(store, bucket, between):
    between.allowed = MINIMAL - {"PutObjectTagging"}
    keep(store, b"one")
    keep(store, b"two", OTHER)
    assert content(store, b"one") == b"one"
    assert between.denied == {"PutObjectTagging": 1}


def test_another_prefix(bucket):
    store = S3Results(replace(bucket.settings(), prefix="team/rows"))
    keep(store, b"rows")
    send(store, b"half", OTHER)
    store.ping()
    assert {name.rpartition("/")[0] for name in bucket.names()} == {
        "team/rows",
        "team/rows/01REQUEST",
        f"team/rows/.uploads/{OTHER}",
    }
    assert list(store.abandoned(ahead())) == [tuple(OTHER.split("/"))]
    store.close()


@pytest.mark.parametrize("action", sorted(MINIMAL - {"PutObjectTagging", "DeleteObject"}))
def test_whatever_else_is_denied_is_no_success(store, bucket, between, action):
    send(store, b"rows")
    between.allowed = MINIMAL - {action}
    assert refused(lambda: finish(store, b"rows")) == ("result_store.unavailable", None)
    if action != "GetObject":
        assert refused(lambda: send(store, b"x", OTHER)) == ("result_store.unavailable", None)
    assert NAME not in bucket.names()
    between.allowed = MINIMAL
    finish(store, b"rows")
    assert content(store, b"rows") == b"rows"


def test_reading_may_be_denied_after_all(store, between):
    keep(store, b"rows")
    between.allowed = MINIMAL - {"GetObject"}
    with pytest.raises(Unavailable) as caught:
        content(store, b"rows")
    assert caught.value.code == "result_store.unavailable"


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 503, 0])
@pytest.mark.parametrize("action", ["PutObject", "GetObject", "ListBucket", "DeleteObject"])
def test_what_fails_for_a_moment_is_tried_again(store, between, action, status):
    between.fail[action] = [status]
    keep(store, b"rows")
    assert content(store, b"rows") == b"rows"
    assert between.fail[action] == []


def test_what_goes_on_failing_is_told_without_secrets(store, bucket, between, caplog):
    caplog.set_level("DEBUG", logger="dbward")
    between.fail["PutObject"] = [503] * 4
    with pytest.raises(Unavailable) as caught:
        store.append(KEY, offset=0, data=b"rows", limit=LIMIT)
    assert caught.value.code == "result_store.unavailable"
    assert "PutObject was answered with InternalError" in caplog.text
    for text in (caught.value.message, str(caught.value.hint), caplog.text):
        assert not any(secret in text for secret in (SECRET_KEY, bucket.name, between.url))
    keep(store, b"rows")


def test_a_server_that_is_not_there(bucket):
    with opened(bucket, "http://127.0.0.1:1") as store, pytest.raises(Unavailable) as caught:
        store.ping()
    assert caught.value.code == "result_store.unavailable"


def test_a_bucket_that_is_not_there(bucket):
    store = S3Results(replace(bucket.settings(), bucket="nobody-made-this"))
    for call in (store.ping, lambda: send(store, b"x"), lambda: store.read(KEY, sha256="0")):
        assert refused(call) == ("result_store.unavailable", None)
    store.close()


def test_wrong_keys_are_refused_and_not_shown(caplog):
    with fresh_bucket(s3rver_url()) as bucket:
        wrong = replace(bucket.settings(), access_key_id="STRANGER", secret_access_key=Secret("hunter2hunter2"))
        store = S3Results(wrong)
        with pytest.raises(Unavailable) as caught:
            store.ping()
        store.close()
    assert "InvalidAccessKeyId" in caplog.text
    assert not any(text in caplog.text + str(caught.value) for text in ("STRANGER", "hunter2"))


def test_reading_goes_on_where_it_broke_off(store, between):
    data = noise(3 * MIB)
    keep(store, data)
    between.truncate = [0, MIB, 0, 0]
    assert content(store, data) == data
    assert between.truncate == []


def test_reading_is_given_up_when_nothing_comes(store, between):
    data = noise(MIB)
    keep(store, data)
    between.truncate = [1000, *([0] * (s3.RESUMES + 1))]
    with pytest.raises(Unavailable) as caught:
        content(store, data)
    assert caught.value.code == "result_store.unavailable"


def test_a_result_that_goes_while_it_is_read_is_no_shorter_result(store, bucket, between):
    data = noise(3 * MIB)
    keep(store, data)
    between.truncate = [MIB]
    chunks = store.read(KEY, sha256="0")
    next(chunks)
    bucket.raw.delete_object(Bucket=bucket.name, Key=NAME)
    assert refused(lambda: b"".join(chunks)) == ("result.missing", None)


# --- ends in the middle -----------------------------------------------------------------------------------------------


def test_a_finish_that_was_cut_off_while_it_cleaned_up(store, bucket):
    data = noise(3 * MIB)
    send(store, data)
    kept = [name for name in bucket.names() if ".uploads" in name]
    parts = {name: bucket.raw.get_object(Bucket=bucket.name, Key=name)["Body"].read() for name in kept}
    finish(store, data)
    for name in kept[:2]:
        bucket.raw.put_object(Bucket=bucket.name, Key=name, Body=parts[name])
    finish(store, data)
    assert bucket.names() == [NAME]
    assert content(store, data) == data


def test_a_finish_is_not_done_before_the_parts_are_gone(store, bucket, between):
    """A part left behind would be taken for an abandoned upload later."""
    send(store, b"rows")
    between.fail["DeleteObject"] = [403]
    with pytest.raises(Unavailable):
        finish(store, b"rows")
    finish(store, b"rows")
    assert bucket.names() == [NAME]


@pytest.mark.parametrize("size", [3 * MIB, BIG])
def test_another_replica_finishes_first(store, bucket, between, size):
    data = noise(size)
    send(store, data)
    with opened(bucket) as other:
        between.after["GetObject"] = 1, lambda: finish(other, data)
        finish(store, data)
    assert content(store, data) == data
    assert [bucket.names(), bucket.multiparts()] == [[NAME], [NAME] if size == BIG else []]  # Abort is denied here


def test_somebody_deletes_it_while_it_is_finished(store, bucket, between):
    data = noise(3 * MIB)
    send(store, data)
    with opened(bucket) as other:
        between.after["GetObject"] = 1, lambda: other.delete(KEY)
        code, _ = refused(lambda: finish(store, data))
    assert code == "result.incomplete"
    assert bucket.names() == []


def test_a_broken_finish_leaves_nothing_behind_where_that_is_allowed(bucket):
    with gate(moto_url(), MINIMAL | {"AbortMultipartUpload"}) as between, opened(bucket, between.url) as store:
        data = noise(BIG)
        send(store, data)
        assert refused(lambda: finish(store, bytes(BIG))) == ("result.incomplete", BIG)
        assert bucket.multiparts() == []
        assert all(".uploads" in name for name in bucket.names())


def test_what_a_killed_finish_left_is_found_and_ended(bucket):
    with opened(bucket) as store:
        keep(store, b"rows")
        begun = bucket.raw.create_multipart_upload(Bucket=bucket.name, Key=NAME)
        other = bucket.raw.create_multipart_upload(Bucket=bucket.name, Key=NAME + "2")
        assert begun["UploadId"] != other["UploadId"]
        # All of moto's began in 2010.
        assert list(store.abandoned(datetime(2010, 1, 1, tzinfo=UTC))) == []
        assert list(store.abandoned(datetime(2011, 1, 1, tzinfo=UTC))) == [
            ("01REQUEST", "01EXECUTION"),
            ("01REQUEST", "01EXECUTION2"),
        ]
        store.discard(KEY)
        assert bucket.multiparts() == [NAME + "2"]
        assert content(store, b"rows") == b"rows"


def test_strangers_in_the_bucket_are_left_alone(store, bucket, caplog):
    bucket.raw.put_object(Bucket=bucket.name, Key="results/.uploads/not/ours/at/all", Body=b"")
    bucket.raw.put_object(Bucket=bucket.name, Key="elsewhere", Body=b"")
    assert list(store.abandoned(ahead())) == []
    assert "not dbward's" in caplog.text
    assert len(bucket.names()) == 2


# --- being asked ------------------------------------------------------------------------------------------------------


def test_ping_writes_until_it_could_and_asks_no_more_than_it_must(store, between, monkeypatch):
    between.allowed = MINIMAL - {"PutObject"}
    clock = [1000.0]
    monkeypatch.setattr(s3, "monotonic", lambda: clock[0])
    for _ in range(3):
        with pytest.raises(Unavailable):
            store.ping()
    assert between.seen == {"PutObject": 1}
    between.allowed = MINIMAL
    clock[0] += s3.PING_FOR.total_seconds()
    for _ in range(3):
        store.ping()
    assert between.seen == {"PutObject": 2, "ListBucket": 1}
    clock[0] += s3.PING_FOR.total_seconds()
    between.fail["ListBucket"] = [503]
    with pytest.raises(Unavailable):
        store.ping()
    clock[0] += s3.PING_FOR.total_seconds()
    store.ping()
    assert between.seen == {"PutObject": 2, "ListBucket": 3}


# --- who we are -------------------------------------------------------------------------------------------------------


class _Role(BaseHTTPRequestHandler):
    """What ECS answers a task that asks for the keys of its role."""

    def do_GET(self) -> None:
        keys = {"AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY, "Token": "", "RoleArn": "arn"}
        body = json.dumps(keys | {"Expiration": "2099-01-01T00:00:00Z"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def role(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], None]]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    httpd = HTTPServer(("127.0.0.1", 0), _Role)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
    thread.start()
    url = f"http://127.0.0.1:{httpd.server_address[1]}/role"
    yield lambda: monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_without_keys_the_role_of_the_task_is_used(role):
    with fresh_bucket(s3rver_url()) as bucket:
        settings = replace(bucket.settings(), access_key_id=None, secret_access_key=None)
        nobody = S3Results(settings)
        with pytest.raises(Unavailable):
            nobody.ping()
        nobody.close()
        role()
        store = S3Results(settings)
        keep(store, b"rows")
        assert content(store, b"rows") == b"rows"
        store.close()


# --- being chosen -----------------------------------------------------------------------------------------------------


def test_the_setting_chooses_the_store(bucket, tmp_path, monkeypatch):
    given = bucket.settings()
    section = f"""[result_storage]
backend = "s3"
bucket = "{given.bucket}"
endpoint = "{given.endpoint}"
access_key_id = "{given.access_key_id}"
secret_access_key = "${{S3_SECRET}}"
path_style = true
prefix = "/of/us/"
"""
    config = tmp_path / "server.toml"
    policy = POLICY.replace('[result_storage]\nbackend = "local"\n', section)
    config.write_text(f'state_dir = "{tmp_path / "state"}"\n{policy}')
    settings = load_server(config, {"S3_SECRET": SECRET_KEY})
    assert SECRET_KEY not in repr(replace(settings.results.s3, access_key_id=None))
    bootstrap.prepare(settings)
    rt = open_runtime(settings)
    rt.results.ping()
    keep(rt.results, b"rows")
    assert sorted(bucket.names()) == ["of/us/.ping", f"of/us/{KEY}"]
    rt.close()
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "dbward.results.s3")
    with pytest.raises(Misconfigured, match="not installed") as caught:
        open_runtime(settings)
    assert caught.value.code == "result_store.unsupported"
