"""`[backup]`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from dbward.errors import Misconfigured
from dbward.settings.server import ServerSettings, load_server
from dbward.settings.server_backup import BackupSettings


def load(tmp_path: Path, text: str, head: str = "") -> ServerSettings:
    file = tmp_path / "server.toml"
    file.write_text(f'state_dir = "state"\n{head}\n[[databases]]\nname = "app"\nenvironments = ["development"]\n{text}')
    return load_server(file, {})


def test_by_itself_nothing_is_scheduled(tmp_path: Path):
    assert load(tmp_path, "").backup == BackupSettings(tmp_path / "state" / "backups")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/mnt/copies", ("/mnt/copies", None, "")),
        ("copies", ("{base}/copies", None, "")),
        ("s3://bucket/a/b/", ("{base}/state/backups", "bucket", "a/b")),
        ("s3://bucket", ("{base}/state/backups", "bucket", "")),
    ],
)
def test_a_directory_or_a_bucket(tmp_path: Path, target: str, expected: tuple[str, str | None, str]):
    found = load(tmp_path, f'[backup]\nevery_hours = 12\nkeep = 3\ntarget = "{target}"').backup
    folder, bucket, prefix = expected
    folder = folder.replace("{base}", str(tmp_path))
    assert found == BackupSettings(Path(folder), timedelta(hours=12), 3, bucket, prefix)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('target = "ftp://host/x"', "backup.target"),
        ('target = "s3:///x"', "backup.target"),
        ('target = "s3://bucket/x?y"', "backup.target"),
        ("keep = 0", "backup.keep"),
        ("every_hours = -1", "backup.every_hours"),
        ("often = 1", "backup.often"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, key: str):
    with pytest.raises(Misconfigured, match=key.replace(".", r"\.")):
        load(tmp_path, f"[backup]\n{text}")


def test_a_schedule_for_postgresql_is_warned_about(tmp_path: Path):
    head = '[state]\nurl = "postgresql://dbward@db/dbward"'
    assert any("[backup]" in line for line in load(tmp_path, "[backup]\nevery_hours = 1", head).warnings)
