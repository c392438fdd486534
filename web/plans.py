"""What agents are asked, waited for without a transaction: the plans of a preflight, and what is migrated."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from dbward.domain.model import Principal
from dbward.errors import Unauthorized, Unavailable
from dbward.runtime import Runtime
from dbward.services import explains
from dbward.services.preflight import SKIPPED, Verdict
from dbward.services.views import View
from web import live


def impact_of(rt: Runtime, who: Principal, verdict: Verdict) -> View:
    """The `impact` of a preflight, after a bounded wait.

    Raises `RateLimited`, `Unavailable` when too many wait, `Unauthorized`
    when the token ends meanwhile.
    """
    said, made = verdict.said, verdict.made
    if said is None or made is None or not verdict.body.include_explain:
        return SKIPPED
    timeout = timedelta(milliseconds=verdict.body.explain_timeout_ms)
    begun = explains.begin_preflight(
        rt,
        who,
        said.target,
        said.plan.statements,
        dialect=said.dialect,
        wanted=made.workflow is not None and made.workflow.explain,
        timeout=timeout,
    )
    if not isinstance(begun, str):
        return begun
    return answer_to(rt, begun, explains.wait_time(rt, timeout), answered=explains.impact, given_up=explains.give_up)


def answer_to(
    rt: Runtime,
    asked: str,
    patience: timedelta,
    *,
    answered: Callable[[Runtime, str], View | None],
    given_up: Callable[[Runtime, str], View],
) -> View:
    """What an agent answers to the question `asked`, or what giving it up comes to. Whatever ends the waiting ends the
    question. Raises what these two do, `Unavailable` when too many wait, `Unauthorized` when the token ends meanwhile.
    """
    try:
        found = live.wait_for(
            rt, f"explain:{asked}", check=lambda now: answered(now, asked), seconds=patience.total_seconds()
        )
    except (Unavailable, Unauthorized):
        explains.end(rt, asked)
        raise
    return found if found is not None else given_up(rt, asked)
