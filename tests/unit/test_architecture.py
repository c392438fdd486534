"""The rules of the house that no other tool holds."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("dbward", "tasks", "web", "worker")
SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
ALL_PYTHON = SOURCES + sorted(p for folder in ("tests", "bench", "deploy") for p in (ROOT / folder).rglob("*.py"))

MAX_LINES = 600
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")
POSSESSIVE = re.compile(r"[\])}][*+?]\+|[\])]\{[0-9,]+\}\+|\(\?>")
SILENCED = re.compile(r"#\s*(type:\s*ignore(?!\[)|noqa(?!:))")


def _names(paths: list[Path]) -> list[str]:
    return [str(p.relative_to(ROOT)) for p in paths]


@pytest.mark.parametrize("path", ALL_PYTHON, ids=_names(ALL_PYTHON))
def test_a_module_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", ALL_PYTHON, ids=_names(ALL_PYTHON))
def test_nothing_is_left_unfinished_or_silenced_without_a_code(path: Path) -> None:
    text = path.read_text()
    assert [line for line in text.splitlines() if UNFINISHED.search(line) or SILENCED.search(line)] == []


@pytest.mark.parametrize("path", SOURCES, ids=_names(SOURCES))
def test_every_module_says_what_it_is(path: Path) -> None:
    text = path.read_text().strip()
    assert text.startswith('"""') or (path.name == "__init__.py" and not text)


@pytest.mark.parametrize("path", SOURCES, ids=_names(SOURCES))
def test_no_possessive_groups(path: Path) -> None:
    """Python before 3.11.5 goes on from the wrong place when the last round of one fails; Debian 12 has 3.11.2."""
    texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    assert [text for text in texts if isinstance(text, str) and POSSESSIVE.search(text)] == []


def test_imports_point_down() -> None:
    """import-linter's contracts in setup.cfg, as `make imports` runs them."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_has_a_layer() -> None:
    """A module that no layer names would be free of them."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    layers = set(re.split(r"[\s|:]+", config["importlinter:contract:layers"]["layers"].strip()))
    children = {
        f"dbward.{p.stem}" for p in (ROOT / "dbward").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    expected = (children - {"dbward.__init__"}) | {"tasks", "web", "worker"}
    assert expected - layers == set()
