"""What `dbward doctor` says about policy: gaps, steps that nobody can get past, rules that are switched off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dbward.cli.diagnosis.model import Check
from dbward.cli.diagnosis.policy import check_policy
from dbward.domain import roles
from dbward.domain.model import PolicySet, Principal
from dbward.settings.server import load_server

APP = """
[[databases]]
name = "app"
environments = ["development", "production"]
[[auth.groups]]
name = "dba"
roles = ["approver"]
"""


def policy(tmp_path: Path, workflows: str) -> PolicySet:
    path = tmp_path / "server.toml"
    path.write_text(f"state_dir = {json.dumps(str(tmp_path))}\n{APP}{workflows}")
    return load_server(path, {}).policy


def checked(of: PolicySet, people: dict[str, str] | None) -> dict[str, Check]:
    """`people`: name to roles and, with an `@` before it, groups."""
    known = None
    if people is not None:
        known = [
            Principal(
                name,
                "user",
                roles=roles.resolve([w for w in words.split() if w[0] != "@"], _groups(words), of, None),
                groups=tuple(_groups(words)),
            )
            for name, words in people.items()
        ]
    return {check.id: check for check in check_policy(of, known)}


def _groups(words: str) -> list[str]:
    return [word[1:] for word in words.split() if word[0] == "@"]


def steps(*approvers: str, head: str = "") -> str:
    """One workflow for everything, with a step for each."""
    return f"[[workflows]]\n{head}\n" + "".join(f"[[workflows.steps]]\n{one}\n" for one in approvers)


ONE = "approvers = [{ role = 'approver' }]"
TWO = "approvers = [{ role = 'approver', min = 2 }]"
ANY = "mode = 'any'\napprovers = [{ role = 'operator' }, { group = 'dba' }]"
ALL = "approvers = [{ role = 'operator' }, { group = 'dba' }]"
ANN = "approvers = [{ user = 'ann' }]"


@pytest.mark.parametrize(
    ("workflows", "people", "said"),
    [
        (steps(ONE), {"ann": "approver"}, None),
        (steps(ONE), {"ann": "@dba"}, None),
        (steps(ONE), {}, "role:approver has 0 of 1"),
        (steps(TWO), {"ann": "approver"}, "role:approver has 1 of 2"),
        (steps(TWO), {"ann": "approver", "ben": "@dba"}, None),
        (steps(ANY), {"ann": "@dba"}, None),
        (steps(ANY), {"ann": "approver"}, "role:operator has 0 of 1, group:dba has 0 of 1"),
        (steps(ALL), {"ann": "@dba"}, "role:operator has 0 of 1"),
        (steps(ANN), {"ben": "approver"}, "user:ann has 0 of 1"),
        (steps(ONE), {"ann": "approver requester"}, "nobody else is there to approve what ann asks for"),
        (steps(ONE, head="allow_self_approve = true"), {"ann": "approver requester"}, None),
        (steps(ONE, ANY), {"ann": "approver @dba"}, "its steps need 2 different people, and 1 could"),
        (steps(ONE, ANY), {"ann": "approver @dba", "ben": "operator"}, None),
        (steps(ONE, ANY, head="allow_same_approver_across_steps = true"), {"ann": "@dba"}, None),
    ],
)
def test_enough_people(tmp_path: Path, workflows: str, people: dict[str, str], said: str | None) -> None:
    check = checked(policy(tmp_path, workflows), people)["workflow_step_validity"]
    assert check.status == ("pass" if said is None else "warn")
    assert said is None or any(said in line for line in check.details), check.details


def test_people_who_are_not_known(tmp_path: Path) -> None:
    assert checked(policy(tmp_path, steps(ONE)), None)["workflow_step_validity"].status == "skip"
    always = "[[workflows]]\nauto_approve = { mode = 'always' }\n"
    assert checked(policy(tmp_path, always), None)["workflow_step_validity"].status == "pass"


def test_what_is_not_covered(tmp_path: Path) -> None:
    some = steps(ONE, head="environment = 'production'\noperations = ['execute_select']")
    coverage = checked(policy(tmp_path, some), None)["workflow_coverage"]
    assert coverage.status == "warn"
    assert coverage.details[0] == "app/development: everything"
    assert coverage.details[1].startswith("app/production: execute_dml, migrate_up")
    assert checked(policy(tmp_path, ""), None)["workflow_validity"].status == "fail"
    assert checked(policy(tmp_path, steps(ONE)), None)["workflow_coverage"].status == "pass"


@pytest.mark.parametrize(
    ("review", "status"),
    [
        ("", "pass"),
        ("[[sql_review]]\ntruncate = 'off'", "warn"),
        ("[[sql_review]]\nenvironment = 'development'\ntruncate = 'off'", "pass"),
        ("[[sql_review]]\nenvironment = 'production'\ndrop_table = 'off'", "warn"),
        ("[[sql_review]]\ntruncate = 'off'\n[[sql_review]]\nenvironment = 'production'\ntruncate = 'warn'", "pass"),
    ],
)
def test_what_destroys_data_in_production(tmp_path: Path, review: str, status: str) -> None:
    assert checked(policy(tmp_path, steps(ONE) + review), None)["sql_review_safety"].status == status
