"""What is in deploy/compose is right, and docs/deployment/docker.md runs as it is written.

`docker` is podman here and `docker compose` is podman-compose. Without systemd nothing runs the health checks by the
clock: an override does not wait for them, and has the agent's database mounted. Caddy's image, which is in a registry,
is made of its program.
"""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from dbward.settings.agent import load_agent
from dbward.settings.server import load_server
from tests.support import engine
from tests.support.processes import Farm, status_of
from tests.support.services import free_port

COMPOSE = engine.ROOT / "deploy" / "compose"
PAGE = engine.ROOT / "docs" / "deployment" / "docker.md"
COMMANDS = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
HARDENED = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}
CADDY = "localhost/caddy:test"
OVERRIDE = """
services:
  agent:
    depends_on: {server: {condition: service_started}}
    volumes: ["./targets:/targets"]
  caddy:
    depends_on: {server: {condition: service_started}}
"""


# --- the files --------------------------------------------------------------------------------------------------------


def interpolated(name: str, env: dict[str, str]) -> str:
    """A Compose file with its variables filled in; a variable without a value or a default fails."""

    def value(match: re.Match[str]) -> str:
        return env.get(match[1]) or match[2]

    text = re.sub(r"\$\{([A-Z_]+):-([^}]*)\}", value, (COMPOSE / name).read_text())
    assert "$" not in text
    return text


def parsed(name: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    compose = PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(interpolated(name, env or {}))))
    compose.validate()
    found: dict[str, Any] = compose.to_dict()
    return found


