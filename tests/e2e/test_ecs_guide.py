"""docs/deployment/ecs.md works as written: its commands, by the real `aws` command line, against an AWS on loopback.

A command is changed only where its reader has to fill something in: `PLACEHOLDERS`, and what earlier commands showed.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.e2e.people import TERMINAL
from tests.support import services
from tests.support.aws.ecs import ACCOUNT, REGION, ROOT, Refused
from tests.support.aws.front import Aws, aws
from tests.support.aws.shell import Shell, fences
from tests.support.processes import Farm, call, status_of
from tests.support.s3 import moto_url, own_moto

pytestmark = pytest.mark.e2e

PAGE = (ROOT / "docs/deployment/ecs.md").read_text()
CONFIG = """
state_dir = "/data"
[[databases]]
name = "app"
environments = ["production"]
[[workflows]]
environment = "production"
[[workflows.steps]]
approvers = [{ role = "approver" }]
"""
PLACEHOLDERS = {
    "vpc-xxx": "vpc-0123456789abcdef0",
    "subnet-aaa": "subnet-0123456789abcdef0",
    "REGION": REGION,
    "ACCOUNT": ACCOUNT,
    "...other params...": "",  # all of them keep what earlier deployments gave them
    "--value '...'": f"--value '{CONFIG}'",
}
NEW_AGENT = {
    "subject_type": "agent",
    "subject_id": "agent-2",
    "scopes": [{"database": "app", "environment": "production"}],
}
GUARDED = "postgres://user:pass@mydb.rds.amazonaws.com:5432/app"
STATE = "postgresql://dbward:pass@state.rds.amazonaws.com:5432/dbward"
TOKEN = re.compile(r"dbw_\w+")


@pytest.fixture
def cloud(farm: Farm) -> Iterator[Aws]:
    with aws(farm, moto_url()) as cloud:
        yield cloud


@pytest.fixture
def state_url() -> Iterator[str]:
    with services.fresh_postgres() as url:
        yield url


@pytest.fixture
def network(farm: Farm) -> Iterator[tuple[Aws, dict[str, str]]]:
    """Another AWS, with a VPC, three subnets and a certificate: what there has to be before a load balancer is made."""
    with own_moto() as data_url, aws(farm, data_url) as cloud:
        ec2, acm = cloud.ecs.client("ec2"), cloud.ecs.client("acm")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        there = {"vpc-xxx": vpc}
        for number, name in enumerate("abc"):
            zone = {"CidrBlock": f"10.0.{number}.0/24", "AvailabilityZone": f"{REGION}{name}"}
            there[f"subnet-{name * 3}"] = ec2.create_subnet(VpcId=vpc, **zone)["Subnet"]["SubnetId"]
        certificate = acm.request_certificate(DomainName="dbward.example.com")["CertificateArn"]
        there["certificate/ID"] = f"certificate/{certificate.rpartition('/')[2]}"
        yield cloud, there


@pytest.mark.parametrize(
    ("changed", "because"),
    [
        ({"Capabilities.member.1": "CAPABILITY_IAM"}, "CAPABILITY_NAMED_IAM"),
        ({"VpcId": "vpc-xxx"}, "no AWS::EC2::VPC::Id"),
        ({"ResultStorageBackend": "s3"}, "needs ResultBucketName"),
        ({"EnableAlb": "yes"}, "is not one of"),
        ({"ServerConfigToml": "#" * 4097}, "longer than 4096 bytes"),
    ],
)
def test_this_aws_refuses_what_the_real_one_does(cloud: Aws, changed: dict[str, str], because: str) -> None:
    """Else the run of the guide would show little."""
    given = {"VpcId": PLACEHOLDERS["vpc-xxx"], "SubnetIds": PLACEHOLDERS["subnet-aaa"]}
    asked = {
        "StackName": "dbward",
        "ChangeSetName": "change",
        "ChangeSetType": "CREATE",
        "TemplateBody": (ROOT / "deploy/ecs/template.yaml").read_text(),
        "Capabilities.member.1": "CAPABILITY_NAMED_IAM",
    }
    for name, value in changed.items():
        (asked if name in asked else given)[name] = value
    for number, (name, value) in enumerate(given.items(), start=1):
        asked[f"Parameters.member.{number}.ParameterKey"] = name
        asked[f"Parameters.member.{number}.ParameterValue"] = value
    with pytest.raises(Refused, match=because):
        cloud.cloudformation.answer("CreateChangeSet", asked)
    assert cloud.cloudformation.stacks == {}


class Guide:
    """Somebody who follows the page, and the people who then use what it has deployed."""

    def __init__(self, cloud: Aws, home: Path, placeholders: dict[str, str]) -> None:
        self.cloud = cloud
        self.shell = Shell(cloud, home, {**PLACEHOLDERS, **placeholders})
        self.admin = self.alice = self.bob = ""

    def follow(self, heading: str) -> list[str]:
        """What each command under a heading writes."""
        return [self.follow_one(command) for command in fences(PAGE, heading)]

    def follow_one(self, command: str) -> str:
        said = self.shell.run(command)
        if "secretsmanager create-secret" in command:
            made = json.loads(said)
            # The six characters that AWS puts behind each name.
            self.shell.placeholders[f"{made['Name']}-XXXXXX"] = made["ARN"].rpartition(":")[2]
        return said

    def take_tokens(self) -> None:
        find_task, read_admin, read_agent, store = fences(PAGE, "3. Bootstrap tokens (one-time, after first deploy)")
        self.follow_one(find_task)
        (self.admin,) = TOKEN.findall(self.follow_one(read_admin))
        (agent_token,) = TOKEN.findall(self.follow_one(read_agent))
        self.shell.placeholders["dbw_..."] = agent_token
        self.follow_one(store)

    def status(self, stack: str) -> str:
        return self.cloud.cloudformation.stacks[stack].status

    def api(self, token: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        server = self.cloud.ecs.service("dbward", "server")
        url = f"http://127.0.0.1:{server.port}"
        # ECS asks for /health alone: the server that it calls healthy may still be opening its state.
        self.cloud.ecs.farm.until(lambda: status_of(f"{url}/ready") == 200, "ready", server.tasks[0].process)
        return call(method, f"{url}{path}", token, body)

    def ask(self, token: str, method: str, path: str, body: Any = None) -> Any:
        status, answer = self.api(token, method, path, body)
        assert status in {200, 201, 202}, (status, answer)
        return answer

    def hire(self, name: str, role: str) -> str:
        """A user with a role; their first token."""
        made = self.ask(self.admin, "POST", "/api/users", {"id": name, "roles": [role]})
        (token,) = TOKEN.findall(json.dumps(made))
        return str(token)

    def submit(self, sql: str) -> tuple[int, Any]:
        body = {"database": "app", "environment": "production", "detail": sql, "reason": "guide"}
        return self.api(self.alice, "POST", "/api/requests", body)

    def query(self, sql: str) -> str:
        """Asked for by one, approved by another, executed by the agent: the request's id."""
        status, made = self.submit(sql)
        assert (status, made["status"]) == (201, "pending"), made
        request = f"/api/requests/{made['id']}"
        self.ask(self.bob, "POST", f"{request}/approve", {})
        self.ask(self.alice, "POST", f"{request}/resume", {})
        ended = self.cloud.ecs.farm.until(lambda: self.ended(request), "the request has ended")
        assert ended["status"] == "executed", ended
        return str(made["id"])

    def ended(self, request: str) -> dict[str, Any] | None:
        shown: dict[str, Any] = self.ask(self.alice, "GET", f"{request}?wait=10")
        return shown if shown["status"] in TERMINAL else None

    def rows(self, request_id: str) -> list[dict[str, Any]]:
        envelope = self.ask(self.alice, "GET", f"/api/requests/{request_id}/result/content")
        return list(envelope["result_data"]["rows"])


