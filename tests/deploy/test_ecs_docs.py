"""`docs/deployment/ecs.md` and the templates say the same, in both directions."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import cloudformation

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/deployment/ecs.md").read_text()
TEMPLATES = {
    name: cloudformation.read(ROOT / f"deploy/ecs/{name}")
    for name in ("template.yaml", "agent.yaml", "storage.yaml", "monitoring.yaml")
}
GUIDE = {
    "template.yaml": "VpcId SubnetIds ImageRepository ImageTag ServerConfigToml EnableAlb AlbSubnetIds "
    "EcrRepositoryName AllowedIngressCidr ResultStorageBackend ResultBucketName",
    "agent.yaml": "ClusterName VpcId SubnetIds ServerSecurityGroupId AgentTokenSecretArn DatabaseUrlSecretArn "
    "ImageRepository ImageTag AgentDesiredCount AgentConfigToml DatabasePort EcrRepositoryName",
}
"""The parameters that dbward's users know, in their order; whatever else there is has a default and comes after."""


def commands() -> list[list[str]]:
    """Every `aws` command of the page, in words."""
    found = []
    for fence in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL):
        text = re.sub(r"\\\n", " ", re.sub(r"^#.*$", "", fence, flags=re.MULTILINE))
        for line in re.split(r"\n(?=\S)(?![^']*'\n)", re.sub(r"'\n.*?\n'", "TEXT", text, flags=re.DOTALL)):
            command = re.sub(r"^\w+=\$\((.*)\)$", r"\1", line.strip(), flags=re.DOTALL)
            if command.startswith("aws "):
                found.append(shlex.split(command))
    return found


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def deployments() -> Iterator[tuple[str, str, list[str]]]:
    """Stack, template and parameters of each `aws cloudformation deploy`."""
    for command in commands():
        if command[1:3] == ["cloudformation", "deploy"]:
            at = command.index("--parameter-overrides") + 1
            given = []
            for word in command[at:]:
                if word.startswith("--"):
                    break
                given.append(word)
            yield option(command, "--stack-name"), option(command, "--template-file"), given


def rows(template: str) -> list[tuple[str, bool, str]]:
    """Parameter, whether it is required, and its description, as the page's table has them."""
    section = re.search(rf"^### {re.escape(template)}.*?$(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE)
    assert section is not None, template
    found = re.findall(r"^\| (\w+) \| (✅|) ?\| (.*?) \|$", section[1], re.MULTILINE)
    return [(name, required == "✅", text) for name, required, text in found]


def test_the_page_has_all_that_users_do() -> None:
    assert len(commands()) >= 25
    assert {stack for stack, _, _ in deployments()} >= {"dbward", "dbward-agent", "dbward-storage", "dbward-monitoring"}


@pytest.mark.parametrize("template", TEMPLATES)
def test_tables_and_parameters_are_the_same(template: str) -> None:
    declared: dict[str, Any] = TEMPLATES[template]["Parameters"]
    said = {name: (required, text) for name, required, text in rows(template)}
    assert said.keys() == declared.keys()
    for name, (required, text) in said.items():
        assert required == ("Default" not in declared[name]), name
        stated = re.search(r"\(default: ([^)]+)\)", text)
        default = str(declared[name].get("Default", ""))
        if stated is not None and "\n" not in default:
            assert stated[1] == default, name
        elif default and "\n" not in default:
            pytest.fail(f"{name}: its default {default!r} is not in the table")


@pytest.mark.parametrize("template", GUIDE)
def test_the_parameters_that_users_know_come_first(template: str) -> None:
    expected = GUIDE[template].split()
    assert [name for name, _, _ in rows(template)][: len(expected)] == expected


def test_every_override_is_a_parameter() -> None:
    """`deploy` drops the others without a word."""
    for _, file, given in deployments():
        declared = TEMPLATES[Path(file).name]["Parameters"]
        for word in given:
            if word not in {"...other", "params..."}:
                name, sign, _ = word.partition("=")
                assert sign, word
                assert name in declared, f"{file} has no {name}"


def test_first_deployments_give_what_is_required() -> None:
    seen: set[str] = set()
    for stack, file, given in deployments():
        if stack not in seen:
            seen.add(stack)
            names = {word.partition("=")[0] for word in given}
            required = {n for n, about in TEMPLATES[Path(file).name]["Parameters"].items() if "Default" not in about}
            assert required <= names, stack


def test_every_output_that_is_asked_for_exists() -> None:
    by_stack = {stack: TEMPLATES[Path(file).name] for stack, file, _ in deployments()}
    asked = [c for c in commands() if c[1:3] == ["cloudformation", "describe-stacks"]]
    assert asked
    for command in asked:
        name = re.search(r"OutputKey=='(\w+)'", option(command, "--query"))
        assert name is not None
        assert name[1] in by_stack[option(command, "--stack-name")]["Outputs"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_table_of_outputs_and_the_outputs_are_the_same(template: str) -> None:
    said = re.findall(rf"^\| {re.escape(template)} \| (\w+) \| .+ \|$", PAGE, re.MULTILINE)
    assert said == list(TEMPLATES[template]["Outputs"])


def test_what_an_output_is_for_is_a_parameter() -> None:
    uses = re.findall(r"^\| [\w.]+ \| \w+ \| `(\w+)` of ([\w.]+)(?: and ([\w.]+))?", PAGE, re.MULTILINE)
    assert len(uses) == 5
    for parameter, *templates in uses:
        for template in filter(None, templates):
            assert parameter in TEMPLATES[template]["Parameters"], (parameter, template)


def test_names_in_commands_follow_from_the_templates() -> None:
    server = cloudformation.resolve(TEMPLATES["template.yaml"], {"VpcId": "vpc-1", "SubnetIds": "subnet-a"}, "dbward")
    container = server["ServerTaskDefinition"]["ContainerDefinitions"][0]["Name"]
    services = {"server", "agent"}
    assert server["ServerService"]["ServiceName"] == "server"
    assert server["Cluster"]["ClusterName"] == "dbward"
    for command in commands():
        if command[1] == "ecs":
            assert option(command, "--cluster") == "dbward"
            if "--container" in command:
                assert option(command, "--container") == container
            for name in ("--service", "--service-name"):
                if name in command:
                    assert option(command, name) in services


def test_named_roles_are_acknowledged() -> None:
    for command in commands():
        if command[1:3] == ["cloudformation", "deploy"]:
            kinds = [r["Type"] for r in TEMPLATES[Path(option(command, "--template-file")).name]["Resources"].values()]
            assert ("CAPABILITY_NAMED_IAM" in command) == ("AWS::IAM::Role" in kinds), command


def test_the_hardening_policy_names_the_role_that_there_is() -> None:
    server = cloudformation.resolve(TEMPLATES["template.yaml"], {"VpcId": "vpc-1", "SubnetIds": "subnet-a"}, "dbward")
    assert f"role/{server['ServerTaskRole']['RoleName']}" in PAGE


def test_ports_of_the_page_are_those_of_the_rules() -> None:
    server = cloudformation.resolve(TEMPLATES["template.yaml"], {"VpcId": "vpc-1", "SubnetIds": "subnet-a"})
    ports = {rule["FromPort"] for rule in server["ServerSecurityGroup"]["SecurityGroupEgress"]}
    ports |= {found.properties["FromPort"] for found in server.of_type("AWS::EC2::SecurityGroupEgress")}
    said = re.search(r"^- Server egress: (.*)$", PAGE, re.MULTILINE)
    assert said is not None
    assert {int(port) for port in re.findall(r"\((\d+)\)", said[1])} == ports
