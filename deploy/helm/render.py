"""Render the chart with Helm's own library, and hold what comes out against Kubernetes' schemas.

Run with the Python of .venv/tools. Reads a JSON list of `{"name", "namespace", "values", "kubernetes": [versions]}`,
all optional, and writes one answer for each: `{"files": {template: text}, "invalid": [what is wrong]}`, or
`{"error": why}`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import yaml

CHART = Path(__file__).parent / "dbward"
CUSTOM = ("monitoring.coreos.com/",)
"""What Kubernetes itself has no schema of."""


def invalid(files: dict[str, str], version: str) -> list[str]:
    """What Kubernetes `version` would refuse, or drop without a word."""
    found = []
    for file, text in files.items():
        for item in yaml.safe_load_all(text):
            if item is None or item["apiVersion"].startswith(CUSTOM):
                continue
            try:
                kubernetes_validate.validate(item, version, strict=True)
            except kubernetes_validate.ValidationError as e:
                found.append(f"{file}: {item['kind']} {item['metadata']['name']}: {version}: {e.message}")
    return found


def answer(chart: helm_python.Chart, job: dict[str, Any]) -> dict[str, Any]:
    values = job.get("values", {})
    try:
        chart.validate_schema(chart.merge_values(values))
        files = chart.render(values, name=job.get("name", "dbward"), namespace=job.get("namespace", "dbward"))
    except helm_python.HelmError as e:
        return {"error": str(e)}
    manifests = {file: text for file, text in files.items() if not file.endswith(".txt")}
    wrong = [line for version in job.get("kubernetes", []) for line in invalid(manifests, version)]
    return {"files": files, "invalid": wrong}


def main() -> None:
    jobs = json.load(sys.stdin)
    with helm_python.Chart.load(CHART) as chart:
        json.dump([answer(chart, job) for job in jobs], sys.stdout)


if __name__ == "__main__":
    main()
