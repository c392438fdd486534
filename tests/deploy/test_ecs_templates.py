"""The templates of `deploy/ecs`, worked out for many sets of parameters: what AWS would make, and in which order."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.events.models import EventPattern

from dbward.settings.agent import load_agent
from dbward.settings.load import FromVariable
from dbward.settings.server import load_server
from tests.support import cloudformation
from tests.support.cloudformation import Resource, Stack, Wrong, mappings, resolve

ECS = Path(__file__).parents[2] / "deploy" / "ecs"
SERVER, AGENT, STORAGE, MONITORING = (
    cloudformation.read(ECS / f"{name}.yaml") for name in ("template", "agent", "storage", "monitoring")
)
SECRET = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:dbward/"
CERTIFICATE = "arn:aws:acm:eu-central-1:123456789012:certificate/1"

BASE = {"VpcId": "vpc-1", "SubnetIds": "subnet-a"}
CHOICES: dict[str, dict[str, dict[str, str]]] = {
    "subnets": {"one": {}, "three": {"SubnetIds": "subnet-a,subnet-b,subnet-c"}},
    "alb": {
        "none": {},
        "http": {"EnableAlb": "true", "AlbSubnetIds": "subnet-x,subnet-y"},
        "https": {
            "EnableAlb": "true",
            "AlbSubnetIds": "subnet-x,subnet-y",
            "CertificateArn": CERTIFICATE,
            "AlbIngressCidr": "0.0.0.0/0",
        },
    },
    "config": {"inline": {}, "ssm": {"ConfigSource": "ssm", "SsmConfigParameter": "/dbward/server-config"}},
    "results": {"local": {}, "s3": {"ResultStorageBackend": "s3", "ResultBucketName": "some-bucket"}},
    "state": {
        "efs": {},
        "adopted": {"ExistingFileSystemId": "fs-0123"},
        "postgresql": {"StateDatabaseUrlSecretArn": f"{SECRET}state-AbCdEf", "ServerDesiredCount": "3"},
    },
    "ecr": {"no": {}, "yes": {"EcrRepositoryName": "dbward-server"}},
}


class Case:
    """One set of parameters, and the stack it makes under one name."""

    def __init__(self, chosen: dict[str, str], name: str) -> None:
        self.chosen, self.name = chosen, name
        given = dict(BASE)
        for what, which in chosen.items():
            given |= CHOICES[what][which]
        self.stack = resolve(SERVER, given, name)
        self.task = self.stack["ServerTaskDefinition"]
        self.container: dict[str, Any] = self.task["ContainerDefinitions"][0]
        self.service = self.stack["ServerService"]

    def statements(self, role: str) -> Iterator[dict[str, Any]]:
        policies = list(self.stack[role].get("Policies", []))
        for found in self.stack.of_type("AWS::IAM::Policy"):
            if f"{{{role}}}" in found.properties["Roles"]:
                policies.append(found.properties)
        for policy in policies:
            yield from policy["PolicyDocument"]["Statement"]

    def may(self, role: str) -> set[str]:
        return {action for statement in self.statements(role) for action in listed(statement["Action"])}


def listed(said: str | list[str]) -> list[str]:
    return [said] if isinstance(said, str) else said


def every_case() -> Iterator[Any]:
    for which in itertools.product(*CHOICES.values()):
        chosen = dict(zip(CHOICES, which, strict=True))
        for name in ("dbward", "second"):
            yield pytest.param(chosen, name, id="-".join([*which, name]))


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


every = pytest.mark.parametrize(
    "case", [pytest.param((p.values[0], p.values[1]), id=p.id) for p in every_case()], indirect=True
)


@every
def test_what_the_first_task_needs_is_there_before_it(case: Case) -> None:
    ready = case.stack.before("ServerService")
    efs = case.chosen["state"] != "postgresql"
    expected = {"Cluster", "LogGroup", "ServerExecutionRole", "ServerTaskRole", "ServerSecurityGroup"}
    if efs:
        expected |= {"AccessPoint", "MountTarget1", "EfsFromServer", "ServerToEfs", "ServerEfsPolicy"}
        if case.chosen["subnets"] == "three":
            expected |= {"MountTarget2", "MountTarget3"}
    else:
        expected |= {"ServerToStateDatabase", "KeySeed"}
    if case.chosen["alb"] != "none":
        expected |= {
            "LoadBalancer",
            "TargetGroup",
            "HttpsListener" if case.chosen["alb"] == "https" else "HttpListener",
        }
    assert expected <= ready
    for name in case.stack.resources:
        assert name not in case.stack.before(name), f"{name} waits for itself"


@every
def test_the_task_runs_the_program_and_nothing_else(case: Case) -> None:
    assert "Command" not in case.container
    assert "EntryPoint" not in case.container
    assert case.container["HealthCheck"]["Command"] == [
        "CMD",
        "dbward",
        "server",
        "healthcheck",
        "http://127.0.0.1:3000/health",
    ]
    assert case.container["User"] == "10001:10001"
    environment = [entry["Name"] for entry in case.container.get("Environment", [])]
    secrets = [entry["Name"] for entry in case.container.get("Secrets", [])]
    assert len({*environment, *secrets}) == len(environment) + len(secrets)  # ECS refuses a name in both
    assert ("DBWARD_CONFIG_TOML" in secrets) == (case.chosen["config"] == "ssm")
    assert ("DBWARD_CONFIG_TOML" in environment) == (case.chosen["config"] == "inline")
    assert ("DBWARD_STATE_URL" in secrets) == (case.chosen["state"] == "postgresql")
    assert ("DBWARD_RESULT_STORAGE_BUCKET" in environment) == (case.chosen["results"] == "s3")


@every
def test_sqlite_has_one_writer_and_postgresql_has_several(case: Case) -> None:
    how = case.service["DeploymentConfiguration"]
    percents = (how["MinimumHealthyPercent"], how["MaximumPercent"])
    assert how["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}
    if case.chosen["state"] == "postgresql":
        assert percents == (100, 200)
        assert case.service["DesiredCount"] == "3"
        assert case.service["AvailabilityZoneRebalancing"] == "ENABLED"
        assert not case.stack.of_type("AWS::EFS::FileSystem")
        assert "MountPoints" not in case.container
    else:
        assert percents == (0, 100)
        assert case.service["AvailabilityZoneRebalancing"] == "DISABLED"
        assert case.container["MountPoints"][0]["ContainerPath"] == "/data"
        volume = case.task["Volumes"][0]["EFSVolumeConfiguration"]
        assert volume["TransitEncryption"] == "ENABLED"
        assert volume["AuthorizationConfig"] == {"AccessPointId": "{AccessPoint}", "IAM": "ENABLED"}
        assert case.stack["AccessPoint"]["PosixUser"] == {"Uid": "10001", "Gid": "10001"}
        assert bool(case.stack.of_type("AWS::EFS::FileSystem")) == (case.chosen["state"] == "efs")
    assert case.container["StopTimeout"] > 30


@every
def test_long_polls_pass_every_proxy(case: Case) -> None:
    timeout = case.service["ServiceConnectConfiguration"]["Services"][0]["Timeout"]
    assert timeout["PerRequestTimeoutSeconds"] == 330
    assert timeout["IdleTimeoutSeconds"] > timeout["PerRequestTimeoutSeconds"]
    if case.chosen["alb"] != "none":
        attributes = {a["Key"]: a["Value"] for a in case.stack["LoadBalancer"]["LoadBalancerAttributes"]}
        assert attributes["idle_timeout.timeout_seconds"] == "330"
        assert case.stack["LoadBalancer"]["Subnets"] == ["subnet-x", "subnet-y"]
        assert case.stack["TargetGroup"]["HealthCheckPath"] == "/ready"
        assert case.service["HealthCheckGracePeriodSeconds"] >= 300


@every
def test_roles_may_do_what_they_must_and_no_more(case: Case) -> None:
    results = {"s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:PutObjectTagging", "s3:ListBucket"}
    task, execution = case.may("ServerTaskRole"), case.may("ServerExecutionRole")
    assert {action for action in task if action.startswith("s3:")} == (
        results if case.chosen["results"] == "s3" else set()
    )
    mount = {action for action in task if action.startswith("elasticfilesystem:")}
    assert mount == (
        set()
        if case.chosen["state"] == "postgresql"
        else {"elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"}
    )
    assert not any("*" in action for action in task | execution)
    assert ("ecr:BatchGetImage" in execution) == (case.chosen["ecr"] == "yes")
    assert ("ssm:GetParameters" in execution) == (case.chosen["config"] == "ssm")
    assert ("secretsmanager:GetSecretValue" in execution) == (case.chosen["state"] == "postgresql")
    for role in ("ServerTaskRole", "ServerExecutionRole"):
        for statement in case.statements(role):
            if statement["Resource"] == "*":
                services = {action.partition(":")[0] for action in listed(statement["Action"])}
                assert services <= {"ssmmessages", "ecr"}, statement  # which have no resources
            if any(action.startswith("s3:") for action in listed(statement["Action"])):
                below = "" if "s3:ListBucket" in listed(statement["Action"]) else "/results/*"
                assert statement["Resource"] == f"arn:aws:s3:::some-bucket{below}"
            if "s3:ListBucket" in listed(statement["Action"]):
                assert statement["Condition"] == {"StringLike": {"s3:prefix": "results/*"}}


@every
def test_two_stacks_do_not_meet(case: Case) -> None:
    """Every name that is the account's or the cluster's begins with the stack's."""
    names = [case.stack["Cluster"]["ClusterName"], case.stack["Namespace"]["Name"], case.task["Family"]]
    names += [role.properties["RoleName"] for role in case.stack.of_type("AWS::IAM::Role")]
    assert all(name.startswith(case.name) for name in names)
    assert case.name in case.stack["LogGroup"]["LogGroupName"]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_certificate_makes_plain_http_redirect(scheme: str) -> None:
    case = Case({"alb": scheme}, "dbward")
    (action,) = case.stack["HttpListener"]["DefaultActions"]
    assert action["Type"] == ("redirect" if scheme == "https" else "forward")
    assert ("HttpsListener" in case.stack.resources) == (scheme == "https")
    assert case.stack.outputs["LoadBalancerUrl"].startswith(f"{scheme}://")


