"""`dbward agents`."""

from __future__ import annotations

from typing import Any

import click

from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Outcome
from dbward.cli.tables import table

NEVER_SECS = 9999
"""What the server says about an agent it has not heard of for that long, or ever."""


@click.command("agents", epilog=EPILOG)
@global_options(hidden=True)
@pass_app
def agents(app: App) -> Outcome:
    """Show the agents and what waits for them."""
    answer = app.client.get("/api/agents")
    found, queues = answer["agents"], answer.get("queues", [])
    app.out.data(
        table(
            ("AGENT", "STATUS", "LOAD", "LAST SEEN", "UPTIME", "VERSION", "DATABASES"),
            [
                (
                    agent["id"],
                    agent["status"],
                    f"{agent['in_flight']}/{agent['max_concurrent']}",
                    _ago(agent["last_poll_ago_secs"]),
                    span(agent["uptime_secs"]),
                    agent.get("version"),
                    ", ".join(map(_database, agent.get("databases", []))),
                )
                for agent in found
            ],
        )
    )
    if not found:
        app.out.say("No agents.")
    for agent in found:
        for job in agent.get("active_jobs", []):
            elapsed = span(job.get("elapsed_secs", 0))
            whose = f"request {job['request_id']}" if job["request_id"] is not None else "a request of somebody else"
            app.out.say(f"  {agent['id']}: {job['operation']} of {whose}, for {elapsed}")
    waiting = [queue for queue in queues if queue["ready"] or queue["leased"] or queue["dead"]]
    if waiting:
        app.out.data([""])
        app.out.data(
            table(
                ("QUEUE", "WAITING", "TAKEN", "DEAD", "OLDEST"),
                [
                    (
                        f"{queue['database']}/{queue['environment']}",
                        queue["ready"],
                        queue["leased"],
                        queue["dead"],
                        span(queue["oldest_job_age_secs"]),
                    )
                    for queue in waiting
                ],
            )
        )
    return Outcome({"agents": found, "queues": queues})


def span(secs: float | None) -> str:
    """`95` as `1m 35s`; at most two units."""
    if secs is None:
        return "-"
    left = int(secs)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def _ago(secs: int) -> str:
    return "long ago" if secs >= NEVER_SECS else f"{span(secs)} ago"


def _database(served: dict[str, Any]) -> str:
    name = f"{served['database']}/{served['environment']}"
    return name if served.get("status", "up") == "up" else f"{name} (down)"
