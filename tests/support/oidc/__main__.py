"""`python -m tests.support.oidc`: have the provider installed before the tests begin."""

from __future__ import annotations

from tests.support.oidc import install

install()
