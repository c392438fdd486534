"""The world a command runs in, as one value, so that tests can hand in another."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import httpx2


@dataclass(slots=True)
class Env:
    """Streams, environment variables and directory of one run. `transport` replaces the network."""

    stdin: TextIO
    stdout: TextIO
    stderr: TextIO
    variables: Mapping[str, str]
    cwd: Path = field(default_factory=Path.cwd)
    transport: httpx2.BaseTransport | None = None

    @property
    def can_ask(self) -> bool:
        """Whether somebody is there to answer a question."""
        return _is_terminal(self.stdin) and _is_terminal(self.stderr)

    @property
    def draws(self) -> bool:
        """Whether stderr can show a line that changes."""
        return _is_terminal(self.stderr) and self.variables.get("TERM") != "dumb"

    @property
    def shows(self) -> bool:
        """Whether stdout goes to a terminal, which acts on control characters."""
        return _is_terminal(self.stdout)


def process_env() -> Env:
    """The world of this process."""
    from dbward.settings.load import environment

    return Env(sys.stdin, sys.stdout, sys.stderr, environment())


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False
