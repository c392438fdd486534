"""What Litestream has of the state in S3 begins again like a backup of our own, as docs/deployment/backup.md says."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.e2e.people import CONFIG, People
from tests.e2e.test_backup import run, said
from tests.support import s3
from tests.support.engine import ROOT, TOOLS
from tests.support.processes import Farm

pytestmark = [pytest.mark.e2e]

PAGE = ROOT / "docs" / "deployment" / "backup.md"
LITESTREAM = TOOLS / "litestream"


def configuration(state_dir: Path, bucket: s3.Bucket) -> str:
    """That of the page, with places of this test."""
    (text,) = re.findall(r"```yaml\n(dbs:.*?)```", PAGE.read_text(), re.DOTALL)
    config = yaml.safe_load(text)
    (database,) = config["dbs"]
    database["path"] = str(state_dir / Path(database["path"]).name)
    database["replica"] |= {
        "url": f"s3://{bucket.name}/dbward",
        "endpoint": bucket.url,
        "access-key-id": s3.ACCESS_KEY,
        "secret-access-key": s3.SECRET_KEY,
        "force-path-style": True,
    }
    return str(yaml.safe_dump(config))


def test_a_lost_disk_costs_no_request(farm: Farm, tmp_path: Path) -> None:
    target, copy = tmp_path / "target.db", tmp_path / "copy.db"
    with sqlite3.connect(target) as made:
        made.execute("CREATE TABLE effects (n INTEGER)")
    with s3.fresh_bucket(s3.moto_url()) as bucket:
        server = farm.server(config=f"{CONFIG}\n[state]\nexclusive = false\n", env=People.tokens_env())
        file = tmp_path / "litestream.yml"
        file.write_text(configuration(server.state_dir, bucket))
        follow = [str(LITESTREAM), "replicate", "-config", str(file)]
        restore = [
            str(LITESTREAM),
            "restore",
            "-config",
            str(file),
            "-o",
            str(copy),
            str(server.state_dir / "dbward.db"),
        ]

        def copied(request_id: str) -> str | None:
            """Its status by what is in S3, which `copy` is then."""
            copy.unlink(missing_ok=True)
            if farm.spawn("restore", restore).wait(60) != 0:
                return None
            with sqlite3.connect(copy) as found:
                assert found.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                row = found.execute("SELECT status FROM requests WHERE id = ?", [request_id]).fetchone()
            return str(row[0]) if row is not None else None

        litestream = farm.spawn("litestream", follow)
        farm.agent(server, {("app", "development"): f"sqlite:///{target}"})
        people = People(server)
        keys = Path(str(said(run(server, "backup"))["place"]))
        done = people.submit("INSERT INTO effects VALUES (1)", "development")["id"]
        assert people.await_end(done) == "executed"
        approved = people.submit_and_approve("INSERT INTO effects VALUES (2)")
        farm.until(lambda: copied(approved) == "approved", "the approval is in S3", litestream)
        server.process.kill()
        litestream.kill()

        shutil.move(server.state_dir, tmp_path / "lost")
        server.state_dir.mkdir(mode=0o700)
        kept = tmp_path / "lost" / "backups" / keys.name
        unpack = ["tar", "-xzf", kept, "-C", server.state_dir, "--exclude=dbward.db", "--exclude=about.json"]
        subprocess.run(unpack, check=True)
        assert said(run(server, "restore", str(copy)))["cancelled"] == 1
        server.start_again()
        assert people.show(done)["status"] == "executed"
        assert people.show(approved)["status"] == "cancelled"
        again = people.submit("INSERT INTO effects VALUES (3)", "development")["id"]
        assert people.await_end(again) == "executed"
        people.assert_record_is_whole(again)

        litestream = farm.spawn("litestream", follow)
        farm.until(lambda: copied(again) == "executed", "it goes on in the same place", litestream)