@pytest.mark.parametrize("subnets", ["subnet-a", "subnet-a,subnet-b", "subnet-a,subnet-b,subnet-c,subnet-d"])
def test_the_server_runs_where_its_file_system_is_mounted(subnets: str) -> None:
    given = BASE | {"SubnetIds": subnets}
    stack = resolve(SERVER, given)
    mounted = [target.properties["SubnetId"] for target in stack.of_type("AWS::EFS::MountTarget")]
    assert mounted == subnets.split(",")[:3]
    where = stack["ServerService"]["NetworkConfiguration"]["AwsvpcConfiguration"]
    assert where["Subnets"] == mounted
    without = resolve(SERVER, given | CHOICES["state"]["postgresql"])
    where = without["ServerService"]["NetworkConfiguration"]["AwsvpcConfiguration"]
    assert where["Subnets"] == subnets.split(",")


def test_only_the_server_mounts_its_file_system() -> None:
    policy = resolve(SERVER, BASE)["FileSystem"]["FileSystemPolicy"]["Statement"]
    allow = [statement for statement in policy if statement["Effect"] == "Allow"]
    assert [statement["Principal"] for statement in allow] == [{"AWS": "{ServerTaskRole.Arn}"}]
    denied = [statement["Condition"] for statement in policy if statement["Effect"] == "Deny"]
    assert {"ArnNotEquals": {"aws:PrincipalArn": "{ServerTaskRole.Arn}"}} in denied
    assert {"Bool": {"aws:SecureTransport": "false"}} in denied


