"""The commands of a page, run in a shell with the real `aws` command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support.aws.ecs import REGION, ROOT
from tests.support.aws.front import Aws
from tests.support.s3 import ACCESS_KEY, SECRET_KEY

AWS: Final = ROOT / ".venv/tools/bin/aws"
PLUGIN: Final = f"""#!{sys.executable}
# Stands in for AWS's Session Manager plugin: called without arguments to see that it is there, then with a session.
import json, sys, urllib.request
if len(sys.argv) > 1:
    sys.stdout.write(urllib.request.urlopen(json.loads(sys.argv[1])["streamUrl"]).read().decode())
"""


class AwsMissing(Exception):
    """The command line is not installed."""


@dataclass(slots=True)
class Shell:
    """One after the other, with the variables that earlier commands have set."""

    aws: Aws
    home: Path
    placeholders: dict[str, str] = field(default_factory=dict)
    """What a reader of the page puts in by themselves, and what for."""

    def __post_init__(self) -> None:
        if not AWS.exists():
            raise AwsMissing(f"there is no {AWS}: `sh deploy/dev/servers.sh` installs what deploy/dev/tools.txt names")
        programs = self.home / "bin"
        programs.mkdir(parents=True)
        (programs / "aws").symlink_to(AWS)
        plugin = programs / "session-manager-plugin"
        plugin.write_text(PLUGIN)
        plugin.chmod(0o755)

    def run(self, command: str) -> str:
        """What it writes to standard output. Its failure is the test's."""
        variables = self.home / "variables"
        before = f"set -eu\n[ ! -e {variables} ] || . {variables}\nset -a\n"
        script = f"{before}{self._filled_in(command)}\nexport -p > {variables}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=ROOT,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}\n{self._reasons()}"
        return done.stdout

    def _filled_in(self, command: str) -> str:
        for placeholder, value in self.placeholders.items():
            command = command.replace(placeholder, value)
        return command

    def _environment(self) -> Mapping[str, str]:
        return {
            "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "AWS_ENDPOINT_URL": self.aws.ecs.data_url,
            "AWS_ENDPOINT_URL_CLOUDFORMATION": self.aws.url,
            "AWS_ENDPOINT_URL_ECS": self.aws.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_PAGER": "",
            "NO_PROXY": "127.0.0.1",
        }

    def _reasons(self) -> str:
        return "\n".join(
            f"{each.name}: {each.status} {each.reason}" for each in self.aws.cloudformation.stacks.values()
        )


def fences(page: str, heading: str) -> list[str]:
    """The commands under a heading: each fence cut where a blank line, or a comment, begins something new."""
    section = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^##|\Z)", re.sub(r"\r", "", page), re.DOTALL | re.MULTILINE)
    assert section is not None, heading
    found = []
    for fence in re.findall(r"```bash\n(.*?)```", section[1], re.DOTALL):
        found += [command.strip() for command in re.split(r"\n(?=\n*# )|\n\n(?=\w+=|aws )", fence)]
    return [command for command in found if command]
