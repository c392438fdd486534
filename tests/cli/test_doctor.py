"""`dbward doctor` on a real server, agent and databases, and on everything that can be wrong with them."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import sqlite3
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from dbward import VERSION
from tests.cli.conftest import Person, Ran
from tests.support import migrated, oidc, s3
from tests.support.processes import DBWARD, Farm, Server, call

TOKENS = {name: f"dbw_{secrets.token_hex(16)}" for name in ("alice", "bob")}
CONFIG = """
[[auth.users]]
id = "alice"
roles = ["requester"]
token = "${T_ALICE}"
[[auth.users]]
id = "bob"
roles = ["approver"]
token = "${T_BOB}"
[[databases]]
name = "shop"
environments = ["development", "production"]
[[workflows]]
environment = "development"
[workflows.auto_approve]
mode = "always"
[[workflows]]
environment = "production"
operations = ["execute_select"]
[[workflows.steps]]
approvers = [{ role = "approver" }]
[[workflows.steps]]
approvers = [{ role = "operator" }]
[[sql_review]]
environment = "production"
truncate = "off"
"""
"""Nobody is an operator, changes of production are not covered, and TRUNCATE is not looked at."""


@dataclass
class Found:
    """What one examination came to. Every secret that was in it has been looked for in all it printed."""

    ran: Ran
    checks: Mapping[str, dict[str, Any]]

    def __getitem__(self, name: str) -> tuple[str, str]:
        check = self.checks[name]
        return check["status"], " ".join([check["message"], *check.get("details", []), check.get("hint", "")])

    def status(self, *names: str) -> list[str]:
        return [self.checks[name]["status"] for name in names]

    @property
    def failed(self) -> set[str]:
        return {name for name, check in self.checks.items() if check["status"] == "fail"}

    @property
    def warned(self) -> set[str]:
        return {name for name, check in self.checks.items() if check["status"] == "warn"}


@dataclass
class Place:
    """A machine with a server that an agent serves one of two databases for."""

    farm: Farm
    server: Server
    home: Path
    secrets: list[str] = field(default_factory=list)

    def doctor(self, *argv: str, cwd: Path | None = None, **env: str) -> Found:
        person = Person(cwd or self.home, {"HOME": str(self.home), **env})
        ran = person("doctor", "--format", "json", "--timeout", "3", *argv)
        for secret in [*self.secrets, *env.values()]:
            if secret.startswith(("dbw_", "hidden-")):
                assert secret not in ran.out + ran.err
        data = ran.data
        checks = {check["id"]: check for check in data["checks"]}
        assert len(checks) == len(data["checks"])
        assert sum(data["summary"].values()) == len(checks)
        assert ran.status == (2 if data["summary"]["failed"] else 0)
        assert all("hint" in check for check in checks.values() if check["status"] == "fail"), checks
        return Found(ran, checks)

    def client(self, who: str = "alice", **env: str) -> Found:
        return self.doctor(**{"DBWARD_SERVER_URL": self.server.url, "DBWARD_TOKEN": TOKENS.get(who, who), **env})

    def agent_file(self, directory: Path, databases: Mapping[str, str], *, head: str = "", url: str = "") -> Path:
        path = directory / "agent.toml"
        lines = [
            head,
            f"probe_dir = {json.dumps(str(directory))}",
            "[server]",
            f"url = {json.dumps(url or self.server.url)}",
        ]
        lines += ['agent_token = "${DBWARD_AGENT_TOKEN}"']
        for name, target in databases.items():
            lines += [f"[databases.{name}.production]", f"url = {json.dumps(target)}"]
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o600)
        return path

    def agent(self, path: Path, token: str | None = None) -> Found:
        return self.doctor("--agent", str(path), DBWARD_AGENT_TOKEN=token or self.server.agent_token)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("doctor")
    database = directory / "shop.db"
    with closing(sqlite3.connect(database)) as conn, conn:
        conn.execute("CREATE TABLE items (id INTEGER PRIMARY KEY)")
    farm = Farm(directory)
    try:
        server = farm.server(config=CONFIG, env={f"T_{name.upper()}": token for name, token in TOKENS.items()})
        farm.agent(server, {("shop", "development"): f"sqlite:///{database}"})
        home = directory / "person"
        home.mkdir()
        yield Place(farm, server, home, [*TOKENS.values(), server.admin_token, server.agent_token])
    finally:
        farm.close()


# --- client -----------------------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_a_client_that_is_well(place: Place) -> None:
    found = place.client()
    assert (found.failed, found.warned) == (set(), set())
    assert found["auth_valid"] == ("pass", "alice (requester) ")
    assert found["databases_exist"][1].startswith("shop/development, shop/production")
    assert found["version_info"] == ("pass", f"both are {VERSION} ")
    assert found.status("tls", "agents_serve") == ["skip", "skip"]  # plain http; alice may not see agents


@pytest.mark.e2e
def test_what_no_agent_serves(place: Place) -> None:
    found = place.client(place.server.admin_token)
    assert found["agents_serve"][0] == "warn"
    assert "no agent serves shop/production" in found["agents_serve"][1]


@pytest.mark.e2e
def test_a_token_that_is_not_good(place: Place) -> None:
    unknown = place.client(f"dbw_{'0' * 32}")
    assert unknown.failed == {"auth_valid"}
    assert unknown.status("server_reachable", "databases_exist") == ["pass", "skip"]
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    status, made = call(
        "POST",
        f"{place.server.url}/api/tokens",
        TOKENS["alice"],
        {"subject_type": "user", "subject_id": "alice", "expires_at": soon},
    )
    assert status == 201, made
    place.farm.until(
        lambda: call("GET", f"{place.server.url}/api/me", made["token"])[0] == 401, "the token has expired"
    )
    expired = place.client(made["token"])
    assert expired.failed == {"auth_valid"}
    assert "expired" in expired["auth_valid"][1]
    assert place.doctor(DBWARD_SERVER_URL=place.server.url).failed == {"auth_configured"}


def test_a_server_that_is_not_there(place: Place, free_port: int) -> None:
    closed = place.client(DBWARD_SERVER_URL=f"http://127.0.0.1:{free_port}")
    assert closed.failed == {"server_reachable"}
    assert closed.status("server_ready", "clock", "auth_valid") == ["skip", "skip", "skip"]
    assert place.client(DBWARD_SERVER_URL="http://nobody.internal").failed == {"server_reachable"}


def test_a_client_whose_settings_are_wrong(place: Place, tmp_path: Path) -> None:
    nothing = place.doctor(cwd=tmp_path)
    assert nothing.failed == {"config_parse"}
    public = place.client(DBWARD_SERVER_URL="http://example.com")
    assert public.failed == {"server_url_scheme"}
    (tmp_path / "dbward.toml").write_text('default_database = "warehouse"\n[server]\nurll = "x"\nurl = 3\n')
    several = place.doctor(cwd=tmp_path)
    assert "urll" in several["config_parse"][1]
    assert "must be a text" in several["config_parse"][1]


@pytest.mark.e2e
def test_doubts_about_a_client(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "dbward.toml"
    path.write_text(
        f'default_database = "warehouse"\n[server]\nurl = "{place.server.url}"\ntoken = "{TOKENS["alice"]}"\n'
        '[results]\ndir = "dbward.toml/results"\n'
    )
    path.chmod(0o644)
    found = place.doctor(cwd=tmp_path, DBWARD_YES="of course")
    assert found.warned == {"config_parse", "config_permissions", "databases_exist", "env_vars"}
    assert found.failed == {"results_dir"}
    assert "(mode 0644)" in found["config_permissions"][1]
    assert "warehouse" in found["databases_exist"][1]


@pytest.mark.e2e
def test_an_identity_provider(place: Place, tmp_path: Path, free_port: int) -> None:
    provider = oidc.start(place.farm)
    path = tmp_path / "dbward.toml"

    def examine(issuer: str) -> Found:
        path.write_text(
            f'[server]\nurl = "{place.server.url}"\n[server.oidc]\nissuer = "{issuer}"\nclient_id = "dbward-cli"\n'
        )
        return place.doctor(cwd=tmp_path)

    there = examine(provider.issuer)
    assert there["oidc_discovery"][0] == "pass"
    assert there["auth_configured"][0] == "warn"  # nobody is logged in
    assert examine(f"{provider.issuer}/").failed == {"oidc_discovery"}
    assert examine(f"http://127.0.0.1:{free_port}").failed == {"oidc_discovery"}


class Elsewhere(BaseHTTPRequestHandler):
    """Answers as a much newer server whose clock is wrong and whose result store is gone."""

    health: ClassVar[dict[str, str]] = {"status": "ok", "version": "99.0.0", "min_agent_version": "98.0.0"}
    ahead: ClassVar[timedelta] = timedelta(hours=2)

    def do_GET(self) -> None:
        if self.path == "/health":
            self._say(200, self.health)
        elif self.path == "/ready":
            self._say(503, {"status": "degraded", "checks": {"sqlite": "ok", "results": "unavailable"}})
        else:
            self._say(401, {"error": "unauthorized", "code": "unauthorized"})

    def _say(self, status: int, body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        self.send_response_only(status)
        self.send_header("Date", format_datetime(datetime.now(UTC) + self.ahead, usegmt=True))
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its address. The certificate is trusted, and ends in three days."""
    certificate = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://localhost:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def _certificate(directory: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3, minutes=5))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "server.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + made.public_bytes(Encoding.PEM))
    return path