@pytest.mark.timeout(360)
def test_it_works_as_written(cloud: Aws, farm: Farm, postgres_url: str) -> None:
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE visitors (name text)")
        cursor.execute("INSERT INTO visitors VALUES ('Ada'), ('Grace')")
    connection.close()
    guide = Guide(cloud, farm.dir / "reader", {GUARDED: re.sub(r"^\w+:", "postgres:", postgres_url)})
    ecs, happened = cloud.ecs, cloud.ecs.happened

    # Deploy: the server alone, and its tokens.
    guide.follow("1. Create database secret")
    guide.follow("2. Deploy stack (server only, without agent)")
    assert guide.status("dbward") == "CREATE_COMPLETE"
    guide.take_tokens()
    guide.alice, guide.bob = guide.hire("alice", "requester"), guide.hire("bob", "approver")
    assert guide.ask(guide.admin, "GET", "/api/agents")["agents"] == []

    # The agent, and a query through it.
    guide.follow("4. Enable agent (separate stack)")
    assert guide.status("dbward-agent") == "CREATE_COMPLETE"
    first = guide.query("SELECT name FROM visitors ORDER BY name")
    assert guide.rows(first) == [{"name": "Ada"}, {"name": "Grace"}]

    # The upgrade: the old server is gone before the new one starts, and nothing is lost.
    del happened[:]
    guide.follow("Version Upgrade")
    assert guide.status("dbward") == "UPDATE_COMPLETE"
    assert happened == ["server stopped: 0", "server started: ghcr.io/dbward-dev/dbward-server:v0.1.3"]
    assert guide.rows(first) == [{"name": "Ada"}, {"name": "Grace"}]

    # The example's configuration has no workflow, the one that replaces it has.
    create, deploy, update = fences(PAGE, "SSM Parameter Store Config (Recommended)")
    guide.follow_one(create)
    guide.follow_one(deploy)
    assert guide.status("dbward") == "UPDATE_COMPLETE"
    status, refused = guide.submit("SELECT 1")
    assert (status, refused["code"]) == (400, "policy.no_workflow")
    guide.follow_one(update)
    guide.query("SELECT 1")

    # The agent's token is replaced: the new task works with the secret's new text, the old one ends in peace.
    issued = guide.ask(guide.admin, "POST", "/api/tokens", NEW_AGENT)
    ecs.client("secretsmanager").put_secret_value(SecretId="dbward/agent-token", SecretString=issued["token"])
    del happened[:]
    guide.follow("Rotating secrets")
    assert happened == ["agent started: ghcr.io/dbward-dev/dbward-agent:latest", "agent stopped: 0"]
    (agent,) = ecs.service("dbward", "agent").tasks
    assert agent.env["DBWARD_AGENT_TOKEN"] == issued["token"]
    guide.query("SELECT 2")

    # Results in the bucket, through no more than the server's role allows.
    guide.follow("S3 Result Storage (Recommended for Production)")
    assert {guide.status("dbward-storage"), guide.status("dbward")} == {"CREATE_COMPLETE", "UPDATE_COMPLETE"}
    bucket = cloud.cloudformation.stacks["dbward-storage"].outputs["BucketName"]
    stored = guide.query("SELECT count(*) AS n FROM visitors")
    assert guide.rows(stored) == [{"n": 2}]
    kept = [each["Key"] for each in ecs.client("s3").list_objects_v2(Bucket=bucket, Prefix="results/")["Contents"]]
    assert [name for name in kept if stored in name]
    assert not ecs.results.denied
    assert agent.process.alive
    assert ecs.service("dbward", "agent").tasks == [agent]

    # Clean-up, and what is left: the state and the results.
    (state,) = ecs.file_systems.items()
    del happened[:]
    guide.follow("Cleanup")
    assert cloud.cloudformation.stacks == {}
    assert happened == ["agent stopped: 0", "server stopped: 0"]
    assert not [process for process in farm.processes if process.alive]
    assert ecs.client("secretsmanager").list_secrets()["SecretList"] == []
    assert {state[0], bucket} <= set(cloud.cloudformation.retained)
    assert (state[1] / "admin-token").exists()
    assert cloud.cloudformation.bucket_policies[bucket]["Statement"][0]["Sid"] == "DenyInsecureTransport"
    assert kept == [each["Key"] for each in ecs.client("s3").list_objects_v2(Bucket=bucket)["Contents"]]

    # The state that was left, under a new stack.
    guide.shell.placeholders["fs-xxx"] = state[0]
    guide.follow("Going on with what was left")
    assert list(ecs.file_systems) == [state[0]]
    assert guide.ask(guide.alice, "GET", f"/api/requests/{first}")["status"] == "executed"
    assert guide.ask(guide.admin, "GET", "/api/audit/verify")["valid"] is True


