"""Keeping a limit over several server processes: each tells the others what it counted, about once a second.

No call waits for it and no call writes: between two exchanges each process goes by its own counts and by what the
others last said, so together they let through at most what they can in about a second too much.
"""

from __future__ import annotations

import logging
import threading
from typing import Final

from dbward import ids
from dbward.db import allowances
from dbward.db.engine import Tx
from dbward.errors import DbwardError
from dbward.runtime import Runtime

log = logging.getLogger(__name__)

EVERY_SECS: Final = 1.0
KEPT_MINUTES: Final = 5
"""Longer than the clocks of two servers may differ."""


def exchange(rt: Runtime, process: str) -> None:
    """Write down what this process counted since the last time, and learn what the others did. Raises `Unavailable`."""
    sent = rt.allowances.unshared()
    if not sent.counts:
        return

    def work(tx: Tx) -> dict[str, int]:
        allowances.forget(tx, sent.minute - KEPT_MINUTES)
        allowances.put(tx, process, sent.minute, sent.counts)
        return allowances.of_others(tx.conn, process, sent.minute, sent.counts)

    rt.allowances.learn(sent, rt.store.write(work))


class Exchange:
    """The thread that does so while there is anything to tell. Not started on SQLite, which one process owns."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._process = ids.new_id()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="allowances", daemon=True)

    def start(self) -> None:
        if self._rt.store.dialect == "postgresql":
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._rt.allowances.changed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _loop(self) -> None:
        while not self._stop.is_set():
            self._rt.allowances.changed.wait()
            if self._stop.is_set():
                return
            try:
                exchange(self._rt, self._process)
            except DbwardError as e:
                self._rt.allowances.changed.set()  # so that it is tried again
                log.warning("limits are kept by this process alone for the moment: %s", e.message)
            except Exception:
                self._rt.metrics.background_panics.inc()
                log.exception("limits are kept by this process alone for the moment")
            self._stop.wait(EVERY_SECS)