def test_a_server_of_another_version_and_time(place: Place, elsewhere: str) -> None:
    found = place.client(DBWARD_SERVER_URL=elsewhere)
    assert found.warned == {"tls", "version_info", "clock"}
    assert found.failed == {"server_ready", "auth_valid"}
    assert "in 3 days" in found["tls"][1]
    assert re.search(r"(7199|7200|7201) s behind", found["clock"][1])
    assert "pip install --upgrade dbward==99.0.0" in found["version_info"][1]
    assert "results does not answer" in found["server_ready"][1]


def test_a_certificate_that_is_not_trusted(place: Place, elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    found = place.client(DBWARD_SERVER_URL=elsewhere)
    assert found.failed == {"server_reachable"}
    assert "certificate is not accepted" in found["server_reachable"][1]


# --- agent ------------------------------------------------------------------------------------------------------------


def _with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.username}:{password}@{parts.hostname}:{parts.port}").geturl()


@pytest.mark.e2e
def test_databases_that_are_there_and_that_are_not(
    place: Place, tmp_path: Path, postgres_url: str, mariadb_url: str, free_port: int
) -> None:
    wrong = "hidden-and-wrong"
    no_database = tmp_path / "text.db"
    no_database.write_text("this is no database" * 100)
    with closing(sqlite3.connect(tmp_path / "good.db")) as conn:
        conn.execute("CREATE TABLE t (n)")
    urls = {
        "pg": postgres_url,
        "maria": mariadb_url,
        "file": f"sqlite:///{tmp_path}/good.db",
        "pg_password": _with_password(postgres_url, wrong),
        "maria_password": _with_password(mariadb_url, wrong),
        "pg_port": f"postgresql://ann:{wrong}@127.0.0.1:{free_port}/x",
        "maria_port": f"mysql://ann:{wrong}@127.0.0.1:{free_port}/x",
        "host": f"postgresql://ann:{wrong}@nobody.invalid/x",
        "option": f"mysql://ann:{wrong}@127.0.0.1/x?speed=high",
        "missing": f"sqlite:///{tmp_path}/missing.db",
        "text": f"sqlite:///{no_database}",
    }
    place.secrets.append(wrong)
    found = place.agent(place.agent_file(tmp_path, urls))
    good = [f"database:{name}/production" for name in ("pg", "maria", "file")]
    assert found.failed == {f"database:{name}/production" for name in urls} - set(good)
    assert found.status(*good, "agent_token_valid", "broker", "agent_version") == ["pass"] * 6
    assert "password authentication failed" in found["database:pg_password/production"][1]
    assert "Access denied" in found["database:maria_password/production"][1]
    assert "refused" in found["database:pg_port/production"][1]
    assert "speed" in found["database:option/production"][1]
    assert "read by others" not in found.ran.out


