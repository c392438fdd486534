"""`[result_storage]` of the server's file: what is wrong is told with its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbward.errors import Misconfigured
from dbward.settings.server import S3Settings, load_server
from tests.support.processes import POLICY


def load(tmp_path: Path, section: str) -> S3Settings:
    path = tmp_path / "server.toml"
    policy = POLICY.replace('[result_storage]\nbackend = "local"\n', section)
    path.write_text(f'state_dir = "state"\n{policy}')
    return load_server(path, {}).results.s3


@pytest.mark.parametrize(
    ("section", "key", "what"),
    [
        ('[result_storage]\nbackend = "gcs"', "result_storage.backend", "not one of"),
        ('[result_storage]\nbackend = "s3"\nbucket = "a b"', "result_storage.bucket", "bucket's name"),
        ('[result_storage]\nbackend = "s3"\nprefix = "/"', "result_storage.prefix", "between slashes"),
        ('[result_storage]\nbackend = "s3"\nregion = ""', "result_storage.region", "eu-central-1"),
        ('[result_storage]\nendpoint = "https://me:pw@s3.example.com"', "result_storage.endpoint", "login"),
        ('[result_storage]\nendpoint = "s3.example.com"', "result_storage.endpoint", "URL"),
    ],
)
def test_wrong(tmp_path, section, key, what):
    with pytest.raises(Misconfigured) as caught:
        load(tmp_path, section)
    assert key in caught.value.message
    assert what in caught.value.message


def test_a_bucket_is_enough(tmp_path):
    s3 = load(tmp_path, '[result_storage]\nbackend = "s3"\nbucket = "rows"\n')
    assert s3 == S3Settings(bucket="rows")


def test_slashes_around_the_prefix_do_not_count(tmp_path):
    assert load(tmp_path, '[result_storage]\nprefix = "/team/rows/"\n').prefix == "team/rows"
