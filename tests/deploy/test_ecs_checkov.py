"""checkov's findings in the templates of `deploy/ecs`, and the answers to them: comments in the resources concerned."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import cloudformation

ROOT = Path(__file__).parents[2]
CHECKOV = ROOT / ".venv/checkov/bin/checkov"
TEMPLATES = sorted((ROOT / "deploy/ecs").glob("*.yaml"))
STORAGE = ROOT / "deploy/ecs/storage.yaml"
ANSWERED = {
    ("storage.yaml", "Bucket", "CKV_AWS_21"),
    ("template.yaml", "KeySeed", "CKV_AWS_149"),
}
"""Template, resource and check."""


def answers(template: Path) -> Iterator[tuple[str, str, str]]:
    """What the comments of a template answer."""
    resource = ""
    for line in template.read_text().splitlines():
        if named := re.match(r"  (\w+):$", line):
            resource = named[1]
        if "checkov:skip" in line:
            said = re.fullmatch(r"    # checkov:skip=(CKV2?_AWS_\d+):\S.+", line)
            assert said is not None, f"{template.name}: {line}"
            yield template.name, resource, said[1]


def test_every_finding_is_answered_and_every_answer_has_its_finding(tmp_path: Path) -> None:
    """The comments do not count here: what they would silence is what is looked for."""
    if not CHECKOV.exists():
        pytest.fail(f"there is no {CHECKOV}: `sh deploy/dev/servers.sh` installs what deploy/dev/checkov.txt names")
    assert len(TEMPLATES) == 4
    for template in TEMPLATES:
        (tmp_path / template.name).write_text(template.read_text().replace("checkov:skip", "answered"))
    weak = STORAGE.read_text().replace("BlockPublicAcls: true", "BlockPublicAcls: false")
    (tmp_path / "weak.yaml").write_text(weak)  # to see that findings are seen
    options = ["--framework", "cloudformation", "--skip-download", "--quiet", "--compact", "--output", "json"]
    done = subprocess.run(
        [CHECKOV, *options, "--directory", str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    report = json.loads(done.stdout)
    found = {
        (each["file_path"].lstrip("/"), each["resource"].rpartition(".")[2], each["check_id"])
        for each in report["results"]["failed_checks"]
    }
    resources = [cloudformation.read(template)["Resources"] for template in [*TEMPLATES, STORAGE]]
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["resource_count"] == sum(map(len, resources))
    assert {each for each in found if each[0] == "weak.yaml"} >= {("weak.yaml", "Bucket", "CKV_AWS_53")}
    findings = {each for each in found if each[0] != "weak.yaml"}
    assert findings == ANSWERED
    assert [each for template in TEMPLATES for each in answers(template)] == sorted(ANSWERED)
