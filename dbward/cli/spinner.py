"""A line on stderr that shows that something is being waited for, and what. Only on a terminal."""

from __future__ import annotations

from itertools import cycle
from threading import Event, Thread
from time import monotonic
from typing import Final, Self

from dbward.cli.agents import span
from dbward.cli.output import Output
from dbward.cli.tables import clean

FRAMES: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
FIRST_SECS: Final = 0.3
"""Most waits end before anything would be worth showing."""
FRAME_SECS: Final = 0.1

_ERASE: Final = "\r\x1b[K"


class Spinner:
    """Shows `text` and the time that has passed, until it is left. Does nothing where lines cannot change."""

    def __init__(self, out: Output, text: str) -> None:
        self.text = text
        self._err = out.env.stderr
        self._over = Event()
        self._began = monotonic()
        self._thread: Thread | None = None
        if out.human and out.env.draws:
            self._thread = Thread(target=self._turn, name="spinner", daemon=True)

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _turn(self) -> None:
        shown = False
        wait = FIRST_SECS
        frames = cycle(FRAMES)
        while not self._over.wait(wait):
            wait = FRAME_SECS
            shown = True
            self._write(f"{_ERASE}{next(frames)} {clean(self.text)} ({span(monotonic() - self._began)})")
        if shown:
            self._write(_ERASE)

    def _write(self, text: str) -> None:
        try:
            self._err.write(text)
            self._err.flush()
        except (OSError, ValueError):  # the terminal has gone; whoever waits will notice by itself
            self._over.set()
