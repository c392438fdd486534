"""publish on the server → task starts on an idle agent, beside Celery on Redis."""

from __future__ import annotations

import statistics
import time

from bench.lab import Lab
from bench.report import Line, ms, percentile
from bench.sides import Dbward, Redis, Side, settle

ORDER = 1
ROUNDS = 500
BUDGET = 1.5


def measure(lab: Lab) -> list[Line]:
    sides: list[Side] = [Dbward(lab), Redis(lab)]
    for side in sides:
        settle(side)
    seconds: list[list[float]] = [[], []]
    for _ in range(ROUNDS):  # in turns, so that a busy moment of the machine hits both
        for side, found in zip(sides, seconds, strict=True):
            side.publish(1)
            ((sent, started),) = side.starts.take(1)
            found.append(started - sent)
            time.sleep(0.01)
    lines = []
    for name, value in (("p50", statistics.median), ("p99", lambda found: percentile(found, 0.99))):
        ours, theirs = (value(found) for found in seconds)
        lines.append(
            Line(
                what=f"publish → task starts on an idle agent, {name}",
                ours=ms(ours),
                beside=f"{ms(theirs)} Celery on Redis",
                ratio=f"{ours / theirs:.1f}x",
                budget=f"no slower than {BUDGET}x",
                ok=ours <= BUDGET * theirs,
                note=f"{ROUNDS} each, in turns; ours includes the commit with its fsync, Redis writes nothing to disk"
                if name == "p50"
                else "",
            )
        )
    return lines
