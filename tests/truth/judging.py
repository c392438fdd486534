"""Whether reads changed anything, and which of them did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

from tests.truth.corpus import Read
from tests.truth.photographs import differences
from tests.truth.worlds import World

Maker = Callable[[], AbstractContextManager[World]]


def survey(make: Maker, found: Sequence[Read], *, group_size: int) -> tuple[int, list[str]]:
    """How many ran, and a line for each that changed something, with what it changed.

    Photographs are taken between groups; a group after which something is different is run again one by one.
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
                together = differences(before, world.photograph())
        if together:
            names = [read.id for read in group]
            changed += list(culprits(make, group)) or [f"only together: {names} changed {together}"]
    return ran, changed


def culprits(make: Maker, group: Iterable[Read]) -> Iterator[str]:
    """Each on a world of its own."""
    for read in group:
        with make() as world:
            before = world.photograph()
            world.run(read.texts)
            if changed := differences(before, world.photograph()):
                yield f"{read.id} {read.texts!r} changed {changed}"