@contextmanager
def calling(url: str, token: str) -> Iterator[list[int]]:
    """Somebody who calls all the time: the statuses of the answers."""
    statuses: list[int] = []
    done = threading.Event()

    def run() -> None:
        while not done.wait(0.05):
            statuses.append(call("GET", url, token)[0])

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield statuses
    finally:
        done.set()
        thread.join()


def alarms(cloud: Aws) -> dict[str, dict[str, Any]]:
    """By what they measure."""
    found = cloud.ecs.client("cloudwatch").describe_alarms()["MetricAlarms"]
    return {alarm["MetricName"]: alarm for alarm in found}


def assert_balanced(cloud: Aws) -> None:
    """HTTPS with the certificate leads to the servers that run, HTTP to HTTPS; long calls pass."""
    elb = cloud.ecs.client("elbv2")
    (balancer,) = elb.describe_load_balancers()["LoadBalancers"]
    own = {"LoadBalancerArn": balancer["LoadBalancerArn"]}
    assert balancer["Scheme"] == "internet-facing"
    attributes = {each["Key"]: each["Value"] for each in elb.describe_load_balancer_attributes(**own)["Attributes"]}
    assert attributes["idle_timeout.timeout_seconds"] == "330"
    assert attributes["routing.http.drop_invalid_header_fields.enabled"] == "true"
    listeners = {each["Port"]: each for each in elb.describe_listeners(**own)["Listeners"]}
    assert listeners.keys() == {80, 443}
    assert listeners[80]["DefaultActions"][0]["RedirectConfig"]["Protocol"] == "HTTPS"
    assert listeners[443]["Certificates"][0]["CertificateArn"].startswith("arn:aws:acm:")
    (group,) = elb.describe_target_groups(**own)["TargetGroups"]
    health = elb.describe_target_health(TargetGroupArn=group["TargetGroupArn"])["TargetHealthDescriptions"]
    running = [{"Id": task.address, "Port": 3000} for task in cloud.ecs.service("dbward", "server").tasks]
    by_address = itemgetter("Id")
    assert sorted((each["Target"] for each in health), key=by_address) == sorted(running, key=by_address)
    outputs = cloud.cloudformation.stacks["dbward"].outputs
    assert outputs["LoadBalancerUrl"] == f"https://{balancer['DNSName']}"


