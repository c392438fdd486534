"""CloudFormation: change sets, stacks and their resources, of which those that matter are really made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Final

from tests.support import cloudformation
from tests.support.aws import made as moto
from tests.support.aws.ecs import ACCOUNT, REGION, Ecs, Refused, arn
from tests.support.cloudformation import Resource, Stack, Wrong

MAX_TEMPLATE_BYTES: Final = 51_200
MAX_PARAMETER_BYTES: Final = 4096
IDS: Final = {
    "AWS::EC2::VPC::Id": r"vpc-[0-9a-f]+",
    "List<AWS::EC2::Subnet::Id>": r"subnet-[0-9a-f]+(,subnet-[0-9a-f]+)*",
    "AWS::EC2::SecurityGroup::Id": r"sg-[0-9a-f]+",
}
PREFIXES: Final = {
    "AWS::EC2::SecurityGroup": "sg-",
    "AWS::EFS::FileSystem": "fs-",
    "AWS::EFS::AccessPoint": "fsap-",
    "AWS::EFS::MountTarget": "fsmt-",
}
"""How the ids begin that AWS gives. What has a name is known by that, and the rest by stack and name."""
NAMES: Final = {
    "AWS::ECS::Cluster": "ClusterName",
    "AWS::ECS::Service": "ServiceName",
    "AWS::IAM::Role": "RoleName",
    "AWS::Logs::LogGroup": "LogGroupName",
}


@dataclass(slots=True)
class Deployed:
    """A stack, as it is now."""

    name: str
    template: Mapping[str, Any] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    status: str = "REVIEW_IN_PROGRESS"
    reason: str = ""
    ids: dict[str, str] = field(default_factory=dict)
    resources: dict[str, Resource] = field(default_factory=dict)
    """With references put in, in the order in which they were made."""
    attributes: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """What `GetAtt` gives, of what moto has made."""
    outputs: dict[str, str] = field(default_factory=dict)

    @property
    def arn(self) -> str:
        return arn("cloudformation", f"stack/{self.name}/0")


@dataclass(frozen=True, slots=True)
class ChangeSet:
    stack: Deployed
    template: Mapping[str, Any]
    parameters: dict[str, str]
    made: Stack
    reason: str
    """Why it cannot be executed; empty when it can."""


@dataclass(slots=True)
class CloudFormation:
    ecs: Ecs
    stacks: dict[str, Deployed] = field(default_factory=dict)
    changes: dict[str, ChangeSet] = field(default_factory=dict)
    bucket_policies: dict[str, Any] = field(default_factory=dict)
    retained: list[str] = field(default_factory=list)
    """Ids of resources that deleted stacks have left behind."""

    def answer(self, action: str, asked: Mapping[str, str]) -> Any:
        """The result of a call, as nested mappings and lists. Raises `Refused`."""
        actions: dict[str, Callable[[Mapping[str, str]], Any]] = {
            "DescribeStacks": self._describe,
            "GetTemplateSummary": self._summary,
            "CreateChangeSet": self._change,
            "DescribeChangeSet": self._describe_change,
            "ExecuteChangeSet": self._execute,
            "DeleteStack": self._delete,
        }
        if action not in actions:
            raise Refused(f"{action} is not known", "InvalidAction")
        return actions[action](asked)

    def _stack(self, name: str) -> Deployed:
        if name not in self.stacks:
            raise Refused(f"Stack with id {name} does not exist", "ValidationError")
        return self.stacks[name]

    def _describe(self, asked: Mapping[str, str]) -> Any:
        stack = self._stack(asked["StackName"])
        outputs = [{"OutputKey": key, "OutputValue": value} for key, value in stack.outputs.items()]
        about = {
            "StackName": stack.name,
            "StackId": stack.arn,
            "StackStatus": stack.status,
            "StackStatusReason": stack.reason,
            "CreationTime": "2026-01-01T00:00:00Z",
            "Outputs": outputs,
        }
        return {"Stacks": [about]}

    def _summary(self, asked: Mapping[str, str]) -> Any:
        declared = self._stack(asked["StackName"]).template["Parameters"]
        return {"Parameters": [{"ParameterKey": name} for name in declared]}

    def _change(self, asked: Mapping[str, str]) -> Any:
        name, kind = asked["StackName"], asked["ChangeSetType"]
        if len(asked["TemplateBody"].encode()) > MAX_TEMPLATE_BYTES:
            raise Refused(f"templateBody must be at most {MAX_TEMPLATE_BYTES} bytes", "ValidationError")
        template = cloudformation.parse(asked["TemplateBody"])
        stack = Deployed(name) if kind == "CREATE" else self._stack(name)
        declared = template.get("Parameters", {})
        defaults = {key: str(about["Default"]) for key, about in declared.items() if "Default" in about}
        # Kept with the stack: what was a default then is a previous value at the next update.
        given = defaults | dict(_parameters(asked, stack))
        _check(template, given)
        _check_capabilities(template, list(_members(asked, "Capabilities")))
        try:
            made = cloudformation.resolve(template, given, name)
        except Wrong as e:
            raise Refused(str(e), "ValidationError") from e
        same = kind == "UPDATE" and (template, given) == (stack.template, stack.parameters)
        reason = "The submitted information didn't contain changes." if same else ""
        self.stacks[name] = stack
        change = arn("cloudformation", f"changeSet/{asked['ChangeSetName']}/{token_hex(4)}")
        self.changes[change] = ChangeSet(stack, template, given, made, reason)
        return {"Id": change, "StackId": stack.arn}

    def _describe_change(self, asked: Mapping[str, str]) -> Any:
        change = self.changes[asked["ChangeSetName"]]
        status = "FAILED" if change.reason else "CREATE_COMPLETE"
        return {"ChangeSetId": asked["ChangeSetName"], "Status": status, "StatusReason": change.reason}

    def _execute(self, asked: Mapping[str, str]) -> Any:
        """Of a change that fails, only its services are rolled back."""
        change = self.changes.pop(asked["ChangeSetName"])
        stack = change.stack
        kind = "UPDATE" if stack.resources else "CREATE"
        before = stack.resources
        try:
            self._make(stack, change.made)
        except (Refused, AssertionError) as e:
            stack.status, stack.reason = ("UPDATE_" if kind == "UPDATE" else "") + "ROLLBACK_COMPLETE", str(e)
            return {}
        for name in before.keys() - change.made.resources.keys():
            self._remove(stack, before[name])
        stack.template, stack.parameters = change.template, change.parameters
        stack.status, stack.reason = f"{kind}_COMPLETE", ""
        return {}

    def _make(self, stack: Deployed, made: Stack) -> None:
        resources: dict[str, Resource] = {}
        for wanted in _in_order(made):
            # A name may refer to what comes later only through a parameter, so that all it refers to has its id by now.
            properties = self._put_in(stack, made, wanted.properties)
            resource = Resource(wanted.name, wanted.type, properties, wanted.needs, wanted.keeps)
            if moto.makes(wanted.type):
                self._put_in_moto(stack, resource)
            elif wanted.name not in stack.ids:
                stack.ids[wanted.name] = _id(stack, resource)
            self._put(stack, resource, resources)
            resources[wanted.name] = resource
        stack.resources = resources
        stack.outputs = {name: str(self._put_in(stack, made, value)) for name, value in made.outputs.items()}

    def _put_in_moto(self, stack: Deployed, resource: Resource) -> None:
        before = stack.resources.get(resource.name)
        if before is None:
            found = moto.make(self.ecs.client, stack.name, resource)
            stack.ids[resource.name], stack.attributes[resource.name] = found.id, found.attributes
        elif before.properties != resource.properties:
            raise Refused(f"{resource.name} would be changed, which is not known here")

    def _put(self, stack: Deployed, resource: Resource, made: Mapping[str, Resource]) -> None:
        """Make, or change, what is more than a name here."""
        properties, own = resource.properties, stack.ids[resource.name]
        match resource.type:
            case "AWS::ECS::Cluster":
                self.ecs.clusters.add(own)
            case "AWS::IAM::Role":
                documents = [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
                self.ecs.roles[_arn(resource, own)] = [each for document in documents for each in document["Statement"]]
            case "AWS::EFS::FileSystem":
                self.ecs.file_systems[own] = self.ecs.farm.dir / own
            case "AWS::S3::Bucket" if resource.name not in stack.resources:
                where = {"LocationConstraint": REGION}
                self.ecs.client("s3").create_bucket(Bucket=own, CreateBucketConfiguration=where)
            case "AWS::S3::BucketPolicy":
                # Not for moto, which passes over conditions: all would be denied.
                self.bucket_policies[properties["Bucket"]] = properties["PolicyDocument"]
            case "AWS::ECS::Service":
                (definition,) = [each for each in made.values() if stack.ids[each.name] == properties["TaskDefinition"]]
                self.ecs.put(properties, definition.properties)

    def _delete(self, asked: Mapping[str, str]) -> Any:
        stack = self.stacks.get(asked["StackName"])
        if stack is None:
            return {}
        resources = list(stack.resources.values())
        for resource in resources:
            if resource.type == "AWS::ECS::Cluster":
                own = {each.properties["ServiceName"] for each in resources if each.type == "AWS::ECS::Service"}
                strangers = {name for cluster, name in self.ecs.services if cluster == stack.ids[resource.name]} - own
                if strangers:
                    stack.status, stack.reason = "DELETE_FAILED", f"the cluster has services: {sorted(strangers)}"
                    return {}
        for resource in reversed(resources):
            self._remove(stack, resource)
        del self.stacks[stack.name]
        return {}

    def _remove(self, stack: Deployed, resource: Resource) -> None:
        own = stack.ids.pop(resource.name)
        if resource.keeps == "Retain":
            self.retained.append(own)
            return
        match resource.type:
            case "AWS::ECS::Service":
                self.ecs.delete(resource.properties["Cluster"], resource.properties["ServiceName"])
            case "AWS::ECS::Cluster":
                self.ecs.clusters.discard(own)
            case "AWS::IAM::Role":
                del self.ecs.roles[_arn(resource, own)]
            case "AWS::EFS::FileSystem":
                del self.ecs.file_systems[own]
            case "AWS::S3::BucketPolicy":
                del self.bucket_policies[resource.properties["Bucket"]]
            case "AWS::S3::Bucket":
                self.ecs.client("s3").delete_bucket(Bucket=own)
            case kind:
                moto.remove(self.ecs.client, kind, own)

    def _put_in(self, stack: Deployed, made: Stack, said: Any) -> Any:
        """`{Name}` and `{Name.Attribute}` replaced by what AWS has made."""
        if isinstance(said, Mapping):
            return {key: self._put_in(stack, made, value) for key, value in said.items()}
        if isinstance(said, list):
            return [self._put_in(stack, made, value) for value in said]
        if not isinstance(said, str):
            return said

        def replace(found: re.Match[str]) -> str:
            if found[1] not in made.resources:
                return found[0]
            resource, own = made.resources[found[1]], stack.ids[found[1]]
            attributes = stack.attributes.get(found[1], {})
            match found[2]:
                case None | "GroupId" | "Name":
                    return own
                case name if name in attributes:
                    return attributes[name]
                case "Arn":
                    return _arn(resource, own)
            raise Refused(f"{resource.type} has no {found[2]} here")

        return re.sub(r"\{(\w+)(?:\.(\w+))?\}", replace, said)


def _in_order(made: Stack) -> Iterator[Resource]:
    """Each after all that it needs; where the template has a circle, this does not end well: `Refused`."""
    done: set[str] = set()
    left = dict(made.resources)
    while left:
        ready = [resource for resource in left.values() if resource.needs <= done]
        if not ready:
            raise Refused(f"Circular dependency between resources: {sorted(left)}", "ValidationError")
        for resource in ready:
            yield resource
            done.add(resource.name)
            del left[resource.name]


def _id(stack: Deployed, resource: Resource) -> str:
    if resource.type in NAMES:
        return str(resource.properties[NAMES[resource.type]])
    if resource.type in PREFIXES:
        return PREFIXES[resource.type] + token_hex(8)
    return f"{stack.name}-{resource.name}-{token_hex(6)}".lower()


def _arn(resource: Resource, own: str) -> str:
    match resource.type:
        case "AWS::IAM::Role":
            return f"arn:aws:iam::{ACCOUNT}:role/{own}"
        case "AWS::S3::Bucket":
            return f"arn:aws:s3:::{own}"
    kind = resource.type.split("::")
    return arn(kind[1].lower(), f"{kind[2].lower()}/{own}")


def _parameters(asked: Mapping[str, str], stack: Deployed) -> Iterator[tuple[str, str]]:
    number = 1
    while (name := asked.get(f"Parameters.member.{number}.ParameterKey")) is not None:
        if asked.get(f"Parameters.member.{number}.UsePreviousValue") == "true":
            if name not in stack.parameters:
                raise Refused(f"{name} has no previous value", "ValidationError")
            yield name, stack.parameters[name]
        else:
            yield name, asked[f"Parameters.member.{number}.ParameterValue"]
        number += 1


def _members(asked: Mapping[str, str], name: str) -> Iterator[str]:
    return (value for key, value in asked.items() if key.startswith(f"{name}.member."))


def _check(template: Mapping[str, Any], given: Mapping[str, str]) -> None:
    """What AWS asks of values beyond what the template says."""
    for name, value in given.items():
        if len(value.encode()) > MAX_PARAMETER_BYTES:
            raise Refused(f"{name} is longer than {MAX_PARAMETER_BYTES} bytes", "ValidationError")
        kind = template.get("Parameters", {}).get(name, {}).get("Type")
        if kind in IDS and not re.fullmatch(IDS[kind], value):
            raise Refused(f"Value ({value}) for parameter {name} is no {kind}", "ValidationError")


def _check_capabilities(template: Mapping[str, Any], given: list[str]) -> None:
    roles = [each for each in template["Resources"].values() if each["Type"] == "AWS::IAM::Role"]
    if any("RoleName" in each["Properties"] for each in roles) and "CAPABILITY_NAMED_IAM" not in given:
        raise Refused("Requires capabilities : [CAPABILITY_NAMED_IAM]", "InsufficientCapabilitiesException")
