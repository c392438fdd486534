"""A backup is made while everything runs, and a server that begins from it has everything but what came after."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.e2e.people import CONFIG, People
from tests.support import s3
from tests.support.processes import DBWARD, Farm, Server

pytestmark = [pytest.mark.e2e]


@pytest.fixture
def target(tmp_path: Path) -> str:
    path = tmp_path / "target.db"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE effects (n INTEGER)")
    return f"sqlite:///{path}"


def effects(target: str) -> int:
    with sqlite3.connect(target.removeprefix("sqlite:///")) as found:
        return int(found.execute("SELECT count(*) FROM effects").fetchone()[0])


def run(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`dbward server …` on the server's machine."""
    return subprocess.run(  # noqa: PLW1510 - what it exits with is for the caller
        [*DBWARD, "server", *arguments, "--server-config", str(server.config), "--format", "json"],
        env={**os.environ, **People.tokens_env()},
        capture_output=True,
        text=True,
        timeout=120,
    )


def said(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stdout + done.stderr
    data: dict[str, object] = json.loads(done.stdout)["data"]
    return data


def test_everything_comes_back_but_what_came_after(farm: Farm, target: str) -> None:
    server = farm.server(config=CONFIG, env=People.tokens_env())
    agent = farm.agent(server, {("app", "development"): target, ("app", "production"): target})
    people = People(server)
    before = people.submit("INSERT INTO effects VALUES (1)", "development")["id"]
    assert people.await_end(before) == "executed"
    approved = people.submit_and_approve("INSERT INTO effects VALUES (2)")

    made = said(run(server, "backup"))
    assert Path(str(made["place"])).parent == server.state_dir / "backups"
    people.ask("alice", "POST", f"/api/requests/{approved}/resume", {})
    assert people.await_end(approved) == "executed"
    after = people.submit("INSERT INTO effects VALUES (3)", "development")["id"]
    assert people.await_end(after) == "executed"
    assert effects(target) == 3

    server.process.kill()
    shutil.move(server.state_dir, lost := server.state_dir.with_name("lost"))
    kept = lost / Path(str(made["place"])).relative_to(server.state_dir)
    assert said(run(server, "restore", str(kept)))["cancelled"] == 1
    server.start_again()

    assert people.show(before)["status"] == "executed"
    assert people.show(approved)["status"] == "cancelled"  # it ran, but the backup cannot know
    assert people.call("carol", "GET", f"/api/requests/{after}").status_code == 404
    assert people.call("alice", "POST", f"/api/requests/{approved}/resume", {}).status_code == 409
    again = people.submit("INSERT INTO effects VALUES (4)", "development")["id"]
    assert people.await_end(again) == "executed"  # by the same agent, with the same token and key
    assert agent.alive
    assert effects(target) == 4
    people.assert_record_is_whole(again)


def test_a_statement_that_ran_when_the_backup_was_made_is_not_known(farm: Farm, target: str) -> None:
    server = farm.server(config=CONFIG, env=People.tokens_env())
    agent = farm.agent(server, {("app", "development"): target})
    people = People(server)
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    running = people.submit(slow, "development")["id"]
    farm.until(lambda: people.show(running)["status"] == "running", "it runs", agent)
    farm.until(lambda: "execution.started" in events(people, running), "it has started", agent)
    made = said(run(server, "backup"))
    agent.kill()
    server.process.kill()
    shutil.move(server.state_dir, server.state_dir.with_name("lost"))
    kept = server.state_dir.with_name("lost") / "backups" / Path(str(made["place"])).name
    assert said(run(server, "restore", str(kept)))["lost"] == 1
    server.start_again()
    assert people.show(running)["status"] == "execution_lost"


def events(people: People, request_id: str) -> list[str]:
    found = people.ask("carol", "GET", f"/api/audit/events?request_id={request_id}")["events"]
    return [event["event_type"] for event in found]


def test_into_s3_on_a_schedule_and_back(farm: Farm) -> None:
    """Made at once when there is none yet; no more than `keep` stay; restored from where the command said it is."""
    with s3.fresh_bucket(s3.moto_url()) as there:
        config = f"""{CONFIG}
[backup]
every_hours = 1
keep = 2
target = "s3://{there.name}/copies"
[result_storage]
endpoint = "{there.url}"
access_key_id = "{s3.ACCESS_KEY}"
secret_access_key = "{s3.SECRET_KEY}"
path_style = true
"""
        server = farm.server(config=config, env=People.tokens_env())
        people = People(server)
        farm.until(lambda: made(people) == 1, "the one that is due", server.process)
        said(run(server, "backup"))
        last = said(run(server, "backup"))
        assert isinstance(last["removed"], list)
        assert (len(last["removed"]), last["not_removed"]) == (1, None)
        assert len(there.names()) == 2
        assert server.process.terminate() == 0
        assert list((server.state_dir / "backups").iterdir()) == []
        shutil.move(server.state_dir, server.state_dir.with_name("lost"))
        said(run(server, "restore", str(last["place"])))
        server.start_again()
        assert people.ask("carol", "GET", "/api/audit/verify")["valid"]


def made(people: People) -> int:
    return int(people.ask("carol", "GET", "/api/audit/events?event_type=backup.created")["total"])


def test_without_a_server_the_command_makes_it_itself(farm: Farm) -> None:
    server = farm.server(config=CONFIG, env=People.tokens_env())
    server.process.signal(signal.SIGTERM)
    server.process.wait()
    place = Path(str(said(run(server, "backup"))["place"]))
    with tarfile.open(place) as tar:
        assert {"about.json", "dbward.db", "signing.key", "audit-keys.json"} <= set(tar.getnames())
    assert place.stat().st_mode & 0o777 == 0o600
    server.start_again()
    assert made(People(server)) == 1


def test_a_state_is_never_overwritten_and_a_broken_backup_changes_nothing(farm: Farm, tmp_path: Path) -> None:
    server = farm.server(config=CONFIG, env=People.tokens_env())
    place = Path(str(said(run(server, "backup"))["place"]))
    assert code(run(server, "restore", str(place))) == "state_locked"
    assert server.process.terminate() == 0
    assert code(run(server, "restore", str(place))) == "backup.state_exists"

    broken = tmp_path / place.name
    broken.write_bytes(place.read_bytes()[:-1000])
    forged = tmp_path / "forged.tar.gz"
    with tarfile.open(forged, "w:gz") as tar:
        tar.add(place, "../../escaped")
    changed = tmp_path / "changed.tar.gz"
    _forge(place, changed, tmp_path)
    shutil.move(server.state_dir, tmp_path / "old")
    for wrong in (broken, forged, changed):
        assert code(run(server, "restore", str(wrong))) == "backup.unusable"
        assert sorted(p.name for p in server.state_dir.iterdir()) == ["server.lock"]
    said(run(server, "restore", str(tmp_path / "old" / "backups" / place.name)))


def _forge(place: Path, into: Path, tmp_path: Path) -> None:
    """The same backup with one event of the record changed."""
    parts = tmp_path / "parts"
    with tarfile.open(place) as tar:
        tar.extractall(parts, filter="data")
    with sqlite3.connect(parts / "dbward.db") as found:
        found.execute("UPDATE audit_events SET actor_id = 'eve' WHERE seq = 2")
    with tarfile.open(into, "w:gz") as tar:
        for part in sorted(parts.iterdir()):
            tar.add(part, part.name)


def code(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode != 0, done.stdout
    return str(json.loads(done.stdout)["error"]["code"])


def test_with_postgresql_it_says_what_to_use(farm: Farm, postgres_url: str) -> None:
    server = farm.server(config=CONFIG, env=People.tokens_env(), state_url=postgres_url)
    assert code(run(server, "backup")) == "backup.not_sqlite"
    assert code(run(server, "restore", "latest")) in {"state_locked", "backup.not_sqlite"}


def test_a_place_that_cannot_be_written_is_said(farm: Farm, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = f'{CONFIG}\n[backup]\ntarget = "{tmp_path / "file" / "below"}"\n'
    server = farm.server(config=config, env=People.tokens_env())
    assert code(run(server, "backup")) == "backup.failed"
    events = People(server).ask("carol", "GET", "/api/audit/events?event_type=backup.created")["events"]
    assert [event["outcome"] for event in events] == ["failure"]
