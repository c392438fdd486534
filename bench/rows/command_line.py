"""How soon the command line answers: alone, and with a server to ask."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.lab import BenchFailed, Lab, timed
from bench.report import Line

ORDER = 12
RUNS = 20
PROGRAM = str(Path(sys.executable).with_name("dbward"))
ALONE_SECS = 0.150
ASKING_SECS = 0.400


def measure(lab: Lab) -> list[Line]:
    server = lab.server()
    env = {"HOME": str(server.state_dir), "DBWARD_SERVER_URL": server.url, "DBWARD_TOKEN": server.admin_token}
    floor, _ = _median([sys.executable, "-c", "pass"], env)
    note = f"of which starting Python {floor * 1000:.0f} ms"
    return [
        _line("--version", [PROGRAM, "--version"], env, ALONE_SECS, note),
        _line("--help", [PROGRAM, "--help"], env, ALONE_SECS, note),
        _line("request list", [PROGRAM, "request", "list"], env, ASKING_SECS, f"a server on this machine; {note}"),
    ]


def _line(what: str, argv: list[str], env: Mapping[str, str], budget: float, note: str) -> Line:
    seconds, cpu = _median(argv, env)
    return Line(
        what=f"`dbward {what}`, p50 of {RUNS}",
        ours=f"{seconds * 1000:.0f} ms",
        budget=f"under {budget * 1000:.0f} ms",
        ok=seconds < budget,
        note=f"{note}; {cpu * 1000:.0f} ms of CPU time, to which it comes where nothing else runs",
    )


def _median(argv: list[str], env: Mapping[str, str]) -> tuple[float, float]:
    """Seconds until it has ended, and of CPU time."""

    def run() -> None:
        ended = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            raise BenchFailed(f"{' '.join(argv[1:])} ended with {ended.returncode}: {ended.stderr}")

    before = _children_cpu()
    seconds = statistics.median(timed(run) for _ in range(RUNS))
    return seconds, (_children_cpu() - before) / RUNS


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
