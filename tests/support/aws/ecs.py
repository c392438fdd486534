"""ECS: services whose tasks are processes of this machine.

What a container has to itself on Fargate is replaced in its command, environment and health check, by `Task.local`.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import boto3

from tests.support import services
from tests.support.aws.connect import LOOPBACK, Connect
from tests.support.cloudformation import PSEUDO
from tests.support.processes import Farm, Process, status_of
from tests.support.s3 import ACCESS_KEY, MINIMAL, SECRET_KEY, Gate

ROOT: Final = Path(__file__).parents[3]
DOCKERFILE: Final = ROOT / "deploy/docker/Dockerfile"
REGION: Final = PSEUDO["AWS::Region"]
ACCOUNT: Final = PSEUDO["AWS::AccountId"]
CONFIG: Final = "DBWARD_CONFIG_TOML"
DBWARD: Final = f"#!/bin/sh\nexec {sys.executable} -c 'from dbward.cli.main import run; run()' \"$@\"\n"


class Refused(Exception):
    """What was asked for is refused, or has failed; the message is for the one who asked."""

    def __init__(self, message: str, code: str = "ClientException") -> None:
        super().__init__(message)
        self.code = code


def arn(service: str, rest: str) -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{rest}"


def allows(statements: Sequence[Mapping[str, Any]], action: str, resource: str) -> bool:
    return any(
        action in _listed(each["Action"]) and any(fnmatchcase(resource, wanted) for wanted in _listed(each["Resource"]))
        for each in statements
    )


def entry_point(image: str) -> list[str]:
    """The ENTRYPOINT of one of our images, without its `tini --`: a process has no container to be init of."""
    command = instruction(image, "ENTRYPOINT")
    assert command[:2] == ["tini", "--"]
    return command[2:]


def instruction(image: str, name: str) -> list[str]:
    """What the Dockerfile says of one of our images, as a list."""
    target = image.rpartition("/")[2].partition(":")[0].removeprefix("dbward-")
    stages = re.split(r"^FROM ", DOCKERFILE.read_text(), flags=re.MULTILINE)
    (stage,) = [each for each in stages if re.match(rf"\S+ AS {target}\n", each, re.IGNORECASE)]
    found = re.search(rf"^{name} (\[.*\])$", stage, re.MULTILINE)
    assert found is not None, image
    words: list[str] = json.loads(found[1])
    return words


@dataclass(frozen=True, slots=True)
class Task:
    id: str
    cluster: str
    definition: Mapping[str, Any]
    process: Process
    port: int
    local: Mapping[str, str]
    """What stands for what is the container's own: texts of the task definition, and what is meant here."""
    env: Mapping[str, str]
    address: str
    """In the VPC, as far as anybody there is told."""
    targets: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """By target group of a load balancer, what it is registered as."""

    @property
    def arn(self) -> str:
        return arn("ecs", f"task/{self.cluster}/{self.id}")

    @property
    def container(self) -> Mapping[str, Any]:
        (container,) = self.definition["ContainerDefinitions"]
        return dict(container)

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """A program in the container."""
        argv = [translate(word, self.local) for word in command]
        timeout = self.container["HealthCheck"]["Timeout"]
        return subprocess.run(argv, env=dict(self.env), capture_output=True, text=True, timeout=timeout, check=False)

    def healthy(self) -> bool:
        kind, *command = self.container["HealthCheck"]["Command"]
        assert kind == "CMD"
        return self.run(command).returncode == 0

    def answers(self, group: Mapping[str, Any]) -> bool:
        """As a target group wants it."""
        status = status_of(f"http://{LOOPBACK}:{self.port}{group['HealthCheckPath']}")
        return str(status) == group["Matcher"]["HttpCode"]


@dataclass(slots=True)
class Service:
    cluster: str
    name: str
    properties: Mapping[str, Any]
    definition: Mapping[str, Any]
    tasks: list[Task] = field(default_factory=list)
    connect: Connect = field(default_factory=Connect)
    """Where its clients call it: leads to the tasks that are healthy and not about to be stopped."""

    @property
    def port(self) -> int:
        return self.connect.port


