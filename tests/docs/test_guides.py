"""The configuration in the guides is configuration that a server takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dbward.settings.server import load_server

GUIDES = sorted((Path(__file__).parents[2] / "docs/guides").rglob("*.md"))
BLOCK = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLES = [(page.stem, n, text) for page in GUIDES for n, text in enumerate(BLOCK.findall(page.read_text()))]
HEAD = """
[[databases]]
name = "app"
environments = ["development", "production"]

[[databases]]
name = "billing"
environments = ["production"]
"""


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize(("page", "number", "text"), EXAMPLES, ids=[f"{page}-{n}" for page, n, _ in EXAMPLES])
def test_an_example_is_taken(page: str, number: int, text: str, tmp_path: Path) -> None:
    path = tmp_path / f"{page}-{number}.toml"
    path.write_text(f"state_dir = {json.dumps(str(tmp_path))}\n{HEAD}\n{text}")
    settings = load_server(path, {})
    assert settings.policy.targets
    assert not [warning for warning in settings.warnings if "no effect" in warning or "not in effect" in warning]
