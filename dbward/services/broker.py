"""The broker's verbs for callers from outside: who may, in the very transaction that does it.

`broker.access` decides; this module brings it the facts. A refused message is put on the record: it is how an attempt
to steer an agent shows.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel

from dbward.broker import access, store
from dbward.broker.options import MAX_OWN_QUEUES
from dbward.broker.source_sql import SqlSource
from dbward.broker.wire import (
    PROTOCOL,
    Bind,
    Declare,
    Declared,
    DepthList,
    Depths,
    Fetch,
    Fetched,
    Hello,
    Nothing,
    OneQueue,
    Publish,
    Published,
    Reject,
    Release,
    Settle,
    Stale,
    Unbind,
    Welcome,
)
from dbward.db.engine import Tx
from dbward.domain.model import Principal
from dbward.errors import Conflict, Invalid, Refused, Unauthorized
from dbward.runtime import Runtime
from dbward.services import agents, identity
from dbward.services.journal import record_refusal


def hello(rt: Runtime, who: Principal, ask: Hello) -> Welcome:
    """Raises `Refused`, and `Invalid` for another protocol."""
    if (refusal := access.refuse(who, "hello", ask, access.Facts({}))) is not None:
        raise refusal
    if ask.protocol != PROTOCOL:
        raise Invalid(
            f"the client speaks broker protocol {ask.protocol}, this server {PROTOCOL}",
            code="broker.protocol",
            hint="upgrade the older of the two",
        )
    return _source(rt, who).hello()


def declare(rt: Runtime, who: Principal, ask: Declare) -> Declared:
    return _source(rt, who).declare(ask)


def bind(rt: Runtime, who: Principal, ask: Bind) -> Nothing:
    _source(rt, who).bind(ask)
    return Nothing()


def unbind(rt: Runtime, who: Principal, ask: Unbind) -> Nothing:
    _source(rt, who).unbind(ask)
    return Nothing()


def delete(rt: Runtime, who: Principal, ask: OneQueue) -> Nothing:
    _source(rt, who).delete(ask)
    return Nothing()


def publish(rt: Runtime, who: Principal, ask: Publish) -> Published:
    try:
        return Published(queues=_source(rt, who).publish(access.clean(who, ask)))
    except Refused as e:
        refusal = e
    if rt.tokens.worth_recording(f"broker:{who.token_id}", rt.now()):
        rt.store.write(lambda tx: record_refusal(rt, tx, refusal, actor=who, request=None, action="broker.publish"))
    raise refusal


def fetch(rt: Runtime, who: Principal, ask: Fetch, *, gone: Callable[[], bool]) -> Fetched:
    """Wait up to `wait_ms` for a message. Holds no database connection meanwhile.

    `gone` says that the client has hung up; asked before anything is leased to it. Raises `Unauthorized` when the token
    ended while it waited.
    """
    poll = _source(rt, who, gone).poll(ask)
    return poll.result(rt.settings.broker.max_wait.total_seconds()) or Fetched()


def ack(rt: Runtime, who: Principal, ask: Settle) -> Stale:
    return Stale(stale=_source(rt, who).ack(ask))


def extend(rt: Runtime, who: Principal, ask: Settle) -> Stale:
    return Stale(stale=_source(rt, who).extend(ask))


def reject(rt: Runtime, who: Principal, ask: Reject) -> Stale:
    return Stale(stale=_source(rt, who).reject(ask))


def release(rt: Runtime, who: Principal, ask: Release) -> Nothing:
    _source(rt, who).release(ask)
    return Nothing()


def depths(rt: Runtime, who: Principal, ask: Depths) -> DepthList:
    return DepthList(queues=_source(rt, who).depths(ask))


def _source(rt: Runtime, who: Principal, gone: Callable[[], bool] = lambda: False) -> SqlSource:
    """The verbs as this caller may use them."""
    if who.token_id is None:  # sessions and queues belong to a token
        raise Refused("the broker takes dbward tokens only", hint="create one, or use one of the configuration")
    return SqlSource(
        rt.store,
        rt.hub,
        rt.now,
        owner=who.token_id,
        settings=rt.settings.broker,
        check=lambda tx, verb, ask: _check(rt, who, tx, verb, ask),
        on_poll=agents.seen if who.kind == "agent" else None,
        gone=gone,
        admit=lambda: _admit(rt, who),
    )


def _check(rt: Runtime, who: Principal, tx: Tx, verb: str, ask: BaseModel) -> None:
    conn, token_id = tx.conn, who.token_id or ""
    owners = {name: row.owner for name, row in store.find_queues(conn, _queues_named(ask)).items()}
    facts = access.Facts(owners, frozenset(rt.settings.policy.targets))
    if (refusal := access.refuse(who, verb, ask, facts)) is not None:
        raise refusal
    session = getattr(ask, "session", None)
    if session is not None and store.session_token(conn, session) not in (None, token_id):
        raise Refused("broker: this session belongs to another token")
    new = isinstance(ask, Declare) and ask.queue not in owners
    if new and store.count_owned(conn, token_id) >= MAX_OWN_QUEUES:
        raise Conflict("this token has too many queues; they expire by themselves", code="broker.too_many_queues")


def _queues_named(ask: BaseModel) -> list[str]:
    match ask:
        case Declare() | Bind() | Unbind() | OneQueue():
            return [ask.queue]
        case Fetch():
            return [queue for group in ask.groups for queue in group.queues]
        case Publish():
            reply_to = access.reply_queue(ask)
            return [reply_to] if reply_to is not None else []
        case _:
            return []


def _admit(rt: Runtime, who: Principal) -> None:
    if not identity.still_valid(rt, who.token_id or ""):
        raise Unauthorized("the token is expired or revoked")
