"""no-op tasks a second through one agent, beside Celery on Redis."""

from __future__ import annotations

from bench.lab import Lab
from bench.noop import CONCURRENCY
from bench.report import Line
from bench.sides import Dbward, Redis, Side, settle

ORDER = 3
TASKS = 2000
ROUNDS = 3
BUDGET = 0.5


def measure(lab: Lab) -> list[Line]:
    sides: list[Side] = [Dbward(lab), Redis(lab)]
    for side in sides:
        settle(side)
    best = [0.0, 0.0]
    for _ in range(ROUNDS):
        for n, side in enumerate(sides):
            best[n] = max(best[n], rate(side))
    ours, theirs = best
    return [
        Line(
            what="no-op tasks a second through one agent",
            ours=f"{ours:.0f}/s",
            beside=f"{theirs:.0f}/s Celery on Redis",
            ratio=f"{ours / theirs:.2f}x",
            budget=f"at least {BUDGET}x",
            ok=ours >= BUDGET * theirs,
            note=f"{TASKS} tasks, {CONCURRENCY} threads, one message at a time each; best of {ROUNDS}, in turns",
        )
    ]


def rate(side: Side) -> float:
    """Starts a second, from the first to the last of `TASKS`."""
    side.publish(TASKS)
    started = [at for _, at in side.starts.take(TASKS, secs=120)]
    return (TASKS - 1) / (max(started) - min(started))
