"""The order of the tests: what takes long is spread among what does not, and is over before the end.

xdist gives each of its processes an equal run of the list, and lets idle ones take from the end of another's. Left as
they are collected, the long ones are all in one run, and the last of them go on alone; put first, four processes that
start servers at once are in each other's way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")


def spread(items: Sequence[T], runs: int, *, file: Callable[[T], Hashable], long: Callable[[T], bool]) -> list[T]:
    """`items` anew, for `runs` processes, each of which has to come to the same order.

    The long ones of one file stay together, because of what they set up for all of them.
    """
    files: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        if long(item):
            files[file(item)].append(item)
    shares: list[list[list[T]]] = [[] for _ in range(runs)]
    for tests in sorted(files.values(), key=len, reverse=True):
        min(shares, key=lambda share: sum(map(len, share))).append(tests)
    rest = [item for item in items if not long(item)]
    found: list[T] = []
    for n, share in enumerate(shares):
        room = max(0, len(items) * (n + 1) // runs - len(found) - sum(map(len, share)))
        found += _mixed(share, rest[:room])
        rest = rest[room:]
    return found + rest


def _mixed(blocks: Sequence[list[T]], short: Sequence[T]) -> list[T]:
    """The blocks with equal parts of the first three quarters of `short` behind each, and then the rest."""
    ends = [len(short) * 3 * n // (4 * max(1, len(blocks))) for n in range(len(blocks) + 1)]
    found = [
        item for block, (start, end) in zip(blocks, pairwise(ends), strict=True) for item in (*block, *short[start:end])
    ]
    return found + list(short[ends[-1] :])