def assert_watched(cloud: Aws) -> None:
    """Every alarm tells somebody of something that is there to be measured."""
    ecs, watching = cloud.ecs, alarms(cloud)
    (topic,) = ecs.client("sns").list_topics()["Topics"]
    (subscription,) = ecs.client("sns").list_subscriptions_by_topic(**topic)["Subscriptions"]
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", "oncall@example.com")
    assert all(alarm["AlarmActions"] == [topic["TopicArn"]] for alarm in watching.values())
    rules = ecs.client("events").list_rules()["Rules"]
    assert len(rules) == 3
    for rule in rules:
        (target,) = ecs.client("events").list_targets_by_rule(Rule=rule["Name"])["Targets"]
        assert target["Arn"] == topic["TopicArn"]
    # The server's own metrics, in the namespace that it was told; tests/services/test_monitoring.py has their names.
    server = ecs.service("dbward", "server")
    ours = {alarm["Namespace"] for alarm in watching.values() if not alarm["Dimensions"]}
    assert ours == {task.env["DBWARD_METRICS_EMF_NAMESPACE"] for task in server.tasks}
    # What AWS measures, by the names of what is deployed.
    dimensions = {name: {each["Name"]: each["Value"] for each in watching[name]["Dimensions"]} for name in watching}
    assert dimensions["RunningTaskCount"] == {"ClusterName": server.cluster, "ServiceName": server.name}
    outputs = cloud.cloudformation.stacks["dbward"].outputs
    assert dimensions["UnHealthyHostCount"] == {
        "LoadBalancer": outputs["LoadBalancerFullName"],
        "TargetGroup": outputs["TargetGroupFullName"],
    }


