"""docs/deployment/ecs.md works as written: its commands, by the real `aws` command line, against an AWS on loopback.

A command is changed only where its reader has to fill something in: `PLACEHOLDERS`, and what earlier commands showed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.e2e.people import TERMINAL
from tests.support.aws.ecs import ACCOUNT, REGION, ROOT, Refused
from tests.support.aws.front import Aws, aws
from tests.support.aws.shell import Shell, fences
from tests.support.processes import Farm, call, status_of

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
TOKEN = re.compile(r"dbw_\w+")


@pytest.fixture
def cloud(farm: Farm) -> Iterator[Aws]:
    with aws(farm) as cloud:
        yield cloud


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

    def __init__(self, cloud: Aws, home: Path, database_url: str) -> None:
        self.cloud = cloud
        self.shell = Shell(cloud, home, {**PLACEHOLDERS, GUARDED: database_url})
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


def test_it_works_as_written(cloud: Aws, farm: Farm, postgres_url: str) -> None:
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE visitors (name text)")
        cursor.execute("INSERT INTO visitors VALUES ('Ada'), ('Grace')")
    connection.close()
    guide = Guide(cloud, farm.dir / "reader", re.sub(r"^\w+:", "postgres:", postgres_url))
    ecs, happened = cloud.ecs, cloud.ecs.happened

    # Deploy: the server alone, and its tokens.
    guide.follow("1. Create database secret")
    guide.follow("2. Deploy stack (server only, without agent)")
    assert guide.status("dbward") == "CREATE_COMPLETE"
    find_task, read_admin, read_agent, store = fences(PAGE, "3. Bootstrap tokens (one-time, after first deploy)")
    guide.follow_one(find_task)
    (guide.admin,) = TOKEN.findall(guide.follow_one(read_admin))
    (agent_token,) = TOKEN.findall(guide.follow_one(read_agent))
    guide.shell.placeholders["dbw_..."] = agent_token
    guide.follow_one(store)
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