@pytest.mark.e2e
def test_accounts_that_may_more_or_less_than_they_should(place: Place, tmp_path: Path, postgres_url: str) -> None:
    role = f"dbward_{secrets.token_hex(4)}"
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'hidden-pw'")
        conn.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    parts = urlsplit(postgres_url)
    reader = parts._replace(netloc=f"{role}:hidden-pw@{parts.hostname}:{parts.port}").geturl()
    try:
        not_here = reader.replace("127.0.0.1", "2130706433")  # the same address, but not to the eye
        urls = {"reader": reader, "writer": postgres_url, "far": not_here}
        offers = place.agent(place.agent_file(tmp_path, urls))
        assert offers["tls:far/production"][0] == "warn"
        assert "tls:reader/production" not in offers.checks
        assert offers.status("account:reader/production", "account:writer/production") == ["warn", "pass"]
        only_reads = place.agent(place.agent_file(tmp_path, urls, head='operations = ["execute_select"]'))
        assert only_reads.status("account:reader/production", "account:writer/production") == ["pass", "warn"]
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as conn:
            conn.execute(f"DROP OWNED BY {role}")
            conn.execute(f"DROP ROLE {role}")


@pytest.mark.e2e
def test_an_agent_whose_token_is_not_good(place: Place, tmp_path: Path) -> None:
    path = place.agent_file(tmp_path, {"shop": f"sqlite:///{place.farm.dir}/shop.db"})
    assert place.agent(path, f"dbw_{'0' * 32}").failed == {"agent_token_valid"}
    of_a_person = place.agent(path, TOKENS["alice"])
    assert of_a_person.failed == {"agent_token_valid"}
    assert "not an agent's" in of_a_person["agent_token_valid"][1]


