"""A changed configuration taken over while the server runs: whole, or not at all."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dbward import ids, signalling
from dbward.broker import store as broker
from dbward.db import identities, meta
from dbward.errors import Misconfigured, Unauthorized
from dbward.runtime import Current, open_runtime
from dbward.services import bootstrap, reload
from dbward.services.reload import Outcome, Reloader
from dbward.services.views import View
from dbward.settings.server import ServerSettings, load_server
from tests.conftest import State
from tests.services.conftest import Clock, World, refused

TOKENS = {name: ids.new_token() for name in ("alice", "bob", "carol", "olga")}
ROLES = {"alice": "requester", "bob": "approver", "carol": "approver", "olga": "operator"}
AUTO = "[[workflows]]\nenvironment = 'auto'\n[workflows.auto_approve]\nmode = 'always'\n"
PROD = "[[workflows]]\nenvironment = 'prod'\n[[workflows.steps]]\napprovers = [{ role = 'approver' }]\n"
DATABASES = "[[databases]]\nname = 'app'\nenvironments = ['auto', 'prod']\ndialect = 'sqlite'\n"


@dataclass
class House:
    """A running server without its network, and its file."""

    path: Path
    url: str
    current: Current
    clock: Clock

    def write(self, *, policy: str = DATABASES + AUTO + PROD, more: str = "", **people: str) -> None:
        users = "".join(
            f'[[auth.users]]\nid = "{name}"\nroles = {json.dumps(roles.split())}\ntoken = "{TOKENS[name]}"\n'
            for name, roles in (ROLES | people).items()
            if roles
        )
        self.path.write_text(head(self.path, self.url) + policy + more + users)

    def load(self) -> ServerSettings:
        return load_server(self.path, {})

    def reload(self) -> Outcome:
        return reload.reload(self.current, self.load)

    @property
    def world(self) -> World:
        """As a call sees it that begins now."""
        return World(self.current.get(), self.clock)

    def synced(self) -> list[View]:
        return self.world.events(event_type="config.synced")


def head(path: Path, url: str) -> str:
    return f"state_dir = {json.dumps(str(path.parent / 'state'))}\n[state]\nurl = {json.dumps(url)}\n"


@contextmanager
def opened(path: Path, url: str, clock: Clock) -> Iterator[House]:
    house = House(path, url, Current(None), clock)  # type: ignore[arg-type]  # opened below, from what is written
    house.write()
    bootstrap.prepare(house.load(), now=clock)
    house.current.put(open_runtime(house.load(), now=clock))
    yield house
    house.current.get().close()


@pytest.fixture
def house(state: State, tmp_path: Path, clock: Clock) -> Iterator[House]:
    with opened(tmp_path / "server.toml", state.url, clock) as house:
        yield house


def test_people_come_go_and_change_at_once(house: House) -> None:
    world = house.world
    pending = world.create("alice", "prod")
    world.who("carol")  # remembered
    house.write(alice="", bob="approver requester", carol="operator")
    outcome = house.reload()
    assert outcome.error is None
    assert [str(change) for change in outcome.changes] == ["[[auth.users]] -alice ~bob ~carol"]
    after = house.world
    with pytest.raises(Unauthorized):
        after.enter(TOKENS["alice"])
    assert after.who("bob").role_names == ("approver", "requester")
    assert after.who("carol").role_names == ("operator",)
    assert after.show(pending, "olga")["status"] == "cancelled"


def test_what_changed_is_on_the_record_by_name(house: House) -> None:
    before = house.current.get().settings.config_digest
    house.write(policy=DATABASES.replace("'prod'", "'stage'") + AUTO, bob="")
    outcome = house.reload()
    facts = house.synced()[-1]["metadata"]
    assert facts["digest"] == outcome.digest == house.current.get().settings.config_digest != before
    assert facts["digest_before"] == before
    assert facts["summary"]["users"] == 3
    assert facts["changes"] == [
        {"section": "[[databases]]", "added": ["app/stage"], "removed": ["app/prod"], "changed": []},
        {"section": "[[auth.users]]", "added": [], "removed": ["bob"], "changed": []},
        {"section": "[[workflows]]", "added": [], "removed": ["*/prod"], "changed": []},
    ]
    assert not any(token in json.dumps(house.world.events()) for token in TOKENS.values())
    assert house.world.verify()["valid"]


def test_the_same_file_again_changes_nothing(house: House) -> None:
    outcome = house.reload()
    assert outcome.changes == ()
    assert house.synced()[-1]["metadata"]["changes"] == []
    assert house.world.create()["status"] == "dispatched"


def unchanged(house: House, act: Callable[[], Outcome]) -> Outcome:
    """What `act` answers, which must leave settings, people and tokens as they are."""
    rt = house.current.get()

    def seen() -> list[Any]:
        with rt.store.read() as conn:
            return [
                identities.users_from(conn, "config"),
                identities.of_kind(conn, "config"),
                meta.get(conn, "config_digest"),
            ]

    before = seen()
    outcome = act()
    assert house.current.get() is rt
    assert seen() == before
    assert house.world.who("alice").role_names == ("requester",)
    return outcome


@pytest.mark.parametrize(
    ("broken", "code", "said"),
    [
        ("surprise = 1\n[[workflows]]\nmistake = 2\n", "config_error", ["surprise", "mistake"]),
        ("[auth", "config_error", ["TOML"]),
        ("[broker]\nlease_secs = 5\n", "config.needs_restart", ["[broker]"]),
    ],
)
def test_a_bad_file_changes_nothing_and_every_mistake_is_told(
    house: House, broken: str, code: str, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    house.write(more=broken, alice="")
    outcome = unchanged(house, house.reload)
    answer = outcome.as_json()
    assert (answer["ok"], answer["code"]) == (False, code)
    for word in said:
        assert any(word in problem for problem in answer["problems"]), word
        assert any(word in line for line in caplog.messages), word
    last = house.synced()[-1]
    assert (last["outcome"], last["metadata"]["code"]) == ("failure", code)
    assert last["metadata"]["problems"] == len(answer["problems"])
    house.write()
    assert house.reload().error is None


def test_a_file_that_is_gone_changes_nothing(house: House) -> None:
    house.path.unlink()
    outcome = unchanged(house, house.reload)
    assert "there is no such file" in outcome.as_json()["problems"][0]


def test_what_fails_in_the_state_undoes_all_of_it(house: House) -> None:
    """A token that was revoked is found when users before it have been changed already."""
    world = house.world
    carol = world.who("carol").token_id or ""
    world.rt.store.write(lambda tx: identities.revoke(tx, carol, world.clock()))
    house.write(alice="", bob="operator")
    outcome = unchanged(house, house.reload)
    assert outcome.as_json()["code"] == "config.token_unusable"


def without_bootstrap_admin(house: House) -> None:
    rt = house.current.get()
    with rt.store.read() as conn:
        admin = identities.find_user(conn, "admin")
    assert admin is not None
    rt.store.write(lambda tx: identities.save_user(tx, replace(admin, status="suspended")))


def test_nobody_is_locked_out(house: House) -> None:
    without_bootstrap_admin(house)
    assert unchanged(house, house.reload).as_json()["code"] == "config.no_admin"
    house.write(olga="admin operator")
    assert house.reload().error is None


def test_a_role_that_may_do_everything_in_one_place_does_not_administrate(house: House) -> None:
    without_bootstrap_admin(house)
    more = "[[auth.roles]]\nname = 'narrow'\npermissions = ['*']\nenvironments = ['auto']\n"
    house.write(more=more, olga="narrow")
    assert unchanged(house, house.reload).as_json()["code"] == "config.no_admin"


def test_an_admin_through_a_group_is_enough(house: House) -> None:
    without_bootstrap_admin(house)
    group = "[[auth.groups]]\nname = 'ops'\nroles = ['admin']\n"
    house.write(more=f"{group}[[auth.users]]\nid = 'gil'\ngroups = ['ops']\n")
    assert house.reload().error is None


def test_what_is_removed_is_gone_also_the_last_of_its_kind(house: House) -> None:
    house.write(policy="")
    assert house.reload().error is None
    rt = house.current.get()
    assert (rt.settings.policy.targets, rt.settings.policy.workflows) == ((), ())
    assert refused(house.world.create) == "database.not_registered"


def test_open_requests_keep_the_workflow_they_were_created_under(house: House) -> None:
    old = house.world.create("alice", "prod")
    house.write(policy=DATABASES + AUTO + PROD.replace("role = 'approver'", "user = 'olga'"))
    assert house.reload().error is None
    world = house.world
    new = world.create("alice", "prod")
    assert refused(lambda: world.approve("olga", old)) == "forbidden"
    assert world.approve("bob", old)["status"] == "approved"
    assert refused(lambda: world.approve("bob", new)) == "request.not_found"
    assert world.approve("olga", new)["status"] == "approved"


def test_a_new_database_has_its_queue(house: House) -> None:
    house.write(policy=DATABASES.replace("'prod'", "'prod', 'stage'") + AUTO + PROD)
    assert house.reload().error is None
    rt = house.current.get()
    with rt.store.read() as conn:
        assert "job.app.stage" in broker.find_queues(conn, ["job.app.stage"])


# --- several servers on one state -------------------------------------------------------------------------------------


@pytest.fixture
def one(postgres_url: str, tmp_path: Path, clock: Clock) -> Iterator[House]:
    with opened(tmp_path / "server.toml", postgres_url, clock) as house:
        yield house


@pytest.fixture
def other(one: House) -> Iterator[House]:
    """A second server on the same state, with a file of its own that says the same."""
    path = one.path.with_name("other.toml")
    path.write_bytes(one.path.read_bytes())
    other = House(path, one.url, Current(open_runtime(load_server(path, {}), now=one.clock)), one.clock)
    yield other
    other.current.get().close()


def follow(house: House) -> str | None:
    return reload.follow(house.current, house.load)


def test_another_server_takes_over_the_same_file(one: House, other: House) -> None:
    assert follow(other) is None
    before = other.current.get()
    one.write(bob="operator")
    other.path.write_bytes(one.path.read_bytes())
    assert one.reload().error is None
    synced = len(one.synced())
    assert follow(other) is None
    assert other.current.get().settings.config_digest == one.current.get().settings.config_digest
    assert other.current.get() is not before
    assert other.world.who("bob").role_names == ("operator",)
    assert len(one.synced()) == synced, "it synced nothing itself"


@pytest.mark.parametrize("broken", ["", "surprise = 1\n", "[auth"], ids=["older", "wrong", "unreadable"])
def test_another_server_whose_file_differs_keeps_what_it_has(one: House, other: House, broken: str) -> None:
    one.write(bob="operator")
    assert one.reload().error is None
    if broken:
        other.write(more=broken)
    settings = other.current.get().settings
    said = follow(other)
    assert said is not None
    assert "keeps its own" in said
    assert other.current.get().settings is settings
    assert other.current.get().config_behind
    other.path.write_bytes(one.path.read_bytes())
    assert follow(other) is None
    assert not other.current.get().config_behind
    assert other.world.who("bob").role_names == ("operator",)


def test_the_newest_wins_and_the_other_says_that_it_lags(one: House, other: House) -> None:
    other.write(bob="operator")
    assert other.reload().error is None
    assert follow(one) is not None
    assert one.current.get().config_behind
    one.write(bob="approver requester")
    assert one.reload().error is None
    assert not one.current.get().config_behind
    assert follow(other) is not None


def test_a_start_with_another_file_says_so(one: House, other: House, caplog: pytest.LogCaptureFixture) -> None:
    bootstrap.prepare(other.load(), now=other.clock)
    assert caplog.messages == []
    other.write(bob="operator")
    bootstrap.prepare(other.load(), now=other.clock)
    assert "not the one that was in force on this state" in caplog.text
    assert follow(one) is not None


# --- the thread -------------------------------------------------------------------------------------------------------


@dataclass
class Gate:
    """Loads settings when it is let: `begun` and `let` are counted."""

    house: House
    begun: threading.Semaphore
    let: threading.Semaphore
    times: int = 0

    def __call__(self) -> ServerSettings:
        self.times += 1
        self.begun.release()
        assert self.let.acquire(timeout=30)
        return self.house.load()


@pytest.fixture
def gate(house: House) -> Gate:
    return Gate(house, threading.Semaphore(0), threading.Semaphore(0))


def test_who_asks_during_a_reload_gets_one_more_after_it(house: House, gate: Gate) -> None:
    wanted, applied = threading.Event(), threading.Semaphore(0)
    reloader = Reloader(house.current, gate, wanted=wanted, applied=lambda _: applied.release())

    def ask() -> None:
        wanted.set()
        reloader.wake()

    reloader.start()
    ask()
    assert gate.begun.acquire(timeout=30)
    house.write(bob="operator")
    for _ in range(3):
        ask()
    gate.let.release()
    assert applied.acquire(timeout=30)
    assert gate.begun.acquire(timeout=30), "the last of them was not dropped"
    house.write(carol="operator")
    gate.let.release()
    assert applied.acquire(timeout=30)
    assert house.world.who("carol").role_names == ("operator",)
    house.current.get().hub.close()
    reloader.stop()
    assert gate.times == 2, "those that came together are one"


def test_a_thread_that_starts_takes_over_what_was_synced_meanwhile(house: House) -> None:
    """As a worker does that replaces one which had reloaded: it was started with the settings of the first."""
    first = house.current.get()
    house.write(bob="operator")
    assert house.reload().error is None
    house.current.put(first)
    reloader = Reloader(house.current, house.load, wanted=threading.Event(), applied=lambda _: None)
    reloader.start()
    assert house.world.who("bob").role_names == ("operator",)
    house.current.get().hub.close()
    reloader.stop()


# --- the command's side -----------------------------------------------------------------------------------------------


def test_no_server_no_signal(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as caught:
        signalling.running(tmp_path)
    assert caught.value.code == "server.not_running"
    (tmp_path / "server.lock").write_text("1 somewhere\n")
    signalling.write_pid(tmp_path)
    with pytest.raises(Misconfigured) as caught:
        signalling.running(tmp_path)
    assert caught.value.code == "server.not_running", "a pid file that was left behind proves nothing"


def test_a_command_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "reload-1.pipe"
    os.mkfifo(pipe)
    assert signalling.asking("reload", tmp_path) == [pipe]
    signalling.answer(pipe, {"ok": True})
    assert not pipe.exists()


def test_only_pipes_are_answered(tmp_path: Path) -> None:
    (tmp_path / "reload-1.pipe").write_text("not a pipe")
    assert signalling.asking("reload", tmp_path) == []
