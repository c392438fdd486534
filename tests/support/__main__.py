"""`python -m tests.support`: have everything from npm that the tests need, before they begin."""

from __future__ import annotations

from tests.support import dbmate, oidc, s3
from tests.support.npm import install

for directory in (dbmate.HERE, oidc.HERE, s3.S3RVER):
    install(directory)