def test_an_agent_whose_settings_are_wrong(place: Place, tmp_path: Path, elsewhere: str) -> None:
    path = place.agent_file(tmp_path, {"a": "${HIDDEN_URL}", "b": "${file:/nowhere/url}"}, url=elsewhere)
    missing = place.doctor("--agent", str(path), DBWARD_AGENT_TOKEN="")
    assert missing.failed == {"env_vars", "config_parse"}
    assert "HIDDEN_URL, /nowhere/url" in missing["env_vars"][1]
    assert place.doctor("--agent", cwd=tmp_path / "nowhere").failed == {"config_parse"}
    path.write_text(
        path.read_text().replace("${HIDDEN_URL}", "sqlite:////nowhere/a").replace("${file:/nowhere/url}", "x")
    )
    assert "must start with" in place.agent(path)["config_parse"][1]
    path.write_text(path.read_text().replace('"x"', '"postgresql://ann:hidden-pw@nobody.invalid/x"'))
    path.chmod(0o644)
    place.secrets.append("hidden-pw")
    found = place.agent(path)
    assert found.warned >= {"config_permissions", "tls", "version_info"}
    assert found.failed >= {"clock", "agent_version", "agent_token_valid"}


# --- server -----------------------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_a_server_that_runs(place: Place) -> None:
    variables = {f"T_{name.upper()}": token for name, token in TOKENS.items()}
    where = ("--server", str(place.server.config), "--server-url", place.server.url)
    found = place.doctor(*where, **variables)
    assert found.failed == set()
    assert found.warned == {
        "backup", "agents_serve", "workflow_coverage", "workflow_step_validity", "sql_review_safety",
    }  # fmt: skip
    assert "role:operator has 0 of 1" in found["workflow_step_validity"][1]
    assert "shop/production: execute_dml, " in found["workflow_coverage"][1]
    assert "shop/production: truncate" in found["sql_review_safety"][1]
    assert found.status("admin_token", "tokens", "server_running", "result_store") == ["pass"] * 4
    soon = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    body = {"subject_type": "user", "subject_id": "alice", "expires_at": soon}
    status, made = call("POST", f"{place.server.url}/api/tokens", TOKENS["alice"], body)
    assert status == 201
    found = place.doctor(*where, **variables)
    assert made["id"] in found["tokens"][1]
    key = place.server.state_dir / "signing.key"
    for mode, status in ((0o640, "warn"), (0o644, "fail")):
        key.chmod(mode)
        assert place.doctor(*where, **variables)["state_permissions"][0] == status
    key.chmod(0o600)


