"""The order of the tests: what takes long comes first, so that no process is left with it when the others are done.

xdist gives each of its processes an equal run of the list, and lets idle ones take from the end of another's. So the
long tests are spread over the beginnings of these runs, a file at a time: those of one file share what they set up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

T = TypeVar("T")


def long_ones_first(
    items: Sequence[T], runs: int, *, file: Callable[[T], Hashable], long: Callable[[T], bool]
) -> list[T]:
    """`items` anew, for `runs` processes. Every process has to come to the same order."""
    by_file: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        if long(item):
            by_file[file(item)].append(item)
    heads: list[list[T]] = [[] for _ in range(runs)]
    for tests in sorted(by_file.values(), key=len, reverse=True):
        min(heads, key=len).extend(tests)
    rest = [item for item in items if not long(item)]
    found: list[T] = []
    for n, head in enumerate(heads):
        end = len(items) * (n + 1) // runs
        room = max(0, end - len(found) - len(head))
        found += head + rest[:room]
        rest = rest[room:]
    return found + rest