def test_what_holds_data_outlives_the_stack() -> None:
    kept = {
        r.name
        for r in [*resolve(SERVER, BASE).resources.values(), *resolve(STORAGE, {}).resources.values()]
        if keeps(r)
    }
    assert kept == {"FileSystem", "Bucket", "BucketPolicy"}
    state = {"StateDatabaseUrlSecretArn": f"{SECRET}state-AbCdEf"}
    assert keeps(resolve(SERVER, BASE | state).resources["KeySeed"])


def keeps(resource: Resource) -> bool:
    return resource.keeps == "Retain"


@pytest.mark.parametrize(
    "given",
    [
        {"ResultStorageBackend": "s3"},
        {"ConfigSource": "ssm"},
        {"EnableAlb": "true"},
        {"EnableAlb": "true", "AlbSubnetIds": "subnet-x"},
        {"EnableAlb": "true", "AlbSubnetIds": "subnet-x,subnet-y", "AlbIngressCidr": "0.0.0.0/0"},
        {"ServerDesiredCount": "2"},
        {"ResultStorageBackend": "gcs"},
        {"SubnetIds": ""},
        {"NoSuchParameter": "1"},
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(given: dict[str, str]) -> None:
    with pytest.raises(Wrong):
        resolve(SERVER, BASE | given)


def test_cloudformation_knows_all_of_it() -> None:
    files = [str(path) for path in sorted(ECS.glob("*.yaml"))]
    assert len(files) == 4
    done = subprocess.run(
        [Path(sys.executable).with_name("cfn-lint"), "--", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


# --- the agents' stack ------------------------------------------------------------------------------------------------

AGENT_BASE = {
    "ClusterName": "dbward",
    "VpcId": "vpc-1",
    "SubnetIds": "subnet-a",
    "ServerSecurityGroupId": "sg-1",
    "AgentTokenSecretArn": f"{SECRET}agent-token-AbCdEf",
    "DatabaseUrlSecretArn": f"{SECRET}database-url-AbCdEf",
}


@pytest.fixture(params=[{}, {"EcrRepositoryName": "dbward-agent", "AgentDesiredCount": "3"}], ids=["plain", "ecr"])
def agents(request: pytest.FixtureRequest) -> Stack:
    return resolve(AGENT, AGENT_BASE | request.param, "dbward-agent")


def test_an_agent_runs_confined_and_nobody_reaches_it(agents: Stack) -> None:
    (container,) = agents["AgentTaskDefinition"]["ContainerDefinitions"]
    assert container["ReadonlyRootFilesystem"] is True
    assert "Command" not in container
    assert container["HealthCheck"]["Command"] == ["CMD", "dbward", "agent", "healthcheck", "/tmp/dbward-agent-alive"]
    assert 60 < container["StopTimeout"] <= 120
    assert "SecurityGroupIngress" not in agents["AgentSecurityGroup"]
    assert agents["ServerFromAgent"]["SourceSecurityGroupId"] == "{AgentSecurityGroup.GroupId}"
    assert {"ServerFromAgent", "AgentExecutionRole"} <= agents.before("AgentService")
    assert "Policies" not in agents["AgentTaskRole"]
    egress = {rule["FromPort"] for rule in agents["AgentSecurityGroup"]["SecurityGroupEgress"]}
    assert egress == {3000, "5432", 443, 53}


def test_an_agent_gets_its_two_secrets_and_no_other(agents: Stack) -> None:
    (container,) = agents["AgentTaskDefinition"]["ContainerDefinitions"]
    given = {entry["Name"]: entry["ValueFrom"] for entry in container["Secrets"]}
    assert set(given) == {"DBWARD_AGENT_TOKEN", "DATABASE_URL"}
    readable = [
        resource
        for found in mappings(agents["AgentExecutionRole"])
        if found.get("Action") == "secretsmanager:GetSecretValue"
        for resource in found["Resource"]
    ]
    assert sorted(readable) == sorted(given.values())


# --- results and alerts -----------------------------------------------------------------------------------------------


def test_the_bucket_is_private_encrypted_and_forgets() -> None:
    stack = resolve(STORAGE, {"RetentionDays": "7"}, "dbward-storage")
    bucket = stack["Bucket"]
    (rule,) = bucket["LifecycleConfiguration"]["Rules"]
    assert rule["ExpirationInDays"] == "7"
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    (statement,) = stack["BucketPolicy"]["PolicyDocument"]["Statement"]
    assert (statement["Sid"], statement["Effect"]) == ("DenyInsecureTransport", "Deny")
    assert set(stack.outputs) == {"BucketName", "BucketArn"}
    with pytest.raises(Wrong):
        resolve(STORAGE, {"RetentionDays": "0"})


ALB_NAMES = {"LoadBalancerFullName": "app/dbward/1", "TargetGroupFullName": "targetgroup/dbward/2"}


@pytest.mark.parametrize("alb", [True, False])
def test_alerts_reach_a_topic_that_aws_may_publish_to(alb: bool) -> None:
    given = {"ClusterName": "dbward", "AlertEmail": "oncall@example.com"} | (ALB_NAMES if alb else {})
    stack = resolve(MONITORING, given, "dbward-monitoring")
    (topic,) = stack.of_type("AWS::SNS::Topic")
    alarms = {
        resource.properties["MetricName"]: resource.properties for resource in stack.of_type("AWS::CloudWatch::Alarm")
    }
    assert ("UnHealthyHostCount" in alarms) == alb
    assert {"AgentsActive", "AgentsOffline", "QueueDepth", "QueueOldestSeconds"} <= set(alarms)
    assert all(f"{{{topic.name}}}" in alarm["AlarmActions"] for alarm in alarms.values())
    rules = stack.of_type("AWS::Events::Rule")
    patterns = str([rule.properties["EventPattern"] for rule in rules])
    assert "SERVICE_DEPLOYMENT_FAILED" in patterns
    assert "EssentialContainerExited" in patterns
    (policy,), (key,) = stack.of_type("AWS::SNS::TopicPolicy"), stack.of_type("AWS::KMS::Key")
    for document in (policy.properties["PolicyDocument"], key.properties["KeyPolicy"]):
        publishers = {
            each["Principal"]["Service"]: each
            for each in document["Statement"]
            if each["Effect"] == "Allow" and "Service" in each["Principal"]
        }
        assert publishers.keys() == {"events.amazonaws.com", "cloudwatch.amazonaws.com"}
        assert "Condition" not in publishers["events.amazonaws.com"]  # it would let nothing through
    assert topic.properties["KmsMasterKeyId"] != "alias/aws/sns"  # which lets neither of them publish


ECS_ARN = "arn:aws:ecs:eu-central-1:123456789012:"
IN_CLUSTER = {"clusterArn": f"{ECS_ARN}cluster/dbward"}


@pytest.mark.parametrize(
    ("kind", "resource", "detail", "told_by"),
    [
        (
            "ECS Deployment State Change",
            "service/dbward/agent",
            {"eventType": "ERROR", "eventName": "SERVICE_DEPLOYMENT_FAILED"},
            "DeploymentFailed",
        ),
        (
            "ECS Deployment State Change",
            "service/other/agent",
            {"eventType": "ERROR", "eventName": "SERVICE_DEPLOYMENT_FAILED"},
            None,
        ),
        (
            "ECS Deployment State Change",
            "service/dbward/agent",
            {"eventType": "INFO", "eventName": "SERVICE_DEPLOYMENT_COMPLETED"},
            None,
        ),
        (
            "ECS Task State Change",
            "task/dbward/0f",
            {**IN_CLUSTER, "lastStatus": "STOPPED", "stopCode": "EssentialContainerExited"},
            "TaskCrashed",
        ),
        (
            "ECS Task State Change",
            "task/dbward/0f",
            {**IN_CLUSTER, "lastStatus": "STOPPED", "stopCode": "TaskFailedToStart"},
            "TaskCrashed",
        ),
        (
            "ECS Task State Change",
            "task/dbward/0f",
            {**IN_CLUSTER, "lastStatus": "STOPPED", "stopCode": "ServiceSchedulerInitiated"},
            None,
        ),
        ("ECS Service Action", "service/dbward/server", {**IN_CLUSTER, "eventType": "WARN"}, "ServiceTroubled"),
        ("ECS Service Action", "service/dbward/server", {**IN_CLUSTER, "eventType": "INFO"}, None),
    ],
)
def test_the_rules_tell_of_what_went_wrong_in_this_cluster(
    kind: str, resource: str, detail: dict[str, str], told_by: str | None
) -> None:
    """By the matching of moto's EventBridge, on events as ECS sends them."""
    stack = resolve(MONITORING, {"ClusterName": "dbward"}, "dbward-monitoring")
    event = {"source": "aws.ecs", "detail-type": kind, "resources": [f"{ECS_ARN}{resource}"], "detail": detail}
    patterns = {
        rule.name: EventPattern.load(json.dumps(rule.properties["EventPattern"]))
        for rule in stack.of_type("AWS::Events::Rule")
    }
    found = [name for name, pattern in patterns.items() if pattern.matches_event(event)]
    assert found == ([] if told_by is None else [told_by])


# --- what the containers are told -------------------------------------------------------------------------------------


@every
def test_the_server_accepts_what_it_is_told(case: Case, tmp_path: Path) -> None:
    env = {entry["Name"]: entry["Value"] for entry in case.container["Environment"]}
    for entry in case.container.get("Secrets", []):
        env[entry["Name"]] = {
            "DBWARD_CONFIG_TOML": SERVER["Parameters"]["ServerConfigToml"]["Default"],
            "DBWARD_STATE_URL": "postgresql://dbward:secret@db.internal/dbward",
            "DBWARD_KEY_SEED": "x" * 64,
        }[entry["Name"]]
    settings = load_server(FromVariable(tmp_path), env)
    assert str(settings.state_dir) == "/data"
    assert settings.state.url.startswith("postgresql" if case.chosen["state"] == "postgresql" else "sqlite:////data/")
    assert settings.results.backend == case.chosen["results"]
    assert settings.backup.every is not None
    # PostgreSQL is backed up by other means, and the server says so.
    assert len(settings.warnings) == (case.chosen["state"] == "postgresql")
    if case.chosen["results"] == "s3":
        assert (settings.results.s3.bucket, settings.results.s3.prefix) == ("some-bucket", "results")


def test_the_agent_accepts_what_it_is_told(agents: Stack, tmp_path: Path) -> None:
    (container,) = agents["AgentTaskDefinition"]["ContainerDefinitions"]
    env = {entry["Name"]: entry["Value"] for entry in container["Environment"]}
    env |= {"DBWARD_AGENT_TOKEN": "dbw_" + "0" * 32, "DATABASE_URL": "postgresql://u:p@db.internal/app"}
    settings = load_agent(FromVariable(tmp_path), env)
    assert settings.server_url == "http://server:3000"