@dataclass
class Stopped:
    """The files of a server that does not run."""

    place: Place
    directory: Path

    def examine(self, config: str = "", **state: str) -> Found:
        path = self.directory / "server.toml"
        sections = "".join(f"[state]\n{key} = {json.dumps(value)}\n" for key, value in state.items())
        where = f"state_dir = {json.dumps(str(self.directory / 'state'))}\n"
        path.write_text(where + "[server]\nlisten = '127.0.0.1:0'\n" + sections + config)
        return self.place.doctor("--server", str(path))


@pytest.fixture
def stopped(place: Place, tmp_path: Path) -> Stopped:
    return Stopped(place, tmp_path)


def test_a_server_that_has_not_been_started(stopped: Stopped) -> None:
    found = stopped.examine(
        "[[databases]]\nname = 'app'\nenvironments = ['x']\n[[workflows]]\nauto_approve = {mode='always'}"
    )
    assert (found.failed, found.warned) == (set(), {"backup"})
    assert found["state_store"][1].startswith("empty")
    assert not (stopped.directory / "state").exists()
    nothing = stopped.examine()
    assert nothing.failed == {"workflow_validity"}


def test_a_server_whose_state_is_elsewhere(stopped: Stopped, free_port: int, postgres_url: str) -> None:
    found = stopped.examine(url=f"postgresql://ann:hidden-pw@127.0.0.1:{free_port}/x")
    assert "state_store" in found.failed
    assert "refused" in found["state_store"][1]
    found = stopped.examine(url=_with_password(postgres_url, "hidden-wrong"))
    assert "password authentication failed" in found["state_store"][1]
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute("CREATE TABLE requests (id int)")
    assert "dbward did not make" in stopped.examine(url=postgres_url)["state_store"][1]
    with migrated.postgres_copy() as url:
        (stopped.directory / "state").mkdir(mode=0o700)
        found = stopped.examine(url=url)
    assert found.status("state_store", "state_clock", "signing_keys") == ["pass", "pass", "fail"]


def test_a_state_that_is_not_sound(stopped: Stopped) -> None:
    state = stopped.directory / "state"
    state.mkdir(mode=0o700)
    migrated.sqlite_copy(state / "dbward.db")
    (state / "dbward.db").chmod(0o600)
    found = stopped.examine()
    assert found.status("state_store", "signing_keys") == ["pass", "fail"]
    with closing(sqlite3.connect(state / "dbward.db")) as conn, conn:
        conn.execute("UPDATE alembic_version SET version_num = '9999'")
        conn.execute("DELETE FROM server_meta WHERE key = 'schema_floor'")
    newer = stopped.examine()
    assert "written by a newer version" in newer["state_store"][1]
    with closing(sqlite3.connect(state / "dbward.db")) as conn, conn:
        conn.execute("INSERT INTO server_meta (key, value) VALUES ('schema_floor', '0001')")
    assert "this one works on it" in stopped.examine()["state_store"][1]
    (state / "dbward.db").write_bytes(b"no database" * 1000)
    assert stopped.examine()["state_store"][0] == "fail"


