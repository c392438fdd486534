"""Running a function in a child process, so that whatever it opened and started is gone for good afterwards.

`Thread.join` returns a moment before the operating system's thread has ended. A fork in that moment copies the locks
which the thread holds on its way out (OpenSSL's, under psycopg2), and in the child nobody ever releases them: its first
connection waits forever. So a process that is going to fork must never have had such threads.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

from dbward.errors import DbwardError

T = TypeVar("T")


class ChildDied(Exception):
    """The child ended without an answer; what it had to say is on its standard error."""


def in_child(work: Callable[[], T]) -> T:
    """Run `work` in a forked child and return its result, which must pickle.

    Raises the `DbwardError` or `OSError` that `work` raised, and `ChildDied` when it raised anything else or was
    killed.
    """
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=_run, args=(work, sender), name="dbward-prepare")
    child.start()
    sender.close()
    with receiver:
        try:
            result, error = receiver.recv()
        except EOFError:
            child.join()
            raise ChildDied(f"the child process ended with status {child.exitcode}") from None
    child.join()
    if error is not None:
        raise error
    answer: T = result
    return answer


def _run(work: Callable[[], T], sender: Connection[object]) -> None:
    answer: tuple[T | None, Exception | None]
    try:
        answer = (work(), None)
    except (DbwardError, OSError) as e:
        answer = (None, e)
    sender.send(answer)
