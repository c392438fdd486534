"""Whether somebody serves what there is to work on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dbward.cli.diagnosis.model import Check, failed, passed, refused, skipped, warned
from dbward.errors import DbwardError, Refused


def check_agents(get: Callable[[str], Any], targets: Sequence[tuple[str, str]]) -> Check:
    """Whether an agent that is there has each of `targets` up."""
    try:
        agents = get("/api/agents")["agents"]
    except Refused:
        return skipped("agents_serve", "you may not see the agents (permission metrics.view)")
    except DbwardError as e:
        return refused("agents_serve", e)
    there = [agent for agent in agents if agent["status"] != "offline"]
    up: dict[tuple[str, str], list[str]] = {target: [] for target in targets}
    errors: list[str] = []
    for agent in there:
        for served in agent["databases"]:
            target = served["database"], served["environment"]
            if served["status"] == "up":
                up.setdefault(target, []).append(agent["id"])
            else:
                errors.append(f"{agent['id']}: {'/'.join(target)} is down: {served['error']}")
    unserved = ["/".join(target) for target in targets if not up[target]]
    if not there:
        return failed("agents_serve", "no agent is there: nothing runs", "start one with `dbward agent`")
    if unserved:
        return warned(
            "agents_serve",
            f"no agent serves {', '.join(unserved)}: requests for it wait",
            "add [databases.<name>.<environment>] to an agent's file, and see `dbward doctor --agent` there",
            errors,
        )
    if errors:
        return warned("agents_serve", "everything is served, but not by every agent that could", None, errors)
    return passed("agents_serve", f"{len(there)} there, and every database is served")
