"""Runs the `dbward` command with one of its functions made to kill the whole process group, once.

`python crashing.py POINT MARKER ARGS…`: the first time the function of POINT is reached, MARKER is created and the
group gets SIGKILL, before or after the function did its work. When MARKER exists nothing is changed: a restart works.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Point:
    """Where to die: `module:qualname`, before or after it runs, at its nth call."""

    where: str
    when: Literal["before", "after"]
    call: int = 1


POINTS = {
    "agent-fetched": Point("dbward.client.agent_api:AgentApi.claim", "before"),
    "agent-claimed": Point("dbward.client.agent_api:AgentApi.claim", "after"),
    "agent-about-to-start": Point("dbward.client.agent_api:AgentApi.start", "before"),
    "agent-started": Point("dbward.client.agent_api:AgentApi.start", "after"),
    "agent-uploaded-half": Point("dbward.client.agent_api:AgentApi.part", "after"),
    "agent-committed": Point("dbward.client.agent_api:AgentApi.complete", "before"),
    "agent-completed": Point("dbward.client.agent_api:AgentApi.complete", "after"),
    "server-resumed": Point("dbward.services.dispatch:resume", "after"),
    "server-resuming": Point("dbward.services.dispatch:resume", "before"),
    "server-fetched": Point("dbward.services.broker:fetch", "after", 1),
    "server-claiming": Point("dbward.services.executions:claim", "before"),
    "server-claimed": Point("dbward.services.executions:claim", "after"),
    "server-starting": Point("dbward.services.executions:start", "before"),
    "server-started": Point("dbward.services.executions:start", "after"),
    "server-part-stored": Point("dbward.services.executions:store_part", "after"),
    "server-part-lost": Point("dbward.services.executions:store_part", "before"),
    "server-blob-finished": Point("dbward.results.local:LocalResults.finish", "after"),
    "server-completing": Point("dbward.services.completion:complete", "before"),
    "server-completed": Point("dbward.services.completion:complete", "after"),
    "server-acking": Point("dbward.services.broker:ack", "before"),
}


def arm(point: Point, marker: Path) -> None:
    module_name, _, qualname = point.where.partition(":")
    owner: Any = importlib.import_module(module_name)
    *path, name = qualname.split(".")
    for part in path:
        owner = getattr(owner, part)
    real: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != point.call:
            return real(*args, **kwargs)
        result = None if point.when == "before" else real(*args, **kwargs)
        marker.touch()
        os.killpg(0, signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


def main() -> None:
    point, marker = sys.argv[1], Path(sys.argv[2])
    sys.argv = ["dbward", *sys.argv[3:]]
    if not marker.exists():
        arm(POINTS[point], marker)
    from dbward.cli.main import run

    run()


if __name__ == "__main__":
    main()
