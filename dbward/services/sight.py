"""Which requests and results a person may know of, and finding one of them.

A request that exists but may not be known of is answered for exactly as one that does not exist, whatever was to be
done with it. Only what may be known of but not done is refused.
"""

from __future__ import annotations

from dbward.db import requests, visible
from dbward.db.engine import Connection, Tx
from dbward.db.rows import RequestRow
from dbward.db.visible import Condition, Scope, Visibility
from dbward.domain import policy, rbac
from dbward.domain.model import Ownership, Permission, Principal, Selector, SelectorKind
from dbward.errors import DbwardError, Missing, Refused
from dbward.runtime import Runtime
from dbward.services.journal import record_refusal


def identity_selectors(who: Principal) -> tuple[str, ...]:
    """Every selector text that points at this person; agents and the server itself are never meant."""
    if who.kind != "user":
        return ()
    named = [Selector(SelectorKind.USER, who.subject)]
    named += [Selector(SelectorKind.ROLE, name) for name in who.role_names]
    named += [Selector(SelectorKind.GROUP, name) for name in who.groups]
    return tuple(str(selector) for selector in named)


def visibility(who: Principal, permission: Permission) -> Visibility:
    """How far this permission reaches: nowhere for whoever does not hold it."""
    reach = [(role, rbac.reach(role, permission)) for role in who.roles]
    return Visibility(
        everybodys=tuple(Scope(role.databases, role.environments) for role, how in reach if how is Ownership.ANY),
        own=tuple(Scope(role.databases, role.environments) for role, how in reach if how is Ownership.OWN),
        subject=who.subject,
        selectors=identity_selectors(who),
    )


def viewed_by(who: Principal) -> Condition:
    """The requests this person may look at."""
    return visible.viewable(visibility(who, Permission.REQUEST_VIEW))


def changed_by(who: Principal, permission: Permission) -> Condition:
    """The requests this person may change by `permission`, which is cancelling or resuming."""
    return visible.owned(visibility(who, permission))


def awaiting(who: Principal) -> Condition:
    """The pending requests whose current step names this person: deciding needs no permission."""
    return visible.awaiting(identity_selectors(who))


def read_by(rt: Runtime, who: Principal) -> Condition:
    """The requests whose results this person may read, by the result policies as they are now."""
    mine = set(identity_selectors(who))
    opened = [
        (Scope((rule.database,), (rule.environment,)), any(str(selector) in mine for selector in rule.access))
        for rule in policy.most_specific_first(rt.settings.policy.result_policies)
    ]
    return visible.readable(visibility(who, Permission.RESULT_VIEW), opened)


def kept(rt: Runtime) -> Condition:
    """The requests whose results are stored to be read later, by the result policies as they are now."""
    rules = policy.most_specific_first(rt.settings.policy.result_policies)
    return visible.kept(
        [(Scope((rule.database,), (rule.environment,)), rule.delivery_mode == "stream") for rule in rules]
    )


def find(conn: Connection, who: Principal, asked: str, *known: Condition) -> RequestRow:
    """The request of an id or short id, among those this person may look at and those `known` to them otherwise.

    Raises `Missing`, and `Conflict` (`request.ambiguous`).
    """
    return requests.resolve(conn, asked, visible.either(viewed_by(who), *known))


def lock(rt: Runtime, tx: Tx, who: Principal, asked: str, *known: Condition, action: str) -> RequestRow | DbwardError:
    """As `find`, and held until the transaction ends.

    An attempt on a request of somebody who may not know of it goes on the record, with that reason; what is handed back
    then is the `Missing` to raise after the commit.
    """
    try:
        row = find(tx.conn, who, asked, *known)
    except Missing as missing:
        hidden = requests.find(tx.conn, asked)
        if hidden is not None:
            refusal = Refused("this request is neither visible to the caller nor waiting for their decision")
            record_refusal(rt, tx, refusal, actor=who, request=hidden, action=action)
        return missing
    return requests.lock(tx, row.id)
