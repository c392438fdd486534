"""The Helm chart and the plain manifests: what they render is valid, says what it should, and starts our programs."""

from __future__ import annotations

import filecmp
import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from dbward import VERSION
from dbward.domain.model import Target
from dbward.settings.agent import load_agent
from dbward.settings.server import load_server
from tests.support import services
from tests.support.processes import DBWARD, Farm, status_of

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "dbward"
PLAIN = ROOT / "deploy" / "kubernetes"
TOOLS = ROOT / ".venv" / "tools" / "bin" / "python"
VERSIONS = ["1.30", "1.37"]
"""The oldest that the chart takes, and the newest that there is."""

Values = dict[str, Any]
Objects = dict[tuple[str, str], dict[str, Any]]

TOKEN = {"existingSecret": "dbward-agent"}
DATABASE = {"name": "app", "environment": "production", "url": {"existingSecret": "app-db", "key": "url"}}
APP: Values = {"token": TOKEN, "databases": [DATABASE]}
STATE = {"url": {"existingSecret": "state"}, "keySeed": {"existingSecret": "state"}}
POSTGRESQL: Values = {"backend": "postgresql", "postgresql": STATE}
S3: Values = {"backend": "s3", "s3": {"bucket": "my-results"}}
OIDC = """[auth.oidc]
issuer_url = "https://sso.example.com:8443"
jwks_uri = "https://keys.example.com/jwks"
client_id = "dbward"
"""
BACKUP = '[backup]\nevery_hours = 24\ntarget = "s3://my-backups/dbward"\n'

