"""`[limits]` of `server.toml`: how much one token or address may ask of the server, so that others get their share."""

from __future__ import annotations

from dataclasses import dataclass

from dbward.settings.load import Table


@dataclass(frozen=True, slots=True)
class Limits:
    """`reads_per_minute` and `writes_per_minute` are for one person's token over all replicas; 0 is no limit.

    `polls_per_token` and `polls_per_agent_token` are how many calls of one token may wait at once in one server
    process. `failed_sign_ins_per_minute` is for one client address.
    """

    reads_per_minute: int = 12_000
    writes_per_minute: int = 3_000
    polls_per_token: int = 128
    polls_per_agent_token: int = 256
    failed_sign_ins_per_minute: int = 30


def read_limits(limits: Table, *, max_polls: int) -> Limits:
    """What the section says; unless it does, a token may hold a quarter of `max_polls`, an agent's half of them."""
    usual = Limits()
    return Limits(
        reads_per_minute=limits.integer("reads_per_minute", usual.reads_per_minute),
        writes_per_minute=limits.integer("writes_per_minute", usual.writes_per_minute),
        polls_per_token=limits.integer("polls_per_token", max(4, max_polls // 4), least=1),
        polls_per_agent_token=limits.integer("polls_per_agent_token", max(4, max_polls // 2), least=1),
        failed_sign_ins_per_minute=limits.integer(
            "failed_sign_ins_per_minute", usual.failed_sign_ins_per_minute, least=1
        ),
    )
