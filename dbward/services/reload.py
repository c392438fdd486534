"""Taking over a changed configuration while the server runs, whole or not at all.

Asked for on this machine (SIGHUP), or because another server on the same state has taken over one: then this one reads
its own file again, and keeps what it has, saying so, when that is not the same.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dbward import signalling
from dbward.broker.wake import EVERYBODY
from dbward.db import meta
from dbward.domain.model import SYSTEM, Event
from dbward.errors import DbwardError, Misconfigured, Unavailable
from dbward.runtime import Current, Runtime, with_settings
from dbward.services.journal import record
from dbward.services.sync import CHANNEL, sync
from dbward.settings import sections
from dbward.settings.sections import Change
from dbward.settings.server import ServerSettings

log = logging.getLogger("dbward.server")

RECHECK_SECS = 15.0
"""How often a server looks whether another has a new configuration, should a wake-up be lost or its file come late."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one reload: what changed, or why nothing did."""

    digest: str = ""
    changes: tuple[Change, ...] = ()
    warnings: tuple[str, ...] = ()
    error: DbwardError | None = None

    def as_json(self) -> dict[str, Any]:
        """What the command that asked for it is told."""
        said: dict[str, Any] = {"ok": self.error is None, "digest": self.digest, "warnings": list(self.warnings)}
        if self.error is None:
            return said | {"changes": [asdict(change) for change in self.changes]}
        return said | {
            "code": self.error.code,
            "message": self.error.message,
            "hint": self.error.hint,
            "problems": problems(self.error),
        }


def problems(error: DbwardError) -> list[str]:
    """Each mistake by itself."""
    listed = error.detail.get("problems") if isinstance(error.detail, dict) else None
    return list(listed) if isinstance(listed, list) else [error.message]


def reload(current: Current, load: Callable[[], ServerSettings]) -> Outcome:
    """Read the file, make the state what it says, and swap the settings. What goes wrong leaves everything as it was.

    A refusal is on the record too, without its text, and in the log with it.
    """
    rt = current.get()
    settings = None
    try:
        settings = load()
        sections.refuse_fixed(rt.settings, settings)
        changes = sections.changes(rt.settings, settings)
        wanted = with_settings(rt, settings)
        rt.store.write(lambda tx: sync(wanted, tx, changes))
    except DbwardError as e:
        _say_refused(rt, e, settings)
        return Outcome(error=e)
    _swap(current, wanted)
    shown = "; ".join(map(str, changes)) or "nothing has changed"
    log.info("the configuration was reloaded: %s", shown, extra={"digest": settings.config_digest[:12]})
    for warning in settings.warnings:
        log.warning(warning)
    return Outcome(settings.config_digest, changes, settings.warnings)


def _say_refused(rt: Runtime, error: DbwardError, settings: ServerSettings | None) -> None:
    for problem in problems(error):
        log.error("the configuration was not reloaded: %s", problem)
    if isinstance(error, Unavailable):
        return  # the state cannot be written
    facts = {
        "code": error.code,
        "problems": len(problems(error)),
        "digest": settings.config_digest if settings is not None else None,
        "digest_in_force": rt.settings.config_digest,
    }
    why = "the reload was refused, and changed nothing"
    try:
        rt.store.write(
            lambda tx: record(rt, tx, Event.CONFIG_SYNCED, actor=SYSTEM, failed=True, reason=why, metadata=facts)
        )
    except Unavailable:
        log.warning("the refused reload could not be put on the record")


def follow(current: Current, load: Callable[[], ServerSettings]) -> str | None:
    """Take over what another server on this state has synced, if this one's file says the same; why not, or None.

    The state is as that server left it, so only the settings of this process change.
    """
    rt = current.get()
    with rt.store.read() as conn:
        shared = meta.get(conn, meta.CONFIG_DIGEST)
    if shared is None or shared == rt.settings.config_digest:
        if rt.config_behind:
            current.put(replace(rt, config_behind=False))
            rt.metrics.config_behind.set(0)
        return None
    try:
        settings = load()
        if settings.config_digest != shared:
            why = "the file here is another one than the file there"
        else:
            sections.refuse_fixed(rt.settings, settings)
            _swap(current, with_settings(rt, settings))
            return None
    except Misconfigured as e:
        why = "; ".join(problems(e))
    current.put(replace(rt, config_behind=True))
    rt.metrics.config_behind.set(1)
    return f"configuration {shared[:12]} is in force on this state, but this server keeps its own: {why}"


def _swap(current: Current, rt: Runtime) -> None:
    """From here on every call sees the new settings, and those that wait look again with them."""
    before = current.get()
    rt.metrics.targets = frozenset(rt.settings.policy.targets)
    rt.metrics.config_behind.set(0)
    current.put(rt)
    rt.tokens.forget_all()
    if before.provider_keys is not None and before.provider_keys is not rt.provider_keys:
        before.provider_keys.close()
    rt.hub.fire([EVERYBODY])


class Reloader:
    """The thread that reloads: one at a time, and once more when it was asked again meanwhile.

    `wanted` is set, then `wake` called, to ask for a reload. `applied` is told of settings that have come into force.
    """

    def __init__(
        self,
        current: Current,
        load: Callable[[], ServerSettings],
        *,
        wanted: threading.Event,
        applied: Callable[[ServerSettings], None],
    ) -> None:
        self._current, self._load, self._wanted, self._applied = current, load, wanted, applied
        self._hub = current.get().hub
        self._waiter = self._hub.listen(CHANNEL)
        self._said: str | None = None
        self._thread = threading.Thread(target=self._loop, name="dbward-reload", daemon=True)

    def start(self) -> None:
        """Take over what was synced since the settings were read, then watch."""
        self._turn()
        self._thread.start()

    def wake(self) -> None:
        self._waiter.wake()

    def stop(self) -> None:
        """To be called when the hub is closing."""
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _loop(self) -> None:
        with self._waiter:
            while not self._hub.closing:
                self._turn()
                self._waiter.wait(RECHECK_SECS)

    def _turn(self) -> None:
        before = self._current.get()
        try:
            if self._wanted.is_set():
                self._wanted.clear()  # before the file is read: whoever asks from now on means the next reading
                self._reload(before.settings.state_dir)
            else:
                self._follow()
        except Unavailable as e:
            log.warning("whether the configuration has changed elsewhere cannot be known now: %s", e.message)
        except Exception:
            log.exception("taking over a configuration failed")
        if self._current.get().settings is not before.settings:
            self._applied(self._current.get().settings)

    def _reload(self, state_dir: Path) -> None:
        asking = signalling.asking("reload", state_dir)
        outcome = reload(self._current, self._load)
        self._said = None
        for pipe in asking:
            signalling.answer(pipe, outcome.as_json())

    def _follow(self) -> None:
        before = self._current.get().settings
        why = follow(self._current, self._load)
        self._current.get().tokens.forget_all()
        if why is not None and why != self._said:
            log.error(why)
        elif self._current.get().settings is not before:
            log.info("the configuration that another server reloaded was taken over")
        self._said = why