@dataclass(slots=True)
class Ecs:
    farm: Farm
    data_url: str
    """moto's server."""
    results: Gate
    """Before moto's S3: lets through what the role of the newest server that has a bucket may do there."""
    clusters: set[str] = field(default_factory=set)
    roles: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Statements of each role, by its ARN."""
    file_systems: dict[str, Path] = field(default_factory=dict)
    services: dict[tuple[str, str], Service] = field(default_factory=dict)
    sessions: dict[str, str] = field(default_factory=dict)
    """What the commands of `execute-command` have written, until their session is opened."""
    happened: list[str] = field(default_factory=list)
    """Starts and stops of tasks, in order."""

    def client(self, service: str) -> Any:
        session: Any = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name=REGION)
        return session.client(service, endpoint_url=self.data_url)

    def service(self, cluster: str, name: str) -> Service:
        if cluster not in self.clusters:
            raise Refused("Cluster not found.", "ClusterNotFoundException")
        if (cluster, name) not in self.services:
            raise Refused("Service not found.", "ServiceNotFoundException")
        return self.services[cluster, name]

    # --- what CloudFormation does -------------------------------------------------------------------------------------

    def put(self, properties: Mapping[str, Any], definition: Mapping[str, Any]) -> None:
        """Make a service what it shall be, and wait until it is. A failed deployment is rolled back, and raises."""
        cluster, name = properties["Cluster"], properties["ServiceName"]
        if cluster not in self.clusters:
            raise Refused("Cluster not found.", "ClusterNotFoundException")
        service = self.services.get((cluster, name))
        if service is None:
            service = Service(cluster, name, properties, definition)
            self.services[cluster, name] = service
            self.deploy(service)
            return
        before = service.properties, service.definition
        service.properties, service.definition = properties, definition
        if before != (properties, definition):
            try:
                self.deploy(service)
            except (AssertionError, Refused):
                if properties["DeploymentConfiguration"]["DeploymentCircuitBreaker"]["Rollback"]:
                    service.properties, service.definition = before
                    self.deploy(service)
                raise

    def delete(self, cluster: str, name: str) -> None:
        if (service := self.services.pop((cluster, name), None)) is not None:
            self._stop(service, service.tasks)
            service.connect.close()

    def close(self) -> None:
        """The tasks are the farm's to end."""
        for service in self.services.values():
            service.connect.close()

    def deploy(self, service: Service) -> None:
        """New tasks for old ones: these end first where the service allows no more than it wants."""
        old = list(service.tasks)
        if int(service.properties["DeploymentConfiguration"]["MaximumPercent"]) <= 100:
            self._stop(service, old)
        new = [self._start(service) for _ in range(int(service.properties["DesiredCount"]))]
        service.tasks += new
        try:
            for task in new:
                self.farm.until(task.healthy, f"{service.name} is healthy", task.process)
                self._register(service, task)
        except AssertionError:
            self._stop(service, new)
            raise
        service.connect.targets = [task.port for task in service.tasks]
        self._stop(service, [task for task in old if task in service.tasks])

    def _register(self, service: Service, task: Task) -> None:
        """With the load balancers of the service, which ask it whether it is ready."""
        for each in service.properties.get("LoadBalancers", []):
            elb, group_arn = self.client("elbv2"), each["TargetGroupArn"]
            (group,) = elb.describe_target_groups(TargetGroupArns=[group_arn])["TargetGroups"]
            if not group["LoadBalancerArns"]:
                raise Refused(f"The target group {group_arn} does not have an associated load balancer.")
            self.farm.until(partial(task.answers, group), f"{service.name} is in service", task.process)
            target = {"Id": task.address, "Port": each["ContainerPort"]}
            elb.register_targets(TargetGroupArn=group_arn, Targets=[target])
            task.targets[group_arn] = target

    def _stop(self, service: Service, tasks: Sequence[Task]) -> None:
        leaving = list(tasks)
        service.connect.targets = [task.port for task in service.tasks if task not in leaving]
        for task in leaving:
            for group, target in task.targets.items():
                self.client("elbv2").deregister_targets(TargetGroupArn=group, Targets=[target])
            status = task.process.terminate(task.container["StopTimeout"]) if task.process.alive else "before"
            self.happened.append(f"{service.name} stopped: {status}")
            service.tasks.remove(task)

    def _start(self, service: Service) -> Task:
        definition = service.definition
        (container,) = definition["ContainerDefinitions"]
        for which in ("ExecutionRoleArn", "TaskRoleArn"):
            if definition[which] not in self.roles:
                raise Refused(f"ECS was unable to assume the role {definition[which]!r}")
        task_id, port = token_hex(16), services.free_port()
        local = self._local(service, container, task_id, port)
        environment = {each["Name"]: each["Value"] for each in container.get("Environment", [])}
        secrets = {each["Name"]: self._secret(definition, each["ValueFrom"]) for each in container.get("Secrets", [])}
        if twice := environment.keys() & secrets.keys():
            raise Refused(f"The secret name must be unique and not shared with any environment variable: {twice}")
        if bucket := environment.get("DBWARD_RESULT_STORAGE_BUCKET"):
            self.results.allowed = _s3_actions(self.roles[definition["TaskRoleArn"]], f"arn:aws:s3:::{bucket}")
        # In a configuration a folder is a variable: it is the same for all tasks, to the byte, as it has to be.
        variables = {path: f"LOCAL{path.replace('/', '_')}" for path in local if path.startswith("/")}
        named = local | {path: f"${{{variable}}}" for path, variable in variables.items()}
        env = {
            "PATH": f"{self._programs()}:/usr/bin:/bin",
            # What a task learns from ECS by itself: where AWS is, and who it is.
            "AWS_ENDPOINT_URL_S3": self.results.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": REGION,
            **{variable: local[path] for path, variable in variables.items()},
            **{
                name: translate(value, named if name == CONFIG else local)
                for name, value in {**environment, **secrets}.items()
            },
        }
        command = [*(container.get("EntryPoint") or entry_point(container["Image"])), *container.get("Command", [])]
        argv = [translate(word, local) for word in command]
        self.happened.append(f"{service.name} started: {container['Image']}")
        process = self.farm.spawn(f"task-{service.name}", argv, env=env)
        address = f"10.0.0.{10 + len(self.farm.processes)}"
        return Task(task_id, service.cluster, definition, process, port, local, env, address)

    def _local(self, service: Service, container: Mapping[str, Any], task_id: str, port: int) -> dict[str, str]:
        """The substitutions: address and paths of the container's own, and the name that Service Connect resolves."""
        own = f"{LOOPBACK}:{port}"
        local = {"http://127.0.0.1:3000": f"http://{own}", "0.0.0.0:3000": own}
        if service.properties.get("ServiceConnectConfiguration", {}).get("Enabled"):
            for other in self.services.values():
                for each in other.properties.get("ServiceConnectConfiguration", {}).get("Services", []):
                    for alias in each["ClientAliases"]:
                        local[f"http://{alias['DnsName']}:{alias['Port']}"] = f"http://127.0.0.1:{other.port}"
        volumes = {each["Name"]: each for each in service.definition.get("Volumes", [])}
        mounts = {each["ContainerPath"]: volumes[each["SourceVolume"]] for each in container.get("MountPoints", [])}
        for path in {*mounts, *instruction(container["Image"], "VOLUME")}:
            shared = mounts.get(path, {}).get("EFSVolumeConfiguration")
            own_folder = self.farm.dir / f"volume-{task_id}{path.replace('/', '-')}"
            folder = own_folder if shared is None else self.file_systems[shared["FilesystemId"]]
            folder.mkdir(exist_ok=True)
            local[path] = str(folder)
            if path == "/tmp" and service.name == "agent":  # where its probe files are when nothing else is said
                local["startup_max_wait_secs"] = f'probe_dir = "{folder}"\nstartup_max_wait_secs'
        return local

    def _secret(self, definition: Mapping[str, Any], source: str) -> str:
        """What a secret or parameter holds, if the execution role may read it."""
        service = source.split(":")[2]
        action = {"secretsmanager": "secretsmanager:GetSecretValue", "ssm": "ssm:GetParameters"}[service]
        if not allows(self.roles[definition["ExecutionRoleArn"]], action, source):
            raise Refused(f"ResourceInitializationError: {action} on {source} is denied")
        client = self.client(service)
        if service == "ssm":
            name = source.partition(":parameter")[2]
            return str(client.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])
        return str(client.get_secret_value(SecretId=source)["SecretString"])

    def _programs(self) -> Path:
        """A directory with the `dbward` that the images have on their PATH."""
        program = self.farm.dir / "image" / "dbward"
        if not program.exists():
            program.parent.mkdir()
            program.write_text(DBWARD)
            program.chmod(0o755)
        return program.parent

    # --- what the command line asks for -------------------------------------------------------------------------------

    def answer(self, operation: str, asked: Mapping[str, Any], url: str) -> dict[str, Any]:
        match operation:
            case "ListTasks":
                return {"taskArns": [task.arn for task in self.service(asked["cluster"], asked["serviceName"]).tasks]}
            case "DescribeTasks":
                return {"tasks": [_described(self._task(asked["cluster"], name)) for name in asked["tasks"]]}
            case "ExecuteCommand":
                return self._execute(asked, url)
            case "UpdateService":
                service = self.service(asked["cluster"], asked["service"])
                if asked.keys() != {"cluster", "service", "forceNewDeployment"} or not asked["forceNewDeployment"]:
                    raise Refused(f"of UpdateService, this is not known: {sorted(asked)}")
                self.deploy(service)
                return {"service": {"serviceName": service.name, "status": "ACTIVE"}}
        raise Refused(f"{operation} is not known", "UnknownOperationException")

    def _execute(self, asked: Mapping[str, Any], url: str) -> dict[str, Any]:
        task = self._task(asked["cluster"], asked["task"])
        service = next(each for each in self.services.values() if task in each.tasks)
        if not service.properties["EnableExecuteCommand"] or not allows(
            self.roles[task.definition["TaskRoleArn"]], "ssmmessages:OpenDataChannel", "*"
        ):
            raise Refused("execute command was not enabled when the task was run", "InvalidParameterException")
        if asked["container"] != task.container["Name"] or not asked["interactive"]:
            raise Refused("there is no such container", "InvalidParameterException")
        session = token_hex(8)
        self.sessions[session] = task.run(shlex.split(asked["command"])).stdout
        return {
            "clusterArn": arn("ecs", f"cluster/{task.cluster}"),
            "containerName": asked["container"],
            "interactive": True,
            "session": {"sessionId": session, "streamUrl": f"{url}/session/{session}", "tokenValue": token_hex(8)},
            "taskArn": task.arn,
        }

    def _task(self, cluster: str, name: str) -> Task:
        for task in self._tasks():
            if task.cluster == cluster and name in {task.arn, task.id}:
                return task
        raise Refused("The referenced task was not found.", "InvalidParameterException")

    def _tasks(self) -> Iterator[Task]:
        for service in self.services.values():
            yield from service.tasks


def translate(text: str, local: Mapping[str, str]) -> str:
    """All at once, so that nothing is replaced in what has been put in; a path ends where its name does."""
    either = "|".join(re.escape(each) for each in sorted(local, key=len, reverse=True))
    return re.sub(rf"(?<![\w.])(?:{either})(?!\w)", lambda found: local[found[0]], text)


def _s3_actions(role: Sequence[Mapping[str, Any]], bucket: str) -> frozenset[str]:
    """Which of the actions that results take a role may do: with objects below `results/`, and with the bucket."""
    resources = {action: bucket if action == "ListBucket" else f"{bucket}/results/any" for action in MINIMAL}
    return frozenset(action for action, resource in resources.items() if allows(role, f"s3:{action}", resource))


def _described(task: Task) -> dict[str, Any]:
    container = {"name": task.container["Name"], "runtimeId": f"{task.id}-1", "lastStatus": "RUNNING"}
    return {"taskArn": task.arn, "lastStatus": "RUNNING", "containers": [container]}


def _listed(said: Any) -> list[str]:
    return [said] if isinstance(said, str) else list(said)
