"""Backups and restores of the SQLite state, where a real server would take longer to get there."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dbward import keys
from dbward.backups import archive
from dbward.client.shapes import AuditFilter
from dbward.errors import Conflict, DbwardError, Misconfigured
from dbward.runtime import open_runtime
from dbward.services import audit, backup, bootstrap
from dbward.services.restore import restore
from dbward.settings.secret import Secret
from dbward.settings.server import ServerSettings
from tests.services.conftest import Clock, Place, World
from tests.support import migrated


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """The database is not in `state_dir`."""
    (tmp_path / "elsewhere").mkdir()
    return Place(tmp_path, migrated.sqlite_copy(tmp_path / "elsewhere" / "own.db"))


@pytest.fixture
def made(world: World) -> Path:
    """A backup, while one request waits for approval."""
    world.create(environment="prod")
    return Path(backup.make(world.rt).place)


def lose(world: World, tmp_path: Path) -> ServerSettings:
    """End the server and move all its files to `lost`."""
    settings = world.rt.settings
    world.rt.close()
    lost = tmp_path / "lost"
    lost.mkdir()
    for part in ("state", "elsewhere"):
        shutil.move(tmp_path / part, lost / part)
    settings.state_dir.mkdir()
    return settings


def files(*directories: Path) -> list[str]:
    return sorted(path.name for directory in directories if directory.exists() for path in directory.iterdir())


def begun_again(settings: ServerSettings, clock: Clock) -> World:
    bootstrap.prepare(settings, now=clock)
    world = World(open_runtime(settings, now=clock), clock)
    assert audit.examine(world.rt)["valid"]
    return world


def refused(settings: ServerSettings, wanted: str) -> DbwardError:
    with pytest.raises(DbwardError) as caught:
        restore(settings, wanted)
    return caught.value


def test_the_newest_by_name_and_private_files(world: World, made: Path, tmp_path: Path, clock: Clock):
    clock.advance(hours=1)
    request = world.create(environment="prod")
    newest = Path(backup.make(world.rt).place)
    settings = lose(world, tmp_path)
    (settings.state_dir / "backups").mkdir()
    for each in (made, newest):
        shutil.copy(tmp_path / "lost" / "state" / "backups" / each.name, settings.state_dir / "backups")
    assert restore(settings, "latest").cancelled == 2
    found = [tmp_path / "elsewhere" / "own.db", *(settings.state_dir / name for name in (*archive.FILES[:4],))]
    assert {path.stat().st_mode & 0o777 for path in found} == {0o600}
    assert files(tmp_path / "elsewhere") == ["own.db"]
    again = begun_again(settings, clock)
    assert again.status(request) == "cancelled"
    again.rt.close()


@pytest.mark.parametrize("beside", ["-wal", "-journal", "-shm"])
def test_what_is_left_of_an_old_database_is_not_applied(world: World, made: Path, tmp_path: Path, beside: str):
    settings = lose(world, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    left = tmp_path / "elsewhere" / f"own.db{beside}"
    left.touch()
    error = refused(settings, str(tmp_path / "lost" / "state" / "backups" / made.name))
    assert isinstance(error, Conflict)
    assert str(left) in error.message
    assert files(settings.state_dir, tmp_path / "elsewhere") == [left.name]


@pytest.mark.parametrize("at", [0.01, 0.3, 0.6, 0.99])
def test_a_damaged_one_changes_nothing(world: World, made: Path, tmp_path: Path, at: float):
    settings = lose(world, tmp_path)
    damaged = bytearray((tmp_path / "lost" / "state" / "backups" / made.name).read_bytes())
    damaged[int(len(damaged) * at)] ^= 0xFF
    (tmp_path / made.name).write_bytes(damaged)
    error = refused(settings, str(tmp_path / made.name))
    assert isinstance(error, Misconfigured)
    assert error.code == "backup.unusable"
    assert files(settings.state_dir, tmp_path / "elsewhere") == []


def test_old_ones_that_cannot_be_removed_are_no_failure(world: World, place: Place):
    settings = replace(world.rt.settings, backup=replace(world.rt.settings.backup, keep=1))
    rt = replace(world.rt, settings=settings)
    stuck = settings.backup.folder / "dbward-20200101T000000000Z.tar.gz"
    stuck.mkdir(parents=True)
    found = backup.make(rt)
    assert Path(found.place).is_file()
    assert found.removed == ()
    assert found.not_removed is not None
    assert rt.metrics.registry.get_sample_value("dbward_backups_total", {"status": "made"}) == 1
    assert rt.metrics.registry.get_sample_value("dbward_backups_total", {"status": "not_removed"}) == 1
    (event,) = audit.search(rt, world.who("admin"), AuditFilter(event_type="backup.created"))["events"]
    assert event["outcome"] == "success"
    assert "not_removed" in json.dumps(event)


@pytest.mark.parametrize("with_wal", [True, False])
def test_the_database_alone_with_its_keys(world: World, made: Path, tmp_path: Path, clock: Clock, with_wal: bool):
    """As a snapshot of the disk has it, with what is not in the file itself yet; or a replica of it."""
    waiting = world.create(environment="prod")
    copy = tmp_path / "copy.db"
    if with_wal:  # by another process: one that opened and closed it here would give SQLite's locks away
        for end in ("", "-wal"):
            subprocess.run(["cp", f"{tmp_path}/elsewhere/own.db{end}", f"{copy}{end}"], check=True)
    settings = lose(world, tmp_path)
    if not with_wal:
        shutil.copy(tmp_path / "lost" / "elsewhere" / "own.db", copy)
    error = refused(settings, str(copy))
    assert error.code == "key.missing"
    assert files(settings.state_dir, tmp_path / "elsewhere") == []
    with_keys = tmp_path / "unpacked"
    with_keys.mkdir()
    archive.unpack(tmp_path / "lost" / "state" / "backups" / made.name, with_keys)
    for name, data in archive.read_files(with_keys).items():
        keys.write_private(settings.state_dir / name, data)
    assert restore(settings, str(copy)).cancelled == 2
    again = begun_again(settings, clock)
    assert again.status(waiting) == "cancelled"
    again.rt.close()


def test_with_the_keys_of_another_server_the_database_alone_is_refused(world: World, tmp_path: Path, clock: Clock):
    settings = lose(world, tmp_path)
    keys.create_missing(settings.state_dir, clock())
    before = files(settings.state_dir)
    error = refused(settings, str(tmp_path / "lost" / "elsewhere" / "own.db"))
    assert error.code == "backup.unusable"
    assert files(settings.state_dir, tmp_path / "elsewhere") == before


def test_the_keys_of_a_seed_need_not_be_kept(place: Place, clock: Clock, tmp_path: Path):
    settings = place.load()
    settings = replace(settings, state=replace(settings.state, key_seed=Secret("s" * 40)))
    bootstrap.prepare(settings, now=clock)
    lose(World(open_runtime(settings, now=clock), clock), tmp_path)
    clock.advance(seconds=timedelta(hours=1).total_seconds())
    restore(settings, str(tmp_path / "lost" / "elsewhere" / "own.db"))
    begun_again(settings, clock).rt.close()


@pytest.mark.parametrize(
    "wanted", ["s3://bucket", "s3://bucket/prefix/other.tar.gz", "s3:///dbward-20200101T000000000Z.tar.gz"]
)
def test_urls_that_are_none_of_a_backup(place: Place, wanted: str):
    settings = place.load()
    settings.state_dir.mkdir()
    assert refused(settings, wanted).code == "backup.missing"
