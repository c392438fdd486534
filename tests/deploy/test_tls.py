"""TLS in front of the server: Caddy with the Caddyfile of the page and of Compose, and what is promised of proxies."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.support import engine
from tests.support.processes import DBWARD, POLICY, Farm, Server
from tests.support.services import free_port
from web.wsgi import KEEP_ALIVE_SECS

CADDYFILE = engine.ROOT / "deploy" / "compose" / "caddy" / "Caddyfile"
PAGE = (engine.ROOT / "docs" / "deployment" / "tls.md").read_text()
LONGEST_SECS = 300
"""How long a stream of rows may be held open."""


def test_caddy_likes_its_file() -> None:
    caddy = engine.TOOLS / "caddy"
    done = subprocess.run(
        [caddy, "validate", "--adapter", "caddyfile", "--config", CADDYFILE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"level":"warn"' not in done.stderr
    assert (
        subprocess.run([caddy, "fmt", CADDYFILE], capture_output=True, text=True, check=True).stdout
        == CADDYFILE.read_text()
    )


def test_proxies_close_idle_connections_first_and_wait_for_the_longest_call() -> None:
    caddy = re.search(r"keepalive (\d+)s", CADDYFILE.read_text())
    nginx = re.search(r"keepalive_timeout (\d+)s", PAGE)
    read = re.search(r"proxy_read_timeout (\d+)s", PAGE)
    assert caddy is not None
    assert nginx is not None
    assert read is not None
    assert max(int(caddy[1]), int(nginx[1])) < KEEP_ALIVE_SECS
    assert int(read[1]) > LONGEST_SECS
    assert f"after {KEEP_ALIVE_SECS} seconds" in PAGE
    assert "response_header_timeout" not in CADDYFILE.read_text()


@pytest.mark.e2e
@pytest.mark.parametrize("proxy", ["caddy", "nginx"])
def test_an_agent_and_a_client_work_through_it(farm: Farm, sqlite_path: Path, proxy: str) -> None:
    server = farm.server(config=f'trusted_proxies = ["127.0.0.1"]\n{POLICY}')
    url, authority = _caddy(farm, server) if proxy == "caddy" else _nginx(farm, server)
    sqlite_path.touch()
    trust = {"SSL_CERT_FILE": str(authority)}
    farm.agent(url, {("app", "development"): f"sqlite:///{sqlite_path}"}, token=server.agent_token, env=trust)
    client = {**trust, "DBWARD_SERVER_URL": url, "DBWARD_TOKEN": server.admin_token}
    words = ["execute", "--database", "app", "-e", "development", "--format", "json", "SELECT 40 + 2 AS answer"]
    ran = farm.spawn("client", [*DBWARD, *words], env=client)
    assert ran.wait(60) == 0, ran.log()
    assert "42" in ran.log()
    (farm.dir / "other").mkdir()
    other, _ = _certificate(farm.dir / "other")
    refused = farm.spawn("distrustful", [*DBWARD, "whoami"], env={**client, "SSL_CERT_FILE": str(other)})
    assert refused.wait(60) == 1
    assert "certificate is not accepted" in refused.log()
    context = ssl.create_default_context(cafile=str(authority))
    with urllib.request.urlopen(f"{url}/ready", context=context, timeout=30) as answer:
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


def _caddy(farm: Farm, server: Server) -> tuple[str, Path]:
    """The Caddyfile as it is, but for ports that are free here and no way to administrate it."""
    https = free_port()
    config = farm.dir / "Caddyfile"
    config.write_text(CADDYFILE.read_text().replace("{\n", f"{{\n\tadmin off\n\thttp_port {free_port()}\n", 1))
    env = {"DBWARD_DOMAIN": f"localhost:{https}", "DBWARD_UPSTREAM": f"127.0.0.1:{server.port}"}
    argv = [str(engine.TOOLS / "caddy"), "run", "--adapter", "caddyfile", "--config", str(config)]
    process = farm.spawn("caddy", argv, env={**env, "XDG_DATA_HOME": str(farm.dir / "caddy")})
    authority = farm.dir / "caddy" / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    farm.until(lambda: authority.exists() and _answers(https, authority), "Caddy answers", process)
    return f"https://localhost:{https}", authority


def _nginx(farm: Farm, server: Server) -> tuple[str, Path]:
    """The configuration of the page, but for ports and names that are ours, inside what a distribution brings."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("the configuration for nginx is NOT tested: nginx is not installed")
    https = free_port()
    authority, key = _certificate(farm.dir)
    found = re.search(r"^```nginx\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    text = found[1]
    for theirs, ours in {
        "127.0.0.1:3000": f"127.0.0.1:{server.port}",
        "listen 443": f"listen 127.0.0.1:{https}",
        "dbward.example.com": "localhost",
        "/etc/ssl/dbward/fullchain.pem": str(authority),
        "/etc/ssl/dbward/key.pem": str(key),
    }.items():
        assert theirs in text
        text = text.replace(theirs, ours)
    paths = "".join(f"{name}_temp_path {farm.dir};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = farm.dir / "nginx.conf"
    config.write_text(
        f"pid {farm.dir}/nginx.pid; error_log stderr; events {{}} http {{ access_log off; {paths}\n{text}}}\n"
    )
    process = farm.spawn("nginx", [program, "-c", str(config), "-g", "daemon off;"])
    farm.until(lambda: _answers(https, authority), "nginx answers", process)
    return f"https://localhost:{https}", authority


def _certificate(directory: Path) -> tuple[Path, Path]:
    """One for localhost that vouches for itself, and its key."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, None)
    )
    certificate_file, key_file = directory / "certificate.pem", directory / "key.pem"
    certificate_file.write_bytes(made.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate_file, key_file


def _answers(port: int, authority: Path) -> bool:
    try:
        context = ssl.create_default_context(cafile=str(authority))
        with urllib.request.urlopen(f"https://localhost:{port}/ready", context=context, timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
