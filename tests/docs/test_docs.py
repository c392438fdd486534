"""The documentation says what the code does: it is compared with the code here, so it cannot drift unseen."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dbward.cli.main import COMMANDS
from dbward.domain.model import Status
from dbward.settings.sections import SECTIONS

ROOT = Path(__file__).parents[2]
PACKAGES = ("dbward", "tasks", "web", "worker")
CODE = re.compile(r"[a-z]+(_[a-z]+)*(\.[a-z]+(_[a-z]+)*)*")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md"), *ROOT.glob("deploy/**/*.md")])


# --- error codes ------------------------------------------------------------------------------------------------------


def error_codes() -> dict[str, str]:
    """Every code in the source, with a place it comes from.

    Codes are written as a `code=` argument, as the `code` of a class, as a constant named `…_ERROR`, or as the value of
    a `code`-named mapping.
    """
    found: dict[str, str] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                for code, line in codes_of(node):
                    found.setdefault(code, f"{path.relative_to(ROOT)}:{line}")
    return found


def codes_of(node: ast.AST) -> Iterator[tuple[str, int]]:
    values: list[ast.expr] = []
    if isinstance(node, ast.Call):
        values += [k.value for k in node.keywords if k.arg == "code"]
        if isinstance(node.func, ast.Name) and node.func.id in {"TokenRefused", "Denied"} and node.args:
            values.append(node.args[0])
    elif isinstance(node, ast.AnnAssign):
        if isinstance(node.target, ast.Name) and node.target.id.endswith("_ERROR") and node.value is not None:
            values.append(node.value)
    elif isinstance(node, ast.ClassDef):
        for statement in node.body:
            if isinstance(statement, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "code" for t in statement.targets
            ):
                values.append(statement.value)
    elif (
        isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Dict)
        and any(isinstance(t, ast.Name) and t.id.endswith("_CODES") for t in node.targets)
    ):
        values += node.value.values
    for value in values:
        for inner in ast.walk(value):
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and CODE.fullmatch(inner.value):
                yield inner.value, inner.lineno


def test_every_error_code_is_documented() -> None:
    text = (ROOT / "docs/reference/errors.md").read_text()
    documented = set(re.findall(r"^\| `([^`]+)`", text, re.MULTILINE))
    missing = {code: place for code, place in error_codes().items() if code not in documented}
    assert missing == {}


def test_every_documented_error_code_exists() -> None:
    text = (ROOT / "docs/reference/errors.md").read_text()
    source = "\n".join(p.read_text() for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
    documented = re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)
    assert [code for code in documented if f'"{code}"' not in source] == []
    assert len(documented) == len(set(documented))


def test_the_guide_to_troubles_names_codes_that_exist() -> None:
    rows = re.findall(r"^\| ((?:`[a-z_.]+`(?:, )?)+)", _page("docs/guides/troubleshooting.md"), re.MULTILINE)
    named = {code for row in rows for code in re.findall(r"`([a-z_.]+)`", row)}
    documented = set(re.findall(r"^\| `([^`]+)`", _page("docs/reference/errors.md"), re.MULTILINE))
    assert len(named) > 30
    assert named - documented - set(Status) == set()


# --- settings ---------------------------------------------------------------------------------------------------------

READERS = {
    "choice", "days", "flag", "integer", "maybe", "maybe_integer", "maybe_secs", "required", "required_secret",
    "secret", "secs", "table", "tables", "text", "texts",
}  # fmt: skip


def settings_keys() -> dict[str, str]:
    """Every key that a settings module reads, with a place where it does."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "dbward/settings").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READERS:
                for argument in node.args[:1]:
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str) and argument.value:
                        found.setdefault(argument.value, f"{path.name}:{argument.lineno}")
    return found


def test_every_settings_key_is_documented() -> None:
    quoted = " ".join(re.findall(r"`([^`]+)`", _page("docs/reference/configuration.md")))
    words = set(re.findall(r"[A-Za-z0-9_]+", quoted))
    assert {key: place for key, place in settings_keys().items() if key not in words} == {}


def test_what_a_reload_takes_over_is_told() -> None:
    part = _page("docs/reference/configuration.md").partition("### What a reload takes over")[2].partition("\n## ")[0]
    told = re.findall(r"^\| `([^`]+)`( but `[^`]+`)? \| (yes|restart) \|$", part, re.MULTILINE)
    expected = [(s.name.removesuffix(" the rest"), "yes" if s.live else "restart") for s in SECTIONS]
    assert [(name, reload) for name, _, reload in told] == expected


# --- dependencies -----------------------------------------------------------------------------------------------------


def dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.match(r"[A-Za-z0-9._-]+", line)[0] for line in wanted}  # type: ignore[index]
    return sorted(names - {"dbward"})


@pytest.mark.parametrize("name", dependencies())
def test_dependency_has_a_licence_and_a_reason(name: str) -> None:
    row = re.search(rf"^\| `{re.escape(name)}` \|([^|]+)\|([^|]+)\|$", _page("docs/dependencies.md"), re.MULTILINE)
    assert row, f"{name} has no row in docs/dependencies.md"
    licence, reason = (cell.strip() for cell in row.groups())
    assert licence
    assert reason
    assert not re.search(r"(?<!L)GPL", licence), f"{name}: {licence}"


def test_no_row_for_a_library_that_is_not_used() -> None:
    named = set(re.findall(r"^\| `([^`]+)` \|", _page("docs/dependencies.md"), re.MULTILINE))
    assert named - set(dependencies()) == set()


# --- command line -----------------------------------------------------------------------------------------------------


def commands() -> list[str]:
    """Every command a person can type, without the program's name."""
    found = []
    for name, (module, attribute, _) in COMMANDS.items():
        command = getattr(importlib.import_module(f"dbward.cli.{module}"), attribute)
        below = sorted(command.commands) if isinstance(command, click.Group) else []
        found += [f"{name} {sub}" for sub in below] or [name]
    return found


def test_every_command_is_documented() -> None:
    text = _page("docs/reference/cli.md")
    assert [command for command in commands() if not re.search(rf"`dbward {command}\b", text)] == []


def test_the_commands_on_the_page_are_those_of_the_program() -> None:
    made = runpy.run_path(str(ROOT / "deploy/dev/cli_page.py"))["renewed"](_page("docs/reference/cli.md"))
    assert made == _page("docs/reference/cli.md"), "the page is out of date: run `make cli-docs`"
    assert "|  |" not in made, "an option says nothing about itself"


# --- links and commands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    text = _without_code(page.read_text())
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_every_page_of_docs_is_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", _without_code(page.read_text())):
            if not re.match(r"[a-z]+:", target):
                todo.append((page.parent / target).resolve())
    assert [str(p.relative_to(ROOT)) for p in PAGES if p not in seen and "docs" in p.parts] == []


def test_make_targets_named_in_the_docs_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", _page("Makefile"), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert named - targets == set()


def test_the_build_server_runs_what_the_readme_says() -> None:
    assert "```sh\nmake test\n```" in _page("README.md")
    assert "exec make test" in _page(".ci/run")


def _page(name: str) -> str:
    return (ROOT / name).read_text()


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
