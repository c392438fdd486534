"""The plans of a preflight: asked for, and waited for without a transaction."""

from __future__ import annotations

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
    try:
        found = live.wait_for(
            rt,
            f"explain:{begun}",
            check=lambda now: explains.impact(now, begun),
            seconds=explains.wait_time(rt, timeout).total_seconds(),
        )
    except (Unavailable, Unauthorized):
        explains.give_up(rt, begun)
        raise
    return found if found is not None else explains.give_up(rt, begun)
