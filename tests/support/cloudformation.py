"""CloudFormation templates, worked out as AWS does: parameters, rules, conditions, functions, and who waits for whom.

What AWS would make is written `{Cluster}` and `{Cluster.Arn}`. What a template gets wrong raises `Wrong`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

PSEUDO: Final = {
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::Region": "eu-central-1",
    "AWS::URLSuffix": "amazonaws.com",
}
_NOTHING: Final = object()
"""`AWS::NoValue`: the entry it stands for is left out."""


class Wrong(Exception):
    """The template, or what it was given, would be refused."""


@dataclass(frozen=True, slots=True)
class Resource:
    name: str
    type: str
    properties: dict[str, Any]
    needs: frozenset[str]
    """Names of the resources that must be there before it, directly."""
    keeps: str
    """Its DeletionPolicy."""


@dataclass(frozen=True, slots=True)
class Stack:
    resources: dict[str, Resource]
    outputs: dict[str, Any]

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self.resources[name].properties

    def of_type(self, kind: str) -> list[Resource]:
        return [resource for resource in self.resources.values() if resource.type == kind]

    def before(self, name: str) -> set[str]:
        """Everything that AWS has made for certain when it begins with this one."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            for need in self.resources[waiting.pop()].needs - found:
                found.add(need)
                waiting.append(need)
        return found


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms."""


def _short(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short)


def read(path: Path) -> dict[str, Any]:
    return parse(path.read_text())


def parse(text: str) -> dict[str, Any]:
    template: dict[str, Any] = yaml.load(text, _Loader)
    return template


def resolve(template: Mapping[str, Any], given: Mapping[str, str], stack_name: str = "dbward") -> Stack:
    """The stack that AWS would make. Raises `Wrong`."""
    return _Evaluator(template, _parameters(template, given), stack_name).stack()


def _parameters(template: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    declared = template.get("Parameters", {})
    if unknown := given.keys() - declared.keys():
        raise Wrong(f"parameters {sorted(unknown)} do not exist")
    found: dict[str, Any] = {}
    for name, about in declared.items():
        if name not in given and "Default" not in about:
            raise Wrong(f"parameter {name} must have a value")
        value = str(given.get(name, about.get("Default")))
        if "AllowedValues" in about and value not in [str(v) for v in about["AllowedValues"]]:
            raise Wrong(f"{name}: {value!r} is not one of {about['AllowedValues']}")
        if "AllowedPattern" in about and not re.fullmatch(about["AllowedPattern"], value):
            raise Wrong(f"{name}: {value!r} does not match {about['AllowedPattern']}")
        if about["Type"] == "Number" and not float(about.get("MinValue", "-inf")) <= float(value) <= float(
            about.get("MaxValue", "inf")
        ):
            raise Wrong(f"{name}: {value} is out of its limits")
        if about["Type"] != "String" and about["Type"] != "Number" and not value:
            raise Wrong(f"{name}: must not be empty")
        found[name] = value.split(",") if about["Type"].startswith("List<") else value
    return found


@dataclass(slots=True)
class _Evaluator:
    template: Mapping[str, Any]
    parameters: Mapping[str, Any]
    stack_name: str
    needs: set[str] = field(default_factory=set)

    def stack(self) -> Stack:
        self._check_rules()
        resources = {
            name: self._resource(name, about) for name, about in self.template["Resources"].items() if self._made(about)
        }
        outputs = {
            name: self.value(about["Value"])
            for name, about in self.template.get("Outputs", {}).items()
            if self._made(about)
        }
        return Stack(resources, outputs)

    def _resource(self, name: str, about: Mapping[str, Any]) -> Resource:
        self.needs = set()
        properties = self.value(about.get("Properties", {}))
        depends = about.get("DependsOn", [])
        for other in [depends] if isinstance(depends, str) else depends:
            self._reference(other)
        return Resource(name, about["Type"], properties, frozenset(self.needs), about.get("DeletionPolicy", "Delete"))

    def _made(self, about: Mapping[str, Any]) -> bool:
        return "Condition" not in about or self.condition(about["Condition"])

    def _check_rules(self) -> None:
        for rule in self.template.get("Rules", {}).values():
            if self.truth(rule.get("RuleCondition", True)):
                for each in rule["Assertions"]:
                    if not self.truth(each["Assert"]):
                        raise Wrong(each["AssertDescription"])

    def condition(self, name: str) -> bool:
        try:
            return self.truth(self.template["Conditions"][name])
        except KeyError:
            raise Wrong(f"condition {name} does not exist") from None

    def truth(self, said: Any) -> bool:
        if isinstance(said, bool):
            return said
        ((function, arguments),) = said.items()
        match function:
            case "Condition":
                return self.condition(arguments)
            case "Fn::Equals":
                left, right = (self.value(argument) for argument in arguments)
                return bool(left == right)
            case "Fn::Not":
                return not self.truth(arguments[0])
            case "Fn::And":
                return all(self.truth(argument) for argument in arguments)
            case "Fn::Or":
                return any(self.truth(argument) for argument in arguments)
            case "Fn::Contains":
                return self.value(arguments[1]) in self.value(arguments[0])
        raise Wrong(f"{function} is no condition")

    def value(self, said: Any) -> Any:
        if isinstance(said, list):
            return [value for each in said if (value := self.value(each)) is not _NOTHING]
        if not isinstance(said, dict):
            return said
        if len(said) == 1:
            ((function, arguments),) = said.items()
            if function == "Ref" or function.startswith("Fn::"):
                return self._call(function, arguments)
        return {key: value for key, each in said.items() if (value := self.value(each)) is not _NOTHING}

    def _call(self, function: str, arguments: Any) -> Any:
        match function:
            case "Ref":
                return self._ref(arguments)
            case "Fn::GetAtt":
                return self._reference(arguments[0], arguments[1])
            case "Fn::If":
                condition, yes, no = arguments
                return self.value(yes if self.condition(condition) else no)
            case "Fn::Sub":
                return self._sub(arguments)
            case "Fn::Join":
                return arguments[0].join(str(part) for part in self.value(arguments[1]))
            case "Fn::Split":
                return self.value(arguments[1]).split(arguments[0])
            case "Fn::Select":
                return self.value(arguments[1])[int(self.value(arguments[0]))]
        raise Wrong(f"{function} is not known")

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return _NOTHING
        if name == "AWS::StackName":
            return self.stack_name
        if name in PSEUDO:
            return PSEUDO[name]
        return self.parameters[name] if name in self.parameters else self._reference(name)

    def _reference(self, name: str, attribute: str | None = None) -> str:
        about = self.template["Resources"].get(name)
        if about is None:
            raise Wrong(f"there is no resource {name}")
        if not self._made(about):
            raise Wrong(f"{name} is referred to, and not made under these parameters")
        self.needs.add(name)
        return f"{{{name}.{attribute}}}" if attribute else f"{{{name}}}"

    def _sub(self, arguments: Any) -> str:
        text, own = (arguments, {}) if isinstance(arguments, str) else arguments

        def replace(found: re.Match[str]) -> str:
            name = found[1]
            if name.startswith("!"):
                return f"${{{name[1:]}}}"
            if name in own:
                return str(self.value(own[name]))
            resource, _, attribute = name.partition(".")
            return self._reference(resource, attribute) if attribute else str(self._ref(name))

        return re.sub(r"\$\{([^}]+)\}", replace, text)


def mappings(said: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(said, Mapping):
        yield said
    for each in said.values() if isinstance(said, Mapping) else said if isinstance(said, list) else ():
        yield from mappings(each)
