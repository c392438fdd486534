"""A store of each kind: on a directory, and on two S3 servers that share no code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dbward.results.local import LocalResults
from dbward.results.s3 import S3Results
from dbward.results.store import ResultStore
from tests.support.s3 import Bucket, fresh_bucket, moto_url, s3rver_url

S3_SERVERS: dict[str, Callable[[], str]] = {"moto": moto_url, "s3rver": s3rver_url}


@pytest.fixture(params=["local", *S3_SERVERS])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], ResultStore]]:
    """Opens the same place again and again, as a server does after a restart, or as another replica does."""
    if request.param == "local":
        yield lambda: LocalResults(tmp_path / "results")
        return
    stores: list[S3Results] = []
    with fresh_bucket(S3_SERVERS[request.param]()) as bucket:

        def again() -> ResultStore:
            stores.append(S3Results(bucket.settings()))
            return stores[-1]

        yield again
        for store in stores:
            store.close()


@pytest.fixture
def store(opened: Callable[[], ResultStore]) -> ResultStore:
    return opened()


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    """One on moto, which knows more of S3 than the other."""
    with fresh_bucket(moto_url()) as bucket:
        yield bucket