@pytest.mark.timeout(360)
def test_several_servers_a_load_balancer_and_alerts(
    farm: Farm, network: tuple[Aws, dict[str, str]], postgres_url: str, state_url: str
) -> None:
    cloud, placeholders = network
    urls = {GUARDED: re.sub(r"^\w+:", "postgres:", postgres_url), STATE: state_url}
    guide = Guide(cloud, farm.dir / "reader", placeholders | urls)
    ecs, stacks = cloud.ecs, cloud.cloudformation.stacks

    # Two servers on one state in PostgreSQL, and results in the bucket: either has the tokens, and takes any call.
    for command in fences(PAGE, "S3 Result Storage (Recommended for Production)")[:2]:
        guide.follow_one(command)
    guide.follow("Several servers")
    assert guide.status("dbward") == "CREATE_COMPLETE"
    assert not [each for each in stacks["dbward"].resources.values() if each.type.startswith("AWS::EFS")]
    assert ecs.happened == ["server started: ghcr.io/dbward-dev/dbward-server:latest"] * 2
    guide.take_tokens()
    servers = ecs.service("dbward", "server")
    assert [task.run(["cat", "/data/admin-token"]).stdout.strip() for task in servers.tasks] == [guide.admin] * 2
    for task in servers.tasks:
        assert call("GET", f"http://127.0.0.1:{task.port}/api/me", guide.admin)[0] == 200
    guide.follow("1. Create database secret")
    guide.follow("4. Enable agent (separate stack)")
    guide.alice, guide.bob = guide.hire("alice", "requester"), guide.hire("bob", "approver")
    first = guide.query("SELECT 42 AS answer")
    assert guide.rows(first) == [{"answer": 42}]
    assert not ecs.results.denied

    # The load balancer: new servers take calls before the old ones stop, and no client notices.
    del ecs.happened[:]
    with calling(f"http://127.0.0.1:{servers.port}/api/me", guide.admin) as statuses:
        guide.follow("Load balancer")
    assert guide.status("dbward") == "UPDATE_COMPLETE"
    assert [each.partition(":")[0] for each in ecs.happened] == ["server started"] * 2 + ["server stopped"] * 2
    assert set(statuses) == {200}
    assert all(each.endswith(": 0") for each in ecs.happened[2:])
    assert_balanced(cloud)
    assert guide.rows(first) == [{"answer": 42}]
    guide.query("SELECT 43")

    # The alerts: on what the servers really write, and on the load balancer that there is.
    alone, *balanced = fences(PAGE, "Monitoring")
    guide.follow_one(alone)
    assert guide.status("dbward-monitoring") == "CREATE_COMPLETE"
    assert "UnHealthyHostCount" not in alarms(cloud)
    for command in balanced:
        guide.follow_one(command)
    assert guide.status("dbward-monitoring") == "UPDATE_COMPLETE"
    assert_watched(cloud)

    # Clean-up: the bucket and the seed of the keys are left.
    seed = stacks["dbward"].outputs["KeySeedSecretArn"]
    for name in ("dbward-monitoring", "dbward-agent", "dbward", "dbward-storage"):
        cloud.cloudformation.answer("DeleteStack", {"StackName": name})
    assert stacks == {}
    assert alarms(cloud) == {}
    assert ecs.client("elbv2").describe_load_balancers()["LoadBalancers"] == []
    assert ecs.client("events").list_rules()["Rules"] == []
    assert seed in cloud.cloudformation.retained
    assert ecs.client("secretsmanager").get_secret_value(SecretId=seed)["SecretString"]
