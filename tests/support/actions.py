"""Runs a job of a GitHub Actions workflow as a runner does: its steps in order, with what they are given.

Only what an example needs is understood. Anything else raises `Unsupported`, so that a workflow never seems to have
run when a part of it was passed over.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

_EXPRESSION: Final = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
_COMPARED: Final = re.compile(r"(?P<name>[\w.]+) (?P<how>==|!=) '(?P<value>[^']*)'")
_WORKFLOW: Final = frozenset({"name", "on", "permissions", "env", "jobs", "concurrency"})
_JOB: Final = frozenset(
    {"name", "if", "needs", "runs-on", "environment", "concurrency", "timeout-minutes", "env", "steps", "permissions"}
)
_STEP: Final = frozenset({"name", "id", "if", "uses", "with", "env", "run"})


class Unsupported(Exception):
    """The workflow has something in it that this runner does not know."""


@dataclass(frozen=True, slots=True)
class Step:
    """What became of a step that has run; one that was not its turn is not there."""

    name: str
    status: int
    output: str


@dataclass(slots=True)
class Runner:
    """`contexts` are `github.sha`, `vars.X` and `secrets.X` by their whole names; `env` what the machine itself has.

    `uses` stands in for actions: by name and without its version, called with what the step gives it.
    """

    workflow: Path
    directory: Path
    contexts: Mapping[str, str]
    env: Mapping[str, str]
    uses: Mapping[str, Callable[[Mapping[str, Any]], None]]
    ran: list[Step] = field(default_factory=list)

    def job(self, name: str) -> bool:
        """Run that job; whether it is green. False also when its condition keeps it from running."""
        workflow = yaml.load(self.workflow.read_text(), _Loader)
        job = workflow["jobs"][name]
        _known(workflow, _WORKFLOW)
        _known(job, _JOB)
        if not self._holds(job.get("if", "success()"), failed=False):
            return False
        failed = False
        for step in job["steps"]:
            _known(step, _STEP)
            if self._holds(step.get("if", "success()"), failed=failed):
                failed = self._step(step, {**workflow.get("env", {}), **job.get("env", {})}) or failed
        return not failed

    def _step(self, step: Mapping[str, Any], env: Mapping[str, Any]) -> bool:
        """Whether it failed."""
        name = step.get("name") or step.get("uses") or step["run"].partition("\n")[0]
        if "uses" in step:
            action = step["uses"].partition("@")[0]
            if action not in self.uses:
                raise Unsupported(f"uses: {action}")
            self.uses[action]({key: self._filled_in(str(value)) for key, value in step.get("with", {}).items()})
            self.ran.append(Step(name, 0, ""))
            return False
        given = {key: self._filled_in(str(value)) for key, value in {**env, **step.get("env", {})}.items()}
        github = {
            f"GITHUB_{key.removeprefix('github.').upper()}": value
            for key, value in self.contexts.items()
            if key.startswith("github.")
        }
        done = subprocess.run(
            ["bash", "-e", "-c", self._filled_in(step["run"])],  # as it is without `shell:`
            cwd=self.directory,
            env={**self.env, "CI": "true", **github, **given},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        self.ran.append(Step(name, done.returncode, done.stdout))
        return done.returncode != 0

    def _filled_in(self, text: str) -> str:
        return _EXPRESSION.sub(lambda found: self._value(found[1]), text)

    def _value(self, name: str) -> str:
        if name not in self.contexts:
            raise Unsupported(f"${{{{ {name} }}}}")
        return self.contexts[name]

    def _holds(self, condition: str, *, failed: bool) -> bool:
        states = {"success()": not failed, "failure()": failed, "always()": True}
        if condition in states:
            return states[condition]
        compared = _COMPARED.fullmatch(condition)
        if compared is None:
            raise Unsupported(f"if: {condition}")
        return not failed and (self._value(compared["name"]) == compared["value"]) is (compared["how"] == "==")


class _Loader(yaml.SafeLoader):
    """As GitHub reads YAML: `on` is a name and not a truth value."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false"), ["t", "f"])


def _known(part: Mapping[str, Any], keys: frozenset[str]) -> None:
    if strange := part.keys() - keys:
        raise Unsupported(", ".join(sorted(strange)))