def example() -> dict[str, str]:
    """Every variable of `.env.example`, those that are commented out too."""
    return dict(re.findall(r"^#?([A-Z_]+)=(.*)$", (COMPOSE / ".env.example").read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", ["compose.yaml", "compose.postgres.yaml"])
@pytest.mark.parametrize("env", [{}, example()], ids=["defaults", "example"])
def test_it_is_a_compose_file(name: str, env: dict[str, str]) -> None:
    assert parsed(name, env)["services"]


def test_every_variable_of_the_example_is_one() -> None:
    used = {
        v
        for name in ("compose.yaml", "compose.postgres.yaml")
        for v in re.findall(r"\$\{([A-Z_]+)", (COMPOSE / name).read_text())
    }
    assert set(example()) - used == {"COMPOSE_PROFILES", "COMPOSE_FILE"}


@pytest.mark.parametrize("name", ["compose.yaml", "compose.postgres.yaml"])
def test_every_service_is_confined(name: str) -> None:
    for service, about in parsed(name)["services"].items():
        if "image" in about:
            assert {key: about.get(key) for key in HARDENED} == HARDENED, service
            assert about["healthcheck"]["test"][0] == "CMD", service
            assert "privileged" not in about


def test_what_is_published_is_for_this_machine_only_but_for_caddy() -> None:
    services = parsed("compose.yaml")["services"]
    assert [p["host_ip"] if isinstance(p, dict) else p.split(":")[0] for p in services["server"]["ports"]] == [
        "127.0.0.1"
    ]
    assert "ports" not in services["agent"]
    assert services["caddy"]["profiles"] == ["tls"]


def test_secrets_are_files_and_never_in_the_environment() -> None:
    for name in ("compose.yaml", "compose.postgres.yaml"):
        compose = parsed(name)
        declared = compose["secrets"]
        assert all(set(about) == {"file"} for about in declared.values())
        used = {s for service in compose["services"].values() for s in service.get("secrets", [])}
        assert used == set(declared)
    ignored = (engine.ROOT / ".gitignore").read_text().split()
    assert {"deploy/compose/.env", "deploy/compose/secrets/"} <= set(ignored)


def test_the_configuration_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, and with everything in it that is commented out."""
    for name in ("agent-token", "database-url", "state-url"):
        (tmp_path / name).write_text("postgresql://x:y@z/w")
    for path in ("server/dbward-server.toml", "agent/dbward-agent.toml"):
        text = (COMPOSE / path).read_text()
        for version in (text, re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE)):
            mine = tmp_path / "config.toml"
            mine.write_text(version.replace("/run/secrets", str(tmp_path)))
            settings = load_server(mine, {}) if "server" in path else load_agent(mine, {})
            assert settings.warnings == ()


def test_the_server_believes_caddy_and_nobody_else() -> None:
    caddy = parsed("compose.yaml")["services"]["caddy"]["networks"]["front"]["ipv4_address"]
    config = tomllib.loads((COMPOSE / "server" / "dbward-server.toml").read_text())
    assert config["trusted_proxies"] == [caddy]


def test_the_two_files_together_are_one_installation(tmp_path: Path) -> None:
    """As podman-compose puts them together; it asks an engine only for its version."""
    engines = tmp_path / "podman"
    engines.write_text("#!/bin/sh\necho podman version 5.0.0\n")
    engines.chmod(0o755)
    shutil.copytree(COMPOSE, tmp_path / "compose", ignore=shutil.ignore_patterns(".env", "secrets"))
    env = {"PATH": os.environ["PATH"], "COMPOSE_FILE": "compose.yaml:compose.postgres.yaml"}
    argv = [engine.TOOLS / "podman-compose", "--podman-path", str(engines), "config"]
    done = subprocess.run(argv, cwd=tmp_path / "compose", env=env, capture_output=True, text=True, check=True)
    together = yaml.safe_load(done.stdout)
    on = {name: set(about["networks"]) for name, about in together["services"].items()}
    # Only the server reaches the database, and the database nobody.
    assert {name for name, networks in on.items() if "state" in networks} == {"server", "postgres"}
    assert on["postgres"] == {"state"}
    assert {"agents", "front"} <= on["server"]
    assert together["networks"]["state"] == {"internal": True}
    server = together["services"]["server"]
    assert server["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert server["secrets"] == ["state-url"]
    assert "state:/data" in server["volumes"]  # its keys stay there


def test_containers_get_longer_than_the_programs_take(tmp_path: Path) -> None:
    services = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    secs = {name: int(about["stop_grace_period"].removesuffix("s")) for name, about in services.items()}
    (tmp_path / "s").write_text('state_dir = "/data"')
    (tmp_path / "a").write_text(
        'server = {url = "http://server:3000", agent_token = "x"}\ndatabases.a.b.url = "sqlite:////x"'
    )
    assert secs["server"] > load_server(tmp_path / "s", {}).http.graceful_timeout.total_seconds()
    assert secs["caddy"] >= secs["server"]
    assert secs["agent"] > load_agent(tmp_path / "a", {}).drain_timeout.total_seconds()


# --- the page, as written ---------------------------------------------------------------------------------------------


@pytest.fixture
def docker(farm: Farm) -> Iterator[dict[str, str]]:
    """An environment in which `docker` is podman; whatever Compose started is gone at the end."""
    try:
        engine.build_all()
    except engine.Unusable as e:
        if os.geteuid() == 0:
            raise
        pytest.skip(f"Compose is NOT tested: {e}")
    _make_caddy(farm.dir)
    programs = farm.dir / "bin"
    programs.mkdir()
    podman = engine.wrapper(programs / "podman-of-tests")
    compose = f"{engine.TOOLS / 'podman-compose'} --podman-path {podman}"
    shim = programs / "docker"
    shim.write_text(f'#!/bin/sh\nif [ "$1" = compose ]; then shift; exec {compose} "$@"; fi\nexec {podman} "$@"\n')
    shim.chmod(0o755)
    env = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": os.environ["HOME"],
        "COMPOSE_FILE": "compose.yaml:override.yaml",
    }
    here = farm.dir / "deploy" / "compose"
    shutil.copytree(COMPOSE, here, ignore=shutil.ignore_patterns(".env", "secrets"))
    (here / "override.yaml").write_text(OVERRIDE)
    down = ["sh", "-c", f"cd {here} && docker compose --profile '*' down --volumes --timeout 0"]
    with engine.alone():
        farm.spawn("down", down, env=env).wait(120)  # what a session that was killed has left
        yield env
        farm.spawn("down", down, env=env).wait(120)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_works_as_written(farm: Farm, docker: dict[str, str]) -> None:
    here = farm.dir / "deploy" / "compose"
    plain, http, https = free_port(), free_port(), free_port()
    (here / "targets").mkdir()
    (here / "targets" / "app.db").touch()
    (here / "targets").chmod(0o777)
    (here / "targets" / "app.db").chmod(0o666)
    (here / ".env.example").write_text(
        re.sub(
            r"^DBWARD_LISTEN=.*$",
            f"DBWARD_LISTEN=127.0.0.1:{plain}",
            (here / ".env.example").read_text(),
            flags=re.MULTILINE,
        )
        + f"COMPOSE_PROFILES=tls\nCADDY_IMAGE={CADDY}\n"
        + f"CADDY_HTTP=127.0.0.1:{http}\nCADDY_HTTPS=127.0.0.1:{https}\n"
    )
    build, start, people, reload, stop = COMMANDS.findall(PAGE.read_text())
    assert build == "".join(
        f"docker build -f deploy/docker/Dockerfile --target {t} -t dbward-{t} .\n" for t in engine.TARGETS
    ), "what the engine has done"
    token = "until docker compose exec -T server cat /data/agent-token > secrets/agent-token; do sleep 0.5; done"
    start = _replaced(start, r"docker compose exec -T server cat /data/agent-token > secrets/agent-token", token)
    start = _replaced(start, r"postgresql://\S*app", "sqlite:////targets/app.db")
    people = _replaced(people, r"(docker run .* agents)\n", r"until \1 | grep healthy; do sleep 0.5; done\n")
    script = farm.dir / "script"
    script.write_text(f"set -e\n{start}\n{people}\n{reload}\n")
    run = farm.spawn("page", ["bash", str(script)], env=docker)
    assert run.wait(180) == 0, run.log()
    assert re.search(r"\badmin\b", run.log())
    assert "nothing has changed" in run.log()

    assert status_of(f"http://127.0.0.1:{plain}/ready") == 200
    for service in ("server", "agent"):
        engine.podman("healthcheck", "run", f"dbward_{service}_1")
    _through_caddy(farm, docker, https)
    ended = farm.spawn("stop", ["bash", "-ec", f"cd deploy/compose\n{stop}"], env=docker)
    assert ended.wait(180) == 0, ended.log()
    assert status_of(f"http://127.0.0.1:{plain}/ready") == 0


def _through_caddy(farm: Farm, env: dict[str, str], port: int) -> None:
    """With TLS by Caddy's own authority, for the name localhost."""
    root = farm.dir / "root.crt"
    read = f"cd deploy/compose && docker compose exec -T caddy cat /data/caddy/pki/authorities/local/root.crt > {root}"

    def trusted() -> bool:
        return farm.spawn("root", ["sh", "-c", read], env=env).wait(60) == 0 and root.read_text().startswith(
            "-----BEGIN"
        )

    farm.until(trusted, "Caddy has its authority")
    context = ssl.create_default_context(cafile=str(root))
    with urllib.request.urlopen(f"https://localhost:{port}/ready", context=context, timeout=30) as answer:
        assert answer.status == 200
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


def _make_caddy(directory: Path) -> None:
    context = directory / "caddy-image"
    context.mkdir()
    shutil.copy2(engine.TOOLS / "caddy", context / "caddy")
    (context / "Dockerfile").write_text(
        f"FROM {engine.PYTHON_IMAGE}\nCOPY caddy /usr/bin/caddy\nENV XDG_DATA_HOME=/data XDG_CONFIG_HOME=/config\n"
        'CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]\n'
    )
    engine.build(CADDY, context / "Dockerfile", context)


def _replaced(text: str, pattern: str, by: str) -> str:
    found, count = re.subn(pattern, by, text)
    assert count == 1, f"{pattern}: not as the page has it"
    return found
