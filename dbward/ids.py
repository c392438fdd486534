"""Identifiers and secrets: where each kind of random text is made."""

from __future__ import annotations

import hashlib
import secrets
import uuid

TOKEN_PREFIX = "dbw_"
TOKEN_BYTES = 16


def new_id() -> str:
    """A UUIDv4 text, the form of every id on the wire."""
    return str(uuid.uuid4())


def new_token() -> str:
    """A plaintext API token: `dbw_` and 32 lower-case hex digits (128 random bits). Shown once, stored hashed."""
    return token_of(secrets.token_bytes(TOKEN_BYTES))


def token_of(random: bytes) -> str:
    """The token that `TOKEN_BYTES` random bytes make."""
    return TOKEN_PREFIX + random.hex()


def token_prefix(plaintext: str) -> str:
    """The eight characters after `dbw_`: what a token is looked up by. Not secret."""
    return plaintext.removeprefix(TOKEN_PREFIX)[:8]


def token_hash(plaintext: str) -> str:
    """SHA-256 hex of the whole token. A fast hash is right here: the input has 128 random bits."""
    return hashlib.sha256(plaintext.encode()).hexdigest()
