"""The first question of every call: is the permission held at all? Whose thing it is about is asked later."""

from __future__ import annotations

from dbward.domain import rbac
from dbward.domain.model import Permission, Principal
from dbward.errors import Refused
from dbward.runtime import Runtime
from dbward.services.journal import record_refusal


def require(rt: Runtime, who: Principal, needs: tuple[Permission, ...], *, action: str | None) -> None:
    """Raise `Refused` unless one of `needs` is held in some role, whatever its scope.

    `action` names what was to be changed: such a refusal goes on the record, and one to look does not.
    """
    if any(rbac.allowed(who, permission, None) for permission in needs):
        return
    listed = " or ".join(needs)
    refusal = Refused(f"this needs the permission {listed}", hint="ask for a role that grants it")
    if action is not None:
        rt.store.write(lambda tx: record_refusal(rt, tx, refusal, actor=who, request=None, action=action))
    raise refusal
