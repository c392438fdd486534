"""Whether reads changed anything, and which of them did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from tests.truth.corpus import Read
from tests.truth.photographs import differences
from tests.truth.worlds import World

Maker = Callable[[], AbstractContextManager[World]]


def survey(
    make: Maker, found: Sequence[Read], *, group_size: int, ignored: frozenset[str] = frozenset()
) -> tuple[int, list[str]]:
    """How many ran, and a line for each that changed something, with what it changed.

    Photographs are taken between groups; a group after which something but the `ignored` sections is different is run
    again by halves.
    """
    ran = 0
    changed: list[str] = []
    start = 0
    while start < len(found):
        together: list[str] = []
        group: Sequence[Read] = ()
        with make() as world:
            before = world.photograph()
            while start < len(found) and not together:
                group = found[start : start + group_size]
                start += group_size
                ran += sum(world.run(read.texts) for read in group)
                together = differences(before, world.photograph(), ignored=ignored)
        if together:
            names = [read.id for read in group]
            changed += culprits(make, group, ignored=ignored) or [f"only together: {names} changed {together}"]
    return ran, changed


def culprits(make: Maker, group: Sequence[Read], *, ignored: frozenset[str]) -> list[str]:
    """Halves the group, each half on a world of its own, until those that change something stand alone."""
    with make() as world:
        before = world.photograph()
        for read in group:
            world.run(read.texts)
        changed = differences(before, world.photograph(), ignored=ignored)
    if not changed:
        return []
    if len(group) == 1:
        return [f"{group[0].id} {group[0].texts!r} changed {changed}"]
    middle = len(group) // 2
    return culprits(make, group[:middle], ignored=ignored) + culprits(make, group[middle:], ignored=ignored)
