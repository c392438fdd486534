"""Whether the way to a database is encrypted."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.support.services import own_postgres
from worker.drivers import open_driver
from worker.links import is_encrypted

SECS = 20


def test_on_postgresql_before_and_after_it_has_a_certificate() -> None:
    with own_postgres() as url:
        assert is_encrypted(open_driver(url)) is False
        key, certificate = _pair()
        with psycopg.connect(url, autocommit=True) as conn:
            for name, text in (("server.key", key), ("server.crt", certificate)):
                conn.execute(f"COPY (SELECT 1) TO PROGRAM 'umask 077; printf %b \"{text}\" > {name}'")
            conn.execute("ALTER SYSTEM SET ssl = on")
            conn.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + SECS
        while not is_encrypted(open_driver(url)):  # the server takes its settings over when it comes to it
            assert time.monotonic() < deadline
        assert is_encrypted(open_driver(f"{url}?sslmode=require")) is True
        assert is_encrypted(open_driver(f"{url}?sslmode=disable")) is False


def test_on_mariadb(mariadb_url: str) -> None:
    assert is_encrypted(open_driver(f"{mariadb_url}?ssl_mode=disabled")) is False


def test_where_nobody_answers(free_port: int) -> None:
    assert is_encrypted(open_driver(f"postgresql://ann:pw@127.0.0.1:{free_port}/x")) is None
    assert is_encrypted(open_driver("sqlite:////nowhere/x.db")) is None


def _pair() -> tuple[str, str]:
    """A key and its certificate for `localhost`, with `\\n` for the ends of lines."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
    ).sign(key, hashes.SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    texts = (private.decode(), made.public_bytes(Encoding.PEM).decode())
    return texts[0].replace("\n", "\\n"), texts[1].replace("\n", "\\n")
