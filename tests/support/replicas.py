"""Several servers on one PostgreSQL state, set up as docs/deployment/scaling.md says: each has a directory of its own,
the same file, the first one's keys, and a place for results that all of them see.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.support import services
from tests.support.processes import DBWARD, Farm, Server

STATE = """
state_dir = "${STATE_DIR}"
[state]
url = "${STATE_URL}"
[result_storage]
root_dir = "${RESULTS_DIR}"
"""
"""The beginning of their file: what differs between them comes from the environment."""


def start(farm: Farm, state_url: str, config: str, env: Mapping[str, str], names: str = "abc") -> list[Server]:
    """One server for each letter of `names`; `config` begins with `STATE`."""
    servers: list[Server] = []
    for name in names:
        home = farm.dir / name
        home.mkdir()
        state_dir = home / "state"
        if servers:
            copy_keys(servers[0].state_dir, state_dir)
        own = {**env, "STATE_DIR": str(state_dir), "STATE_URL": state_url, "RESULTS_DIR": str(farm.dir / "results")}
        path = home / "server.toml"
        path.write_text(config)
        servers.append(launch(farm, name, path, state_dir, own))
    return servers


def copy_keys(source: Path, state_dir: Path) -> None:
    """What an administrator copies from the first server to the next."""
    state_dir.mkdir(mode=0o700)
    for pattern in ("*.key", "audit-keys.json", "*-token"):
        for path in source.glob(pattern):
            shutil.copy(path, state_dir)


def launch(farm: Farm, name: str, config: Path, state_dir: Path, env: Mapping[str, str]) -> Server:
    port = services.free_port()
    server = Server(farm, name, farm.launch_server(name, config, port, env), port, config, state_dir, env, DBWARD)
    server.await_ready()
    return server
