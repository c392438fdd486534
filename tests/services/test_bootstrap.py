"""The first start, every later one, and the configuration's people."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select

from dbward import ids, keys
from dbward.client.shapes import NewToken
from dbward.db.migrations import migrate
from dbward.db.tables import audit_events, tokens
from dbward.errors import Misconfigured, Refused, Unauthorized
from dbward.runtime import Runtime, open_runtime
from dbward.services import api_tokens, bootstrap
from dbward.settings.server import ServerSettings
from tests.services.conftest import PEOPLE, Clock, Place, World

TOKENS = ("admin-token", "agent-token", "requester-token")
KEYS = ("signing.key", "audit-signing.key", "audit-keys.json")


def started(settings: ServerSettings, clock: Clock, **options: bool) -> tuple[World, bool]:
    made = bootstrap.prepare(settings, now=clock, **options)
    return World(open_runtime(settings, now=clock), clock), made


def contents(settings: ServerSettings) -> dict[str, bytes]:
    return {name: (settings.state_dir / name).read_bytes() for name in (*TOKENS, *KEYS)}


def misconfigured(settings: ServerSettings, clock: Clock) -> str:
    with pytest.raises(Misconfigured) as caught:
        bootstrap.prepare(settings, now=clock)
    return caught.value.code


def count(rt: Runtime) -> int:
    with rt.store.read() as conn:
        return conn.execute(select(func.count()).select_from(tokens)).scalar_one()


def test_the_first_start_makes_keys_and_tokens_for_the_owner_alone(place: Place, clock: Clock) -> None:
    settings = place.load()
    world, made = started(settings, clock)
    try:
        assert made
        for name in (*TOKENS, *KEYS):
            assert (settings.state_dir / name).stat().st_mode & 0o777 == 0o600, name
        assert settings.state_dir.stat().st_mode & 0o777 == 0o700
        assert not list(settings.state_dir.glob(".*")), "no drafts are left"
        found = contents(settings)
        assert (len(found["signing.key"]), len(found["audit-signing.key"])) == (32, 32)
        assert found["admin-token"] == found["requester-token"]
        assert b"\n" not in found["admin-token"]
        assert world.who("admin").role_names == ("admin", "requester")
        assert world.who("agent").kind == "agent"
        assert (world.who("agent").role_names, str(world.who("agent").scopes[0])) == (("agent-default",), "*/*")
        created = world.events(event_type="token.created")
        assert {e["metadata"]["issued_for"] for e in created} == {"admin", "agent", *PEOPLE}
        assert {e["actor_type"] for e in created} == {"system"}
        text = "".join(str(e) for e in world.events())
        assert found["admin-token"].decode() not in text
        assert world.verify()["valid"]
    finally:
        world.rt.close()


def test_a_later_start_changes_nothing(place: Place, clock: Clock) -> None:
    settings = place.load()
    world, _ = started(settings, clock)
    world.rt.close()
    before = contents(settings)
    world, made = started(settings, clock)
    try:
        assert not made
        assert contents(settings) == before
        assert count(world.rt) == 2 + len(PEOPLE)
        assert len(world.events(event_type="user.created")) == 1 + len(PEOPLE)
        assert len(world.events(event_type="config.synced")) == 2
    finally:
        world.rt.close()


@pytest.mark.parametrize("name", TOKENS)
def test_a_missing_token_file_is_refused_until_it_is_forced(place: Place, clock: Clock, name: str) -> None:
    settings = place.load()
    world, _ = started(settings, clock)
    old = {who: world.token(who) for who in ("admin", "agent")}
    world.rt.close()
    (settings.state_dir / name).unlink()
    assert misconfigured(settings, clock) == "bootstrap.incomplete"
    world, made = started(settings, clock, force_bootstrap=True)
    try:
        assert made
        for who, text in old.items():
            assert world.token(who) != text
            with pytest.raises(Unauthorized):
                world.enter(text)
            world.who(who)
        assert (settings.state_dir / name).stat().st_mode & 0o777 == 0o600
        assert [e["reason"] for e in world.events(event_type="token.revoked")] == ["--force-bootstrap"] * 2
    finally:
        world.rt.close()


def test_a_bootstrap_token_that_was_revoked_needs_no_file(place: Place, clock: Clock) -> None:
    settings = place.load()
    world, _ = started(settings, clock)
    api_tokens.revoke_token(world.rt, world.who("admin"), world.who("agent").token_id or "")
    world.rt.close()
    (settings.state_dir / "agent-token").unlink()
    world, made = started(settings, clock)
    world.rt.close()
    assert not made


def test_nobody_locks_a_server_by_naming_a_token(place: Place, clock: Clock) -> None:
    settings = place.load()
    world, _ = started(settings, clock)
    body = NewToken(subject_id="alice", subject_type="user", name="bootstrap-admin")
    api_tokens.create_token(world.rt, world.who("alice"), body)
    world.rt.close()
    world, made = started(settings, clock)
    world.rt.close()
    assert not made


def test_a_crash_after_the_files_and_before_the_commit(place: Place, clock: Clock) -> None:
    """Files of tokens that were never valid: they are written anew, with modes of their own."""
    settings = place.load()
    settings.state_dir.mkdir(mode=0o700)
    for name in TOKENS:
        (settings.state_dir / name).write_text("dbw_never_valid")
        (settings.state_dir / name).chmod(0o644)
    world, made = started(settings, clock)
    try:
        assert made
        assert world.who("admin").subject == "admin"
        assert {(settings.state_dir / name).stat().st_mode & 0o777 for name in TOKENS} == {0o600}
    finally:
        world.rt.close()


def test_a_crash_between_the_ring_and_its_key(place: Place, clock: Clock) -> None:
    settings = place.load()
    settings.state_dir.mkdir(mode=0o700)
    keys.create_missing(settings.state_dir, clock())
    (settings.state_dir / "audit-signing.key").unlink()
    world, _ = started(settings, clock)
    try:
        assert world.verify()["valid"]
    finally:
        world.rt.close()


@pytest.mark.parametrize("name", KEYS)
def test_a_key_is_not_made_anew_for_what_another_has_signed(place: Place, clock: Clock, name: str) -> None:
    settings = place.load()
    world, _ = started(settings, clock)
    world.rt.close()
    lost = (settings.state_dir / name).read_bytes()
    (settings.state_dir / name).unlink()
    assert misconfigured(settings, clock) == "key.missing"
    assert not (settings.state_dir / name).exists()
    (settings.state_dir / name).write_bytes(b"damaged")
    assert misconfigured(settings, clock) == "key.unreadable"
    (settings.state_dir / name).write_bytes(lost)
    world, made = started(settings, clock)
    world.rt.close()
    assert not made


def test_a_key_that_is_not_its_rings_is_refused(place: Place, clock: Clock) -> None:
    settings = place.load()
    world, _ = started(settings, clock)
    world.rt.close()
    (settings.state_dir / "audit-signing.key").write_bytes(b"x" * 32)
    assert misconfigured(settings, clock) == "key.mismatch"


def test_a_file_is_written_whole_and_never_over_another(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert keys.write_private(path, b"one")
    assert not keys.write_private(path, b"two")
    assert path.read_bytes() == b"one"
    keys.replace_file(path, b"three")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"three", 0o600)
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


# --- the configuration's people ---------------------------------------------------------------------------------------


def without(*names: str) -> dict[str, tuple[str, str]]:
    return {name: roles for name, roles in PEOPLE.items() if name not in names}


def test_who_is_gone_from_the_file_is_out(place: Place, clock: Clock) -> None:
    world, _ = started(place.load(), clock)
    token = world.token("alice")
    body = NewToken(subject_id="alice", subject_type="user")
    own = api_tokens.create_token(world.rt, world.who("alice"), body)["token"]
    made = world.create(environment="prod")
    running = world.create()
    world.agent().begin(running)
    done = world.executed(environment="many")
    world.rt.close()

    world, _ = started(place.load(people=without("alice")), clock)
    for text in (token, own):
        with pytest.raises(Unauthorized):
            world.enter(text)
    assert (world.status(made), world.status(running), world.status(done)) == ("cancelled", "cancelled", "executed")
    cancelled = world.events(event_type="request.cancelled", request_id=made["id"])[0]
    assert (cancelled["actor_type"], cancelled["reason"]) == (
        "system",
        "its requester is not in the configuration any more",
    )
    assert [e["resource_id"] for e in world.events(event_type="user.suspended")] == ["alice"]
    assert [e["reason"] for e in world.events(event_type="token.revoked")] == ["not in the configuration any more"]
    count = len(world.events())
    world.rt.close()

    world, _ = started(place.load(people=without("alice")), clock)
    assert len(world.events()) == count + 1, "it is said once"
    world.rt.close()

    world, _ = started(place.load(), clock)
    try:
        assert world.enter(token).subject == "alice", "back with the same token"
        with pytest.raises(Unauthorized):
            world.enter(own)
        assert [e["resource_id"] for e in world.events(event_type="user.activated")] == ["alice"]
    finally:
        world.rt.close()


def test_roles_follow_the_file_and_the_change_is_on_the_record(place: Place, clock: Clock) -> None:
    world, _ = started(place.load(), clock)
    world.rt.close()
    world, _ = started(place.load(people=PEOPLE | {"alice": ("approver", "dba")}), clock)
    try:
        assert world.who("alice").role_names == ("approver", "watcher")
        event = world.events(event_type="user.updated")[0]
        assert event["metadata"] == {
            "roles": ["approver"],
            "groups": ["dba"],
            "roles_before": ["requester"],
            "groups_before": [],
            "source": "config",
        }
        assert len(world.events(event_type="user.updated")) == 1
    finally:
        world.rt.close()


def test_a_new_token_in_the_file_replaces_the_old(place: Place, clock: Clock) -> None:
    world, _ = started(place.load(), clock)
    old = world.token("alice")
    world.rt.close()
    place.env["T_ALICE"] = ids.new_token()
    world, _ = started(place.load(), clock)
    try:
        assert world.who("alice").subject == "alice"
        with pytest.raises(Unauthorized):
            world.enter(old)
    finally:
        world.rt.close()


def test_a_revoked_token_does_not_come_back_with_a_restart(place: Place, clock: Clock) -> None:
    settings = place.load()
    world, _ = started(settings, clock)
    api_tokens.revoke_token(world.rt, world.who("admin"), world.who("alice").token_id or "")
    world.rt.close()
    assert misconfigured(settings, clock) == "config.token_unusable"
    clock.advance(days=1000)
    assert misconfigured(settings, clock) == "config.token_unusable"


def test_a_token_of_somebody_else_is_refused(place: Place, clock: Clock) -> None:
    settings = place.load()
    world, _ = started(settings, clock)
    place.env["T_ALICE"] = api_tokens.create_token(
        world.rt, world.who("bob"), NewToken(subject_id="bob", subject_type="user")
    )["token"]
    world.rt.close()
    assert misconfigured(place.load(), clock) == "config.token_unusable"


def test_a_start_that_fails_has_changed_nothing_of_the_people(place: Place, clock: Clock) -> None:
    world, _ = started(place.load(), clock)
    with world.rt.store.read() as conn:
        before = conn.execute(select(func.count()).select_from(audit_events)).scalar_one()
    place.env["T_RITA"] = world.token("alice")
    world.rt.close()
    place.env["T_ALICE"] = ids.new_token()
    assert misconfigured(place.load(people=without("bob")), clock) == "config.token_unusable"
    place.env["T_RITA"] = ids.new_token()
    world, _ = started(place.load(), clock)
    try:
        assert world.who("bob").subject == "bob"
        with world.rt.store.read() as conn:
            after = conn.execute(select(func.count()).select_from(audit_events)).scalar_one()
        assert after > before
        assert world.events(event_type="user.suspended") == []
        with pytest.raises(Refused):
            world.create("bob")
    finally:
        world.rt.close()


# --- keys and first tokens of a seed ----------------------------------------------------------------------------------

SEED = "a-seed-of-thirty-two-characters!"


def seeded(place: Place, name: str, seed: str = SEED) -> ServerSettings:
    """A server on this state with a state directory of its own."""
    place.env["DBWARD_KEY_SEED"] = seed
    return replace(place.load(), state_dir=place.path / name)


def test_servers_with_one_seed_need_no_common_files(place: Place, clock: Clock) -> None:
    one, other = seeded(place, "one"), seeded(place, "other")
    world, made = started(one, clock)
    world.rt.close()
    assert made
    world, made = started(other, clock)
    try:
        assert not made
        assert contents(other) == contents(one)
        assert {(other.state_dir / name).stat().st_mode & 0o777 for name in (*TOKENS, *KEYS)} == {0o600}
        assert world.enter((other.state_dir / "admin-token").read_text()).subject == "admin"
        assert world.verify()["valid"]
    finally:
        world.rt.close()
    found = contents(one)
    assert len({found["signing.key"], found["audit-signing.key"]}) == 2
    assert found["admin-token"] != found["agent-token"]


def test_another_seed_is_refused(place: Place, clock: Clock) -> None:
    world, _ = started(seeded(place, "one"), clock)
    world.rt.close()
    assert misconfigured(seeded(place, "one", SEED[::-1]), clock) == "key.mismatch"
    assert misconfigured(seeded(place, "fresh", SEED[::-1]), clock) == "key.mismatch"
    del place.env["DBWARD_KEY_SEED"]
    assert misconfigured(replace(place.load(), state_dir=place.path / "bare"), clock) == "key.missing"


def test_a_seed_does_not_take_the_place_of_random_keys(place: Place, clock: Clock) -> None:
    settings = place.load()
    world, _ = started(settings, clock)
    world.rt.close()
    assert misconfigured(seeded(place, settings.state_dir.name), clock) == "key.mismatch"
    assert misconfigured(seeded(place, "fresh"), clock) == "key.mismatch"


def test_tokens_made_by_force_are_not_those_of_the_seed(place: Place, clock: Clock) -> None:
    world, _ = started(seeded(place, "one"), clock)
    world.rt.close()
    old = contents(seeded(place, "one"))["admin-token"].decode()
    world, made = started(seeded(place, "one"), clock, force_bootstrap=True)
    world.rt.close()
    assert made
    world, made = started(seeded(place, "other"), clock)
    try:
        assert not made
        assert [name for name in TOKENS if (place.path / "other" / name).exists()] == []
        with pytest.raises(Unauthorized):
            world.enter(old)
    finally:
        world.rt.close()


def test_servers_that_start_together_make_the_first_tokens_once(place: Place, clock: Clock) -> None:
    if place.url.startswith("sqlite"):
        pytest.skip("SQLite has one owner")
    settings = [seeded(place, f"replica-{n}") for n in range(4)]
    migrate(settings[0].state)
    with ThreadPoolExecutor(len(settings)) as pool:
        made = list(pool.map(lambda each: bootstrap.prepare(each, now=clock), settings))
    assert sorted(made) == [False, False, False, True]
    assert all(contents(each) == contents(settings[0]) for each in settings)
    world = World(open_runtime(settings[0], now=clock), clock)
    try:
        assert count(world.rt) == 2 + len(PEOPLE)
        assert world.verify()["valid"]
    finally:
        world.rt.close()
