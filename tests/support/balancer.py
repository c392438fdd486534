"""nginx in front of several servers, with the very configuration that `deploy/nginx` offers."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tests.support import services
from tests.support.processes import Farm, Process, Server, status_of

CONFIG = Path(__file__).parents[2] / "deploy/nginx/dbward.conf"


def balance(farm: Farm, servers: Sequence[Server]) -> tuple[str, Process]:
    """The URL under which nginx passes on to `servers`, and its process."""
    port = services.free_port()
    home = farm.dir / "nginx"
    home.mkdir()
    places = iter(servers)
    text, count = re.subn(
        r"server 10\.0\.0\.\d+:3000", lambda _: f"server 127.0.0.1:{next(places).port}", CONFIG.read_text()
    )
    assert count == len(servers)
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
    temporary = "".join(f"{kind}_temp_path {home};\n" for kind in ("proxy", "client_body", "fastcgi", "uwsgi", "scgi"))
    config = home / "nginx.conf"
    config.write_text(
        ("user root;\n" if os.geteuid() == 0 else "")  # the test's directory is open to its owner only
        + f"daemon off;\nworker_processes 1;\npid {home}/pid;\nerror_log stderr warn;\n"
        + "events { worker_connections 1024; }\n"
        + f"http {{\naccess_log off;\n{temporary}{text}}}\n"
    )
    process = farm.spawn("nginx", [services.find_nginx(), "-p", str(home), "-c", str(config), "-e", "stderr"])
    url = f"http://127.0.0.1:{port}"
    farm.until(lambda: status_of(f"{url}/ready") == 200, "nginx passes on", process)
    return url, process
