"""The lock files of the images and pyproject.toml say the same."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "deploy" / "docker" / "requirements"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
IMAGES = {"server": ("server", "s3"), "agent": ("agent",), "cli": ()}


def locked(name: str) -> dict[str, tuple[Requirement, int]]:
    """Each library of a lock file with the number of hashes it has there."""
    found = {}
    for entry in (REQUIREMENTS / f"{name}.txt").read_text().replace("\\\n", " ").splitlines():
        if entry and not entry.startswith("#"):
            words, *hashes = re.split(r"\s+--hash=", entry.strip())
            requirement = Requirement(words)
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in hashes), entry
            found[canonicalize_name(requirement.name)] = (requirement, len(hashes))
    return found


def wanted(extras: tuple[str, ...]) -> list[str]:
    project = PYPROJECT["project"]
    return [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]


def disagreements(lines: list[str], lock: dict[str, tuple[Requirement, int]]) -> list[str]:
    """The requirements that the lock file does not satisfy."""
    found = []
    for line in lines:
        requirement = Requirement(line)
        entry, _ = lock.get(canonicalize_name(requirement.name), (None, 0))
        version = _version(entry) if entry else None
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{line}: locked at {version}")
    return found


@pytest.mark.parametrize(("name", "extras"), IMAGES.items())
def test_what_an_image_needs_is_locked(name: str, extras: tuple[str, ...]) -> None:
    assert disagreements(wanted(extras), locked(name)) == []


def test_what_builds_the_wheel_is_locked() -> None:
    assert disagreements(PYPROJECT["build-system"]["requires"], locked("build")) == []


def test_a_disagreement_is_found() -> None:
    lock = locked("cli")
    assert disagreements(["click>=1", "click<1", "nothing-like-this"], lock) == [
        f"click<1: locked at {_version(lock['click'][0])}",
        "nothing-like-this: locked at None",
    ]


@pytest.mark.parametrize("name", [*IMAGES, "build"])
def test_every_library_is_at_one_version_and_has_its_hashes(name: str) -> None:
    for requirement, hashes in locked(name).values():
        assert re.fullmatch(r"==[^=*]+", str(requirement.specifier)), requirement
        assert hashes, f"{requirement} has no hash"


def test_the_images_agree_with_each_other() -> None:
    """Otherwise a protocol would be tested between libraries that never meet."""
    versions: dict[str, set[str]] = {}
    for name in IMAGES:
        for library, (requirement, _) in locked(name).items():
            versions.setdefault(library, set()).add(str(requirement.specifier))
    assert {library: seen for library, seen in versions.items() if len(seen) > 1} == {}


def test_no_image_has_what_only_another_needs() -> None:
    """The agent carries no web server and the command line no database driver."""
    here = {**default_environment(), "sys_platform": "linux"}
    names = {n: {k for k, (r, _) in locked(n).items() if r.marker is None or r.marker.evaluate(here)} for n in IMAGES}
    assert not names["agent"] & {"flask", "gunicorn", "boto3", "alembic", "psycopg2-binary"}
    assert not names["cli"] & {"flask", "sqlalchemy", "psycopg", "pymysql"}
    assert not names["server"] & {"psycopg", "pymysql"}


def test_the_bill_of_materials_names_what_is_locked(tmp_path: Path) -> None:
    """`make sbom`, in a copy: every library with its version and the hashes of its files."""
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    for name in ("Makefile", "pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    shutil.copytree(ROOT / "deploy" / "docker", tmp_path / "deploy" / "docker")
    command = ["make", "--silent", "--old-file=.venv/.dev", "sbom", "IMAGES=agent"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    bill = json.loads((tmp_path / "dist" / "sbom" / "agent.cdx.json").read_text())
    told = {(c["name"], c["version"]): len(c["externalReferences"][0]["hashes"]) for c in bill["components"]}
    assert told == {(r.name, _version(r)): hashes for r, hashes in locked("agent").values()}
    assert bill["metadata"]["component"]["name"] == "dbward"


def _version(requirement: Requirement) -> str:
    return next(iter(requirement.specifier)).version
