"""`make manifests`: write the manifests of deploy/kubernetes out of the chart, so that the two say the same.

`python deploy/kubernetes/manifests.py [DIRECTORY]` with the Python of .venv/tools.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
RENDER = HERE.parent / "helm" / "render.py"
HEAD = (
    "# Written by `make manifests` out of deploy/helm/dbward: change that, or patch this from your own kustomization.\n"
)
HELMS = ("helm.sh/chart", "app.kubernetes.io/managed-by", "checksum/config", "checksum/secrets")
"""What only Helm needs. Kustomize itself names a ConfigMap anew when its content changes."""

AGENT = {
    "token": {"existingSecret": "dbward-agent"},
    "databases": [
        {"name": "app", "environment": "production", "url": {"existingSecret": "dbward-app-database", "key": "url"}}
    ],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "sqlite": {"agents": {"app": AGENT}},
    "postgresql": {
        "server": {
            "replicas": 2,
            "state": {
                "backend": "postgresql",
                "postgresql": {
                    "url": {"existingSecret": "dbward-state"},
                    "keySeed": {"existingSecret": "dbward-state"},
                },
            },
            "results": {"backend": "shared"},
        },
        "agents": {"app": {**AGENT, "replicas": 2}},
    },
}


def write(directory: Path) -> None:
    """The files of every variant; the kustomizations beside them are written by hand."""
    jobs = [{"values": values, "name": "dbward", "namespace": "dbward"} for values in VARIANTS.values()]
    done = subprocess.run([sys.executable, RENDER], input=json.dumps(jobs), text=True, capture_output=True, check=True)
    for variant, answer in zip(VARIANTS, json.loads(done.stdout), strict=True):
        target = directory / variant
        target.mkdir(parents=True, exist_ok=True)
        kept = []
        for file, text in sorted(answer["files"].items(), reverse=True):
            if "/tests/" in file or file.endswith(".txt"):
                continue
            for item in yaml.safe_load_all(text):
                if item is None:
                    continue
                if item["kind"] == "ConfigMap":
                    for name, content in item["data"].items():
                        (target / name).write_text(content)
                else:
                    kept.append(_plain(item))
        (target / "dbward.yaml").write_text(HEAD + yaml.safe_dump_all(kept, sort_keys=False, width=120))


def _plain(item: Any) -> Any:
    """Without what only Helm needs, and without the tables that this leaves empty."""
    if isinstance(item, list):
        return [_plain(value) for value in item]
    if not isinstance(item, dict):
        return item
    kept = {key: (value, _plain(value)) for key, value in item.items() if key not in HELMS}
    return {key: plain for key, (value, plain) in kept.items() if plain != {} or value == {}}


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
