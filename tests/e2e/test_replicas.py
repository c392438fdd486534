"""Three servers on one PostgreSQL state are one: what is decided at one of them holds at all."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from alembic.script import ScriptDirectory

from dbward.db.migrations import migrate
from dbward.db.revisions import SCHEMA
from dbward.settings.server import StateSettings
from dbward.tokencache import CACHE_TTL
from tests.support import replicas
from tests.support.processes import DBWARD, Farm, Server, call

pytestmark = pytest.mark.e2e

TOKENS = {name: f"dbw_{secrets.token_hex(16)}" for name in ("alice", "bob", "carol", "olga")}
PROD = """
[[workflows]]
environment = "production"
[[workflows.steps]]
approvers = [{ role = "approver" }]
"""
CONFIG = f"""
{replicas.STATE}
[[databases]]
name = "app"
environments = ["development", "production"]
[[auth.users]]
id = "alice"
roles = ["requester"]
token = "${{TOKEN_ALICE}}"
[[auth.users]]
id = "bob"
roles = ["approver"]
token = "${{TOKEN_BOB}}"
[[auth.users]]
id = "olga"
roles = ["operator"]
token = "${{TOKEN_OLGA}}"
[[workflows]]
environment = "development"
[workflows.auto_approve]
mode = "always"
{PROD}
"""
CAROL = """
[[auth.users]]
id = "carol"
roles = ["requester", "approver"]
token = "${TOKEN_CAROL}"
"""
WAIT_SECS = 60
"""Of a long-poll in these tests: one that was not woken ends long after they have failed."""
NO_WAKE_SECS = 10
"""A wake-up takes milliseconds; a waiting call looks by itself only after 15 seconds."""

NOT_TOLD_SECS = CACHE_TTL.total_seconds() + 5
"""How long a server may go on that was not told, and time for a slow machine."""


@dataclass(frozen=True, slots=True)
class Trio:
    """Three replicas, each with a directory of its own and the same file in it."""

    farm: Farm
    servers: tuple[Server, Server, Server]

    def write(self, config: str, *servers: Server) -> None:
        for server in servers or self.servers:
            draft = server.config.with_suffix(".new")
            draft.write_text(config)
            draft.replace(server.config)

    def reload(self, server: Server, *, status: int = 0) -> str:
        argv = [*DBWARD, "server", "reload", "--server-config", str(server.config)]
        command = self.farm.spawn("reload", argv, env=dict(server.env))
        assert command.wait(60) == status, command.log()
        return command.log()

    def statuses(self, who: str, path: str = "/api/me") -> list[int]:
        return [call("GET", server.url + path, TOKENS[who])[0] for server in self.servers]


def ask(who: str, server: Server, method: str, path: str, body: Any = None) -> Any:
    """The answer to a call that must succeed."""
    status, said = call(method, server.url + path, TOKENS[who], body, timeout=WAIT_SECS + 30)
    assert status in {200, 201}, (status, said)
    return said


def create(who: str, server: Server, environment: str = "production") -> Any:
    body = {"database": "app", "environment": environment, "detail": "SELECT 1"}
    return ask(who, server, "POST", "/api/requests", body)


@pytest.fixture
def trio(farm: Farm, postgres_url: str) -> Trio:
    tokens = {f"TOKEN_{who.upper()}": token for who, token in TOKENS.items()}
    a, b, c = replicas.start(farm, postgres_url, CONFIG + CAROL, tokens)
    return Trio(farm, (a, b, c))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def gauge(server: Server, name: str) -> float:
    """By its own count, for whoever may read the metrics."""
    headers = {"Authorization": f"Bearer {TOKENS['olga']}"}
    text = httpx2.get(f"{server.url}/metrics", headers=headers).raise_for_status().text
    (value,) = re.findall(rf"^dbward_{name} (\S+)$", text, re.MULTILINE)
    return float(value)


def poll(trio: Trio, pool: ThreadPoolExecutor, who: str, server: Server, path: str) -> Future[Any]:
    """A long-poll that has arrived."""
    waiting = pool.submit(ask, who, server, "GET", path)
    trio.farm.until(lambda: waiting.done() or gauge(server, "waiting_calls") == 1, "it waits", server.process)
    return waiting


def test_one_token_opens_all_of_them(trio: Trio):
    assert trio.statuses("alice") == [200, 200, 200]
    a, b, c = trio.servers
    made = create("alice", a)
    for server in (b, c):
        assert ask("alice", server, "GET", f"/api/requests/{made['id']}")["status"] == "pending"


def test_a_request_of_one_approved_at_another_wakes_who_waits_at_the_third(trio: Trio, pool: ThreadPoolExecutor):
    a, b, c = trio.servers
    made = create("alice", a)
    waiting = poll(trio, pool, "alice", c, f"/api/requests/{made['id']}?wait={WAIT_SECS}")
    assert not waiting.done()
    ask("bob", b, "POST", f"/api/requests/{made['id']}/approve", {})
    assert waiting.result(NO_WAKE_SECS)["status"] == "approved"


def test_a_revoked_token_is_refused_everywhere(trio: Trio):
    a, b, _ = trio.servers
    issued = ask("alice", a, "POST", "/api/tokens", {"subject_id": "alice", "subject_type": "user", "name": "one"})

    def statuses() -> list[int]:
        return [call("GET", f"{server.url}/api/me", issued["token"])[0] for server in trio.servers]

    assert statuses() == [200, 200, 200], "every server remembers it now"
    ask("alice", b, "DELETE", f"/api/tokens/{issued['id']}")
    assert statuses()[1] == 401, "at once where it was revoked"
    trio.farm.until(lambda: statuses() == [401, 401, 401], "no server takes it any more", secs=NOT_TOLD_SECS)


def test_a_suspended_person_is_refused_everywhere(trio: Trio):
    a, b, c = trio.servers
    admin = a.admin_token
    status, made = call("POST", f"{a.url}/api/users", admin, {"id": "nina", "roles": ["requester"]})
    assert status == 201, made

    def statuses() -> list[int]:
        return [call("GET", f"{server.url}/api/me", made["token"])[0] for server in trio.servers]

    assert statuses() == [200, 200, 200], "every server remembers it now"
    status, _ = call("POST", f"{b.url}/api/users/nina/suspend", admin, {"reason": "left"})
    assert status == 200
    assert statuses()[1] == 401, "at once where it was done"
    trio.farm.until(lambda: statuses() == [401, 401, 401], "no server lets nina in", secs=NOT_TOLD_SECS)
    assert call("POST", f"{c.url}/api/users/nina/activate", admin)[0] == 200


def test_a_limit_is_one_for_all_of_them(trio: Trio):
    """Each lets through what the others have left of it, told within about a second."""
    trio.write(CONFIG + CAROL + "[limits]\nwrites_per_minute = 30\n")
    trio.reload(trio.servers[0])

    def limited(server: Server) -> bool:
        body = {"database": "app", "environment": "production", "detail": "SELECT 1"}
        return call("POST", f"{server.url}/api/requests", TOKENS["alice"], body)[0] == 429

    for server in trio.servers:
        trio.farm.until(lambda server=server: limited(server), f"{server.name} says so", secs=NO_WAKE_SECS)
    assert not any(call("GET", f"{s.url}/api/me", TOKENS["carol"])[0] == 429 for s in trio.servers)


def test_a_person_removed_from_the_file_is_refused_everywhere(trio: Trio):
    assert trio.statuses("carol") == [200, 200, 200], "every server remembers carol now"
    made = create("carol", trio.servers[2])
    trio.write(CONFIG)
    assert trio.reload(trio.servers[0]) == "- [[auth.users]] carol\n"
    trio.farm.until(lambda: trio.statuses("carol") == [401, 401, 401], "no server lets carol in", secs=NO_WAKE_SECS)
    assert trio.statuses("alice") == [200, 200, 200]
    assert ask("olga", trio.servers[1], "GET", f"/api/requests/{made['id']}")["status"] == "cancelled"


def test_a_policy_reloaded_at_one_is_in_force_at_all(trio: Trio):
    a, b, c = trio.servers
    old = create("alice", b)
    trio.write(CONFIG.replace('role = "approver" }]', 'user = "olga" }]') + CAROL)
    trio.reload(b)
    new = {server.name: "" for server in trio.servers}

    def approvable_by_olga(server: Server) -> bool:
        made = create("alice", server)
        new[server.name] = made["id"]
        return call("POST", f"{a.url}/api/requests/{made['id']}/approve", TOKENS["olga"], {})[0] == 200

    for server in (b, a, c):
        trio.farm.until(
            lambda server=server: approvable_by_olga(server), f"it is in force at {server.name}", secs=NO_WAKE_SECS
        )
    assert call("POST", f"{c.url}/api/requests/{old['id']}/approve", TOKENS["olga"], {})[0] == 403
    assert ask("bob", c, "POST", f"/api/requests/{old['id']}/approve", {})["status"] == "approved", "it keeps its own"
    for server in (a, c):
        trio.farm.until(lambda server=server: "was taken over" in server.process.log(), f"{server.name} says so")
        assert "keeps its own" not in server.process.log()
    assert len(ask("olga", a, "GET", "/api/audit/events?event_type=config.synced")["events"]) == 4, (
        "three starts, one reload"
    )


def test_a_long_poll_goes_on_under_the_new_policy(trio: Trio, pool: ThreadPoolExecutor):
    """It waits at one server while another reloads, and answers to whom the new configuration lets see it."""
    a, b, c = trio.servers
    made = create("alice", a)
    waiting = poll(trio, pool, "carol", c, f"/api/requests/{made['id']}?wait={WAIT_SECS}")
    assert not waiting.done()
    trio.write(CONFIG)
    trio.reload(b)
    error = waiting.exception(NO_WAKE_SECS)
    assert isinstance(error, AssertionError)
    assert "401" in str(error)


def test_a_server_whose_file_is_another_keeps_what_it_has_and_says_so(trio: Trio):
    a, b, c = trio.servers
    closed = CONFIG.replace(PROD, "") + CAROL
    trio.write(closed, a)
    trio.write("surprise = 1\n" + closed, b)
    trio.reload(a)
    for server in (b, c):
        trio.farm.until(lambda server=server: "keeps its own" in server.process.log(), f"{server.name} says so")
        assert create("alice", server)["status"] == "pending"
    assert "surprise" in b.process.log()
    assert "another one than the file there" in c.process.log()
    body = {"database": "app", "environment": "production", "detail": "SELECT 1"}
    assert call("POST", f"{a.url}/api/requests", TOKENS["alice"], body)[0] == 400
    assert "surprise" in trio.reload(b, status=1)
    trio.write(closed)
    for server in (b, c):
        trio.reload(server)
        assert call("POST", f"{server.url}/api/requests", TOKENS["alice"], body)[0] == 400


def test_another_keeps_house_when_the_one_that_did_is_killed(trio: Trio):
    def keepers() -> list[Server]:
        return [server for server in trio.servers if server.process.alive and gauge(server, "housekeeping")]

    first = trio.farm.until(keepers, "one of them keeps house")
    assert len(first) == 1
    first[0].process.kill()
    second = trio.farm.until(keepers, "another one does")
    assert len(second) == 1
    assert second != first


def test_servers_of_the_version_before_go_on_while_a_newer_one_upgrades(trio: Trio, postgres_url: str, tmp_path: Path):
    """The newer one is its migration, which is what the others see of it."""
    newer = tmp_path / "schema"
    shutil.copytree(SCHEMA, newer)
    head = ScriptDirectory(str(SCHEMA)).get_current_head()
    (newer / "versions" / "9000_next.py").write_text(NEXT.format(head=head))
    a, b, c = trio.servers
    made = create("alice", a)
    assert migrate(StateSettings(postgres_url), scripts=newer) == head
    ask("bob", b, "POST", f"/api/requests/{made['id']}/approve", {})
    c.process.kill()
    c.start_again()
    assert "of a newer version of dbward" in c.process.log()
    assert ask("alice", c, "GET", f"/api/requests/{made['id']}")["status"] == "approved"
    assert create("alice", c)["status"] == "pending"


NEXT = """
from alembic import op
import sqlalchemy as sa

revision = "9000"
down_revision = "{head}"
additive = True


def upgrade() -> None:
    op.add_column("requests", sa.Column("colour", sa.String(8), server_default="red", nullable=False))
"""


def test_a_server_that_would_not_fit_is_refused(trio: Trio, tmp_path: Path):
    a, b, c = trio.servers
    b.process.terminate()
    elsewhere = dict(b.env) | {"RESULTS_DIR": str(tmp_path / "elsewhere")}
    refused = trio.farm.launch_server("b", b.config, b.port, elsewhere)
    assert refused.wait(60) == 1
    assert "keeps results in" in refused.log()
    key = c.state_dir / "signing.key"
    c.process.terminate()
    kept = key.read_bytes()
    key.write_bytes(bytes(reversed(kept)))
    refused = trio.farm.launch_server("c", c.config, c.port, c.env)
    assert refused.wait(60) == 1
    assert "signing.key" in refused.log()
    a.process.terminate()
    c.start_again()
    assert "signing.key is another one" in c.process.log(), "alone it may have another one, and says so"