def test_where_results_go(stopped: Stopped, monkeypatch: pytest.MonkeyPatch) -> None:
    (stopped.directory / "file").write_text("")
    assert stopped.examine("[result_storage]\nroot_dir = 'file/results'")["result_store"][0] == "fail"
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    base = s3.moto_url()
    with s3.fresh_bucket(base) as bucket:
        section = f"[result_storage]\nbackend = 's3'\nendpoint = '{base}'\npath_style = true\nregion = 'us-east-1'\n"
        section += "access_key_id = 'someone'\nsecret_access_key = 'hidden-s3-key'\n"
        found = stopped.examine(section + f"bucket = '{bucket.name}'")
        assert found["result_store"][0] == "pass"
        assert "result_store" in stopped.examine(section + "bucket = 'another-one'").failed
    assert "hidden-s3-key" not in found.ran.out


def test_a_port_that_somebody_else_has(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text(f"state_dir = 'state'\n[server]\nlisten = '127.0.0.1:{place.server.port}'\n")
    assert "listen" in place.doctor("--server", str(path)).failed


def test_when_backups_were_made(stopped: Stopped) -> None:
    backups = stopped.directory / "backups"
    section = "[backup]\nevery_hours = 1\ntarget = 'backups'\n"
    assert stopped.examine(section)["backup"][1].startswith("there is no backup yet")
    backups.mkdir()
    (backups / "dbward-20240101T000000000Z.tar.gz").touch()
    assert stopped.examine(section)["backup"][0] == "warn"
    (backups / f"dbward-{datetime.now(UTC):%Y%m%dT%H%M%S}000Z.tar.gz").touch()
    assert stopped.examine(section)["backup"][0] == "pass"


# --- the program ------------------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_as_people_see_it(place: Place, tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(place.home), "DBWARD_SERVER_URL": place.server.url}

    def run(*argv: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*DBWARD, *argv], env={**env, **more}, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    well = run("doctor", DBWARD_TOKEN=TOKENS["alice"])
    assert (well.returncode, well.stderr) == (0, "")
    assert well.stdout.splitlines()[0].split() == ["CHECK", "MESSAGE"]
    assert "TOTAL" in well.stdout.splitlines()[-1]
    assert "0 warnings, 0 failed" in well.stdout
    ill = run("doctor")
    assert ill.returncode == 2
    assert "✗  auth_configured" in ill.stdout
    assert "💡 set DBWARD_TOKEN" in ill.stderr
    quiet = run("doctor", "--format", "quiet")
    assert (quiet.returncode, quiet.stderr) == (2, "")
    assert json.loads(quiet.stdout)["error"]["code"] == "doctor_issues_found"


PAGE = (Path(__file__).parents[2] / "docs/guides/doctor.md").read_text()


@pytest.mark.e2e
def test_what_the_page_says_to_type(place: Place, tmp_path: Path) -> None:
    place.agent_file(tmp_path, {"shop": f"sqlite:///{place.farm.dir}/shop.db"})
    (tmp_path / "server.toml").write_bytes(place.server.config.read_bytes())
    env = {"DBWARD_SERVER_URL": place.server.url, "DBWARD_TOKEN": TOKENS["alice"]}
    env |= {"DBWARD_AGENT_TOKEN": place.server.agent_token, "T_ALICE": TOKENS["alice"], "T_BOB": TOKENS["bob"]}
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^dbward .+", PAGE, re.MULTILINE)]
    assert len(commands) == 3
    kinds = [place.doctor(*words[2:], cwd=tmp_path, **env).ran.data["kind"] for words in commands]
    assert kinds == ["client", "agent", "server"]


def test_a_configuration_in_the_environment(place: Place, tmp_path: Path) -> None:
    text = "state_dir = 'state'\n[server]\nlisten = '127.0.0.1:0'\n[auth]\ndefault_role = '${ROLE}'\n"
    found = place.doctor("--server", cwd=tmp_path, DBWARD_CONFIG_TOML=text, ROLE="requester")
    assert (found.failed, found.status("config_permissions")) == ({"workflow_validity"}, ["skip"])
    assert place.doctor("--server", cwd=tmp_path, DBWARD_CONFIG_TOML=text).failed == {"env_vars", "config_parse"}
