"""What a row of the table is, and how the table is printed."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Line:
    """One measured thing beside its budget. `beside` is the same thing done by what we compare with."""

    what: str
    ours: str
    budget: str
    ok: bool
    beside: str = "-"
    ratio: str = "-"
    note: str = ""


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie; the nearest one that was measured."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def table(lines: Sequence[Line]) -> str:
    """Markdown."""
    rows = [("what", "dbward", "beside", "ratio", "budget", "verdict")]
    rows += [(x.what, x.ours, x.beside, x.ratio, x.budget, "met" if x.ok else "**missed**") for x in lines]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    notes = [f"- {line.what}: {line.note}" for line in lines if line.note]
    return "\n".join([*text, *(["", "Notes", "", *notes] if notes else [])])


def machine() -> str:
    """What the numbers were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
    parts = [
        f"{os.cpu_count()} CPUs ({_cpu()})",
        f"{memory} GiB",
        platform.system(),
        f"Python {platform.python_version()}",
        f"SQLite {sqlite3.sqlite_version}",
        f"celery {version('celery')}",
        f"load before {os.getloadavg()[0]:.1f}",
    ]
    return ", ".join(parts)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def document(lines: Sequence[Line], where: str, *, seconds: float) -> str:
    """The page `bench/results.md`."""
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"""\
# Measured by `make bench`

{when}, {where}; {seconds / 60:.0f} minutes. Everything ran on this one machine at the same time:
servers, agents, Redis and the clients that measure.

{table(lines)}
"""


def log(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
