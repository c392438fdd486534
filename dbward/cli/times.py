"""Points in time as people type and read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from typing import Any

import click

_SPAN = re.compile(r"([0-9]{1,6})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Moment(click.ParamType[str]):
    """`2026-05-01` (its beginning, or with `end` its end, UTC), RFC 3339 with an offset, or `30m`, `2h`, `7d` ago.

    With `ahead` those are from now on, and what is past is refused.
    """

    name = "time"

    def __init__(self, *, end: bool = False, ahead: bool = False) -> None:
        self._end = end
        self._ahead = ahead

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip()
        now = datetime.now(UTC)
        moment = self._moment(text, now, param, ctx)
        if self._ahead and moment <= now:
            self.fail(f"{text!a} is not in the future", param, ctx)
        return _wire(moment)

    def _moment(self, text: str, now: datetime, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            if (span := _SPAN.fullmatch(text)) is not None:
                away = timedelta(**{_UNITS[span[2]]: int(span[1])})
                return now + away if self._ahead else now - away
            if len(text) == 10:
                day = datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007 - the day's zone is put on below
                return datetime.combine(day, time.max if self._end else time.min, UTC)
            moment = datetime.fromisoformat(text)
        except (ValueError, OverflowError):
            self.fail(f"{text!a} is not a date, a time such as 2026-05-01T12:00:00Z, or 30m, 2h, 7d", param, ctx)
        if moment.tzinfo is None:
            self.fail(f"{text!a} does not say its offset from UTC; end it with Z or +02:00", param, ctx)
        return moment


def shown(text: str | None) -> str | None:
    """A time of an answer, in this machine's zone, to the second."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError):
        return text


def _wire(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