GOOD: dict[str, Values] = {
    "sqlite": {},
    "sqlite with an agent": {"agents": {"app": APP}},
    "claim": {"server": {"state": {"sqlite": {"existingClaim": "mine"}}}, "networkPolicy": {"enabled": False}},
    "postgresql": {
        "server": {"replicas": 3, "state": POSTGRESQL, "results": S3, "trustedProxies": ["10.0.0.0/8"]},
        "agents": {
            "app": {**APP, "replicas": 2, "drainSeconds": 900},
            "warehouse": {
                "token": TOKEN,
                "databases": [
                    {**DATABASE, "name": "sales"},
                    {"name": "stock", "environment": "test", "url": {"value": "mysql://u:p@db/stock"}},
                ],
                "databasePeers": [{"ipBlock": {"cidr": "10.1.0.0/16"}}],
                "databasePorts": [3306],
                "config": "max_concurrent_tasks = 5\n[schema_sync]\ninterval_secs = 60",
            },
        },
        "ingress": {"enabled": True, "host": "dbward.example.com", "className": "nginx"},
        "serviceMonitor": {"enabled": True, "token": {"existingSecret": "metrics"}},
        "networkPolicy": {"statePeers": [{"ipBlock": {"cidr": "10.2.0.0/16"}}]},
    },
    "shared": {
        "server": {"replicas": 2, "updateStrategy": "Recreate", "state": POSTGRESQL, "results": {"backend": "shared"}}
    },
    "keys": {
        "server": {
            "config": OIDC,
            "results": {
                "backend": "s3",
                "s3": {
                    "bucket": "my-results",
                    "endpoint": "https://s3.example.com:9000",
                    "pathStyle": True,
                    "accessKeyId": {"value": "id"},
                    "secretAccessKey": {"value": "secret"},
                },
            },
        }
    },
    "backups in S3": {"server": {"config": BACKUP}},
    "agents only": {
        "server": {"enabled": False},
        "agentDefaults": {"serverUrl": "https://dbward.example.com", "token": TOKEN},
        "agents": {"app": {"databases": [DATABASE]}},
    },
    "open": {"ingress": {"enabled": True, "host": "h", "tls": {"enabled": False}}, "networkPolicy": {"enabled": False}},
}
GUIDE = (ROOT / "docs" / "deployment" / "helm.md").read_text()
FENCES = re.findall(r"^```yaml\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
GOOD |= {f"example {i} of the guide": yaml.safe_load(fence) for i, fence in enumerate(FENCES, start=1)}
BAD: dict[str, tuple[Values, str]] = {
    "two servers on SQLite": ({"server": {"replicas": 2}}, "/server/replicas"),
    "PostgreSQL without a URL": (
        {"server": {"state": {"backend": "postgresql"}, "results": S3}},
        "/server/state/postgresql/url",
    ),
    "PostgreSQL without a key seed": (
        {"server": {"state": {**POSTGRESQL, "postgresql": {"url": STATE["url"]}}, "results": S3}},
        "/server/state/postgresql/keySeed",
    ),
    "results that other servers do not see": ({"server": {"state": POSTGRESQL}}, "/server/results/backend"),
    "S3 without a bucket": ({"server": {"results": {"backend": "s3"}}}, "/server/results/s3/bucket"),
    "half of the keys of S3": (
        {"server": {"results": {"backend": "s3", "s3": {"bucket": "abc", "accessKeyId": {"value": "x"}}}}},
        "/server/results/s3/secretAccessKey",
    ),
    "a misspelt key": ({"server": {"replica": 1}}, "'replica' not allowed"),
    "a misspelt key of an agent": ({"agents": {"app": {**APP, "drain": 1}}}, "'drain' not allowed"),
    "a secret said twice": (
        {"agents": {"app": {**APP, "token": {"value": "x", "existingSecret": "y"}}}},
        "/agents/app/token",
    ),
    "an agent without databases": ({"agents": {"app": {"token": TOKEN}}}, "names no database"),
    "an agent without a token": ({"agents": {"app": {"databases": [DATABASE]}}}, "token needs existingSecret"),
    "a database without a URL": (
        {"agents": {"app": {"token": TOKEN, "databases": [{**DATABASE, "url": {"key": "x"}}]}}},
        "/agents/app/databases/0/url",
    ),
    "an agent's name": ({"agents": {"App!": APP}}, "'App!' not allowed"),
    "an ingress without a host": ({"ingress": {"enabled": True}}, "/ingress/host"),
    "metrics without a token": ({"serviceMonitor": {"enabled": True}}, "/serviceMonitor/token"),
    "agents of no server": ({"server": {"enabled": False}, "agents": {"app": APP}}, "serverUrl is needed"),
    "wrong TOML": ({"server": {"config": "a = "}}, "server.config is not TOML"),
    "what the chart says itself": ({"server": {"config": 'state_dir = "/x"'}}, "must not say state_dir"),
    "what the chart says of agents": (
        {"agents": {"app": {**APP, "config": 'agent_id = "x"'}}},
        "must not say agent_id",
    ),
}


def run(jobs: list[Values]) -> list[Values]:
    done = subprocess.run(
        [TOOLS, ROOT / "deploy" / "helm" / "render.py"],
        input=json.dumps(jobs),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[Values] = json.loads(done.stdout)
    return answers


@pytest.fixture(scope="session")
def rendered() -> dict[str, Values]:
    """What comes of all values, in one call of Helm."""
    jobs = [{"values": values, "kubernetes": VERSIONS} for values in GOOD.values()]
    jobs += [{"values": values} for values, _ in BAD.values()]
    return dict(zip([*GOOD, *BAD], run(jobs), strict=True))


def objects(answer: Values) -> Objects:
    assert "error" not in answer, answer["error"]
    files = [text for name, text in answer["files"].items() if not name.endswith(".txt")]
    items = [item for text in files for item in yaml.safe_load_all(text) if item]
    found = {(item["kind"], item["metadata"]["name"]): item for item in items}
    assert len(found) == len(items)
    return found


def pods(found: Objects) -> dict[str, dict[str, Any]]:
    return {
        name: item["spec"] if kind == "Pod" else item["spec"]["template"]["spec"]
        for (kind, name), item in found.items()
        if kind in {"Pod", "Deployment", "StatefulSet"}
    }


@pytest.mark.parametrize("case", GOOD)
def test_kubernetes_takes_it(rendered: dict[str, Values], case: str) -> None:
    assert "error" not in rendered[case], rendered[case]["error"]
    assert rendered[case]["invalid"] == []


@pytest.mark.parametrize("case", BAD)
def test_wrong_values_are_refused(rendered: dict[str, Values], case: str) -> None:
    assert BAD[case][1] in rendered[case].get("error", "it was taken")


def test_the_guide_names_values_that_there_are() -> None:
    assert len(FENCES) == 3
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    rows = re.findall(r"^\| (`[a-zA-Z].*?) \|", GUIDE, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)[:1]]
    assert len(named) > 15
    for name in named:
        found: Any = {**values, "agents": {"<name>": values["agentDefaults"]}}
        for key in name.split("."):
            assert key in found, name
            found = found[key]


def test_the_chart_installs_this_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == VERSION


@pytest.mark.parametrize("case", GOOD)
def test_every_pod_is_confined(rendered: dict[str, Values], case: str) -> None:
    for name, pod in pods(objects(rendered[case])).items():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("case", GOOD)
def test_what_is_referred_to_is_there(rendered: dict[str, Values], case: str) -> None:
    """Selectors select, and what a pod mounts, reads and runs as is rendered or named in the values."""
    found = objects(rendered[case])
    theirs = json.dumps(GOOD[case])
    templates = {
        name: item["spec"]["template"] for (kind, name), item in found.items() if kind in {"Deployment", "StatefulSet"}
    }
    for name, pod in pods(found).items():
        if (kind_name := ("ServiceAccount", pod.get("serviceAccountName", ""))) != ("ServiceAccount", ""):
            assert kind_name in found
        claims = {
            c["metadata"]["name"]
            for c in found.get(("StatefulSet", name), {}).get("spec", {}).get("volumeClaimTemplates", [])
        }
        volumes = {v["name"] for v in pod.get("volumes", [])} | claims
        for volume in pod.get("volumes", []):
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in found
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert ("PersistentVolumeClaim", claim) in found or f'"{claim}"' in theirs
        for container in pod["containers"]:
            assert {m["name"] for m in container.get("volumeMounts", [])} <= volumes
            for variable in container.get("env", []):
                if secret := variable.get("valueFrom", {}).get("secretKeyRef"):
                    made = found.get(("Secret", secret["name"]))
                    assert secret["key"] in made["stringData"] if made else f'"{secret["name"]}"' in theirs
    for (kind, name), item in found.items():
        if kind in {"Service", "PodDisruptionBudget", "NetworkPolicy"}:
            selector = item["spec"].get("podSelector", item["spec"].get("selector"))
            wanted = selector.get("matchLabels", selector).items()
            hit = [n for n, t in templates.items() if wanted <= t["metadata"]["labels"].items()]
            assert hit == [name]


def test_one_server_owns_the_file(rendered: dict[str, Values]) -> None:
    found = objects(rendered["sqlite"])
    spec = found["StatefulSet", "dbward-server"]["spec"]
    assert spec["replicas"] == 1
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 60
    assert not [kind for kind, _ in found if kind in {"PodDisruptionBudget", "Ingress", "Secret"}]
    claimed = objects(rendered["claim"])["StatefulSet", "dbward-server"]["spec"]
    assert "volumeClaimTemplates" not in claimed
    assert not [kind for kind, _ in objects(rendered["claim"]) if kind == "NetworkPolicy"]


def test_several_servers_and_agents(rendered: dict[str, Values]) -> None:
    found = objects(rendered["postgresql"])
    server = found["Deployment", "dbward-server"]["spec"]
    assert (server["replicas"], server["strategy"]["rollingUpdate"]) == (3, {"maxSurge": 1, "maxUnavailable": 0})
    assert server["template"]["spec"]["terminationGracePeriodSeconds"] == 65
    assert server["template"]["spec"]["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
    assert objects(rendered["shared"])["Deployment", "dbward-server"]["spec"]["strategy"] == {"type": "Recreate"}
    app = found["Deployment", "dbward-agent-app"]["spec"]["template"]["spec"]
    assert app["terminationGracePeriodSeconds"] == 930
    budgets = {name for kind, name in found if kind == "PodDisruptionBudget"}
    assert budgets == {"dbward-server", "dbward-agent-app"}
    ingress = found["Ingress", "dbward-server"]
    assert ingress["spec"]["tls"] == [{"hosts": ["dbward.example.com"], "secretName": "dbward-tls"}]
    assert int(ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"]) > 300


def test_network_policies_let_through_what_is_needed_and_nothing_else(rendered: dict[str, Values]) -> None:
    found = objects(rendered["postgresql"])
    server = found["NetworkPolicy", "dbward-server"]["spec"]
    callers = [
        peer.get("podSelector", peer.get("namespaceSelector"))["matchLabels"] for peer in server["ingress"][0]["from"]
    ]
    assert [c.get("app.kubernetes.io/component", c.get("kubernetes.io/metadata.name")) for c in callers] == [
        "agent",
        "test",
        "ingress-nginx",
        "monitoring",
    ]
    assert [p["port"] for rule in server["egress"] for p in rule["ports"]] == [53, 53, 5432, 443, 80]
    assert server["egress"][1]["to"] == [{"ipBlock": {"cidr": "10.2.0.0/16"}}]
    assert server["egress"][-1]["to"][0] == {"ipBlock": {"cidr": "169.254.170.23/32"}}  # EKS Pod Identity
    agent = found["NetworkPolicy", "dbward-agent-warehouse"]["spec"]
    assert agent["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in agent
    assert [p["port"] for rule in agent["egress"] for p in rule["ports"]] == [53, 53, "http", 3306]
    assert agent["egress"][-1]["to"] == [{"ipBlock": {"cidr": "10.1.0.0/16"}}]
    keys = objects(rendered["keys"])["NetworkPolicy", "dbward-server"]["spec"]
    assert [p["port"] for rule in keys["egress"] for p in rule["ports"]] == [53, 53, 9000, 8443, 443]
    backups = objects(rendered["backups in S3"])["NetworkPolicy", "dbward-server"]["spec"]
    assert [p["port"] for rule in backups["egress"] for p in rule["ports"]] == [53, 53, 443, 80]
    plain = objects(rendered["sqlite"])["NetworkPolicy", "dbward-server"]["spec"]
    assert [p["port"] for rule in plain["egress"] for p in rule["ports"]] == [53, 53]
    assert len(keys["ingress"][0]["from"]) == 2


def test_a_change_of_what_pods_read_restarts_them(rendered: dict[str, Values]) -> None:
    def sums(case: str) -> dict[str, str]:
        found: dict[str, str] = objects(rendered[case])["StatefulSet", "dbward-server"]["spec"]["template"]["metadata"][
            "annotations"
        ]
        return found

    one, other = sums("sqlite"), sums("keys")
    assert one["checksum/config"] != other["checksum/config"]
    assert one["checksum/secrets"] != other["checksum/secrets"]


def settled(found: Objects, name: str, tmp_path: Path) -> tuple[Path, dict[str, str], list[str]]:
    """The configuration file of a component, its environment, and the command that reads it, as in the container."""
    (data,) = found["ConfigMap", name]["data"].items()
    path = tmp_path / data[0]
    path.write_text(data[1])
    pod = pods(found)[name]
    container = pod["containers"][0]
    env = {}
    for variable in container["env"]:
        if "value" in variable:
            env[variable["name"]] = variable["value"]
        elif "fieldRef" in variable["valueFrom"]:
            env[variable["name"]] = f"{name}-0"
        else:
            env[variable["name"]] = {
                "DBWARD_STATE_URL": "postgresql://u:p@db/state",
                "DBWARD_AGENT_TOKEN": f"dbw_{'0' * 32}",
                "DBWARD_KEY_SEED": "s" * 40,
            }.get(variable["name"], "postgresql://u:p@db/app")
    command = container["command"]
    assert command[:3] == ["tini", "--", "dbward"]
    assert command[-2:] == ["--config", f"/etc/dbward/{data[0]}"]
    return path, env, command[3:]


@pytest.mark.parametrize("case", GOOD)
def test_our_programs_take_the_configuration(rendered: dict[str, Values], case: str, tmp_path: Path) -> None:
    found = objects(rendered[case])
    for name in pods(found):
        if "agent" in name:
            path, env, _ = settled(found, name, tmp_path)
            agent = load_agent(path, env)
            assert agent.agent_id == f"{name}-0"
            assert not agent.insecure
            assert str(agent.alive_file) in json.dumps(pods(found)[name]["containers"][0]["livenessProbe"])
            assert str(agent.ready_file) in json.dumps(pods(found)[name]["containers"][0]["readinessProbe"])
            assert agent.drain_timeout.total_seconds() + 30 == pods(found)[name]["terminationGracePeriodSeconds"]
        elif name.endswith("-server"):
            path, env, _ = settled(found, name, tmp_path)
            server = load_server(path, env)
            values = GOOD[case].get("server", {})
            assert server.state_dir == Path("/data")
            assert server.state.url.startswith(
                "postgresql" if "state" in values and case != "claim" else "sqlite:////data/"
            )
            assert server.results.backend == ("s3" if values.get("results", {}).get("backend") == "s3" else "local")
            assert server.results.root_dir == Path("/results" if case == "shared" else "/data/results")
    if case == "postgresql":
        path, env, _ = settled(found, "dbward-agent-warehouse", tmp_path)
        assert set(load_agent(path, env).databases) == {Target("sales", "production"), Target("stock", "test")}
        assert load_agent(path, env).max_concurrent_tasks == 5


@pytest.mark.e2e
def test_what_the_pods_run_works_together(
    rendered: dict[str, Values], farm: Farm, tmp_path: Path, postgres_url: str
) -> None:
    """Only places are moved: /data, /tmp and the address of the Service."""
    found = objects(rendered["sqlite with an agent"])
    path, env, command = settled(found, "dbward-server", tmp_path)
    port = services.free_port()
    path.write_text(path.read_text().replace('"/data"', json.dumps(str(tmp_path / "data"))))
    here = {"0.0.0.0:3000": f"127.0.0.1:{port}", f"/etc/dbward/{path.name}": str(path)}
    server = farm.spawn("server", [*DBWARD, *(here.get(word, word) for word in command)], env=env)
    probe = pods(found)["dbward-server"]["containers"][0]["readinessProbe"]["httpGet"]
    url = f"http://127.0.0.1:{port}"
    farm.until(lambda: status_of(url + probe["path"]) == 200, "the server is ready", server)
    test = pods(found)["dbward-test"]["containers"][0]["command"]
    asked = [word.replace("http://dbward-server:3000", url) for word in test[1:]]
    assert farm.spawn("helm-test", [*DBWARD, *asked]).wait() == 0

    path, env, command = settled(found, "dbward-agent-app", tmp_path)
    probes = f'probe_dir = "{tmp_path}"\n'
    path.write_text(probes + path.read_text().replace("http://dbward-server:3000", url))
    env |= {
        "DBWARD_AGENT_TOKEN": (tmp_path / "data" / "agent-token").read_text(),
        "DBWARD_DATABASE_URL_0": postgres_url,
    }
    agent = farm.spawn("agent", [*DBWARD, *command[:-1], str(path)], env=env)
    container = pods(found)["dbward-agent-app"]["containers"][0]
    ready = [word.replace("/tmp", str(tmp_path)) for word in container["readinessProbe"]["exec"]["command"]]
    farm.until(lambda: subprocess.run(ready, check=False).returncode == 0, "the agent is ready", agent)
    alive = [word.replace("/tmp", str(tmp_path)) for word in container["livenessProbe"]["exec"]["command"]]
    assert farm.spawn("agent-probe", [*DBWARD, *alive[1:]]).wait() == 0
    assert agent.terminate() == 0
    assert server.terminate() == 0


# --- the plain manifests ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("manifests")
    subprocess.run([TOOLS, PLAIN / "manifests.py", directory], check=True)
    return directory


@pytest.mark.parametrize("variant", ["sqlite", "postgresql"])
def test_the_plain_manifests_are_those_of_the_chart(written: Path, variant: str) -> None:
    names = sorted(p.name for p in (written / variant).iterdir())
    same, different, missing = filecmp.cmpfiles(written / variant, PLAIN / variant, names, shallow=False)
    assert (sorted(same), different, missing) == (names, [], []), "run `make manifests`"


@pytest.mark.parametrize("variant", ["sqlite", "postgresql"])
def test_a_kustomization_brings_all_that_is_beside_it(variant: str) -> None:
    folder = PLAIN / variant
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    generated = {entry["name"]: entry["files"] for entry in kustomization["configMapGenerator"]}
    brought = {*kustomization["resources"], *(file for files in generated.values() for file in files)}
    assert brought | {"kustomization.yaml"} == {p.name for p in folder.iterdir()}
    used = {
        volume["configMap"]["name"]
        for item in yaml.safe_load_all((folder / "dbward.yaml").read_text())
        if item["kind"] in {"Deployment", "StatefulSet"}
        for volume in item["spec"]["template"]["spec"]["volumes"]
        if "configMap" in volume
    }
    assert used == set(generated)
    for file in generated.values():
        assert tomllib.loads((folder / file[0]).read_text())
