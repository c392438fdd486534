"""Whether this server can serve."""

from __future__ import annotations

from dbward.errors import DbwardError
from dbward.runtime import Runtime
from dbward.services.views import View


def ready(rt: Runtime) -> tuple[bool, View]:
    """Whether the state database and the result store answer, and which of them does not."""
    checks: dict[str, str] = {}
    for name, ping in ((rt.store.dialect, rt.store.ping), ("results", rt.results.ping)):
        try:
            ping()
            checks[name] = "ok"
        except DbwardError:
            checks[name] = "unavailable"
    fine = all(answer == "ok" for answer in checks.values())
    return fine, {"status": "ok" if fine else "degraded", "checks": checks}
