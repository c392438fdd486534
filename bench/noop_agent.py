"""dbward's agent with one more task, the no-op. Run as `python -m bench.noop_agent agent --config …`."""

from __future__ import annotations

from typing import Any

import tasks.agent
from bench import noop
from dbward.cli.main import run
from tasks.app import make_app


def make_with_noop(**given: Any) -> Any:
    app = make_app(**given)
    noop.register(app)
    return app


if __name__ == "__main__":
    tasks.agent.make_app = make_with_noop  # type: ignore[attr-defined]
    run()
