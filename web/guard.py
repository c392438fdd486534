"""Who may call what, before any handler runs. Every blueprint names exactly one of the guards below.

Agent tokens open `/api/public-key`, `/api/agent/*` and `/api/broker/*` and nothing else; what a user or an agent may do
there is decided by the services.
"""

from __future__ import annotations

from typing import Literal

from flask import Response, current_app, g, request

from dbward.allowance import Taken
from dbward.domain.model import Principal
from dbward.errors import Invalid, RateLimited, Refused, Unauthorized, Unavailable
from dbward.runtime import Current, Runtime
from dbward.services import identity
from web.peer import client_address

Audience = Literal["public", "agent", "any", "user"]

PUBLIC_PATHS = frozenset({"/health", "/ready", "/api/openapi.json", "/api/docs"})
AGENT_PATHS = ("/api/agent/", "/api/public-key")
BROKER_PATHS = ("/api/broker/",)
FINISHING = frozenset(
    {
        *("agent.renew", "agent.parts", "agent.release", "agent.complete", "agent.complete_explain"),
        *("broker.ack", "broker.extend", "broker.reject", "broker.release"),
    }
)
"""Endpoints that bring to an end what was begun: an agent's token that has expired meanwhile still opens them."""


def public() -> None:
    """Open to everybody: health checks, and what the API is."""


def require_token() -> None:
    """Any valid token; the handler decides by who it is."""
    _admit()


def require_user() -> None:
    """A person's token."""
    if _admit().kind == "agent":
        raise Refused("an agent token opens /api/agent and /api/broker only")


def require_agent() -> None:
    """An agent's token."""
    if _admit().kind != "agent":
        raise Refused("this path is for agents only")


GUARDS = {"public": public, "agent": require_agent, "any": require_token, "user": require_user}


def audience(path: str) -> Audience:
    """Whom a path is for; decides about paths that do not exist, too."""
    if path in PUBLIC_PATHS:
        return "public"
    if path.startswith(AGENT_PATHS):
        return "agent"
    if path.startswith(BROKER_PATHS):
        return "any"
    return "user"


def check_unrouted() -> None:
    """Ask for a token before saying that a path or a method does not exist: the map is not public either."""
    if request.routing_exception is not None:
        GUARDS[audience(request.path)]()


def refuse_nul() -> None:
    """A NUL in a path or a query is never meant, and PostgreSQL refuses it in text."""
    if "\0" in request.path or any("\0" in part for pair in request.args.items(multi=True) for part in pair):
        raise Invalid("the path or the query holds a NUL character")


def runtime() -> Runtime:
    """The opened parts of this server as they are for this call: a reload in the middle of it changes nothing."""
    if "rt" not in g:
        return renew()
    rt: Runtime = g.rt
    return rt


def renew() -> Runtime:
    """Go on with what is in force now: for a call that has waited."""
    current: Current = current_app.extensions["dbward"]
    g.rt = rt = current.get()
    return rt


def principal() -> Principal:
    """Who is calling, as its guard found out."""
    who: Principal = g.principal
    return who


def recheck() -> Principal:
    """Authenticate again: a call that waited may have outlived its token."""
    return _identify()


def refuse_while_draining() -> None:
    """Take on nothing new once the server is told to stop."""
    if runtime().hub.closing:
        raise Unavailable("server_shutting_down", hint="the server is stopping; try again shortly")


def holder(who: Principal) -> str:
    """Whose share of the server a call takes: its token's, or with single sign-on the person's."""
    return who.token_id or f"user:{who.subject}"


def show_allowance(response: Response) -> Response:
    """Say what is left to the caller, in the header fields of the IETF draft on rate limits."""
    taken: Taken | None = g.get("taken")
    if taken is not None:
        response.headers["RateLimit-Policy"] = f'"{g.allowance}";q={taken.most};w=60'
        response.headers["RateLimit"] = f'"{g.allowance}";r={taken.left};t={taken.reset_secs}'
    return response


def _admit() -> Principal:
    """Who is calling, once for each call, and within what the token may ask for in a minute. Raises `RateLimited`.

    Agents are not counted: a job must never be lost to a limit.
    """
    who = _identify()
    if who.kind == "agent":
        return who
    rt = runtime()
    g.allowance = "reads" if request.method in {"GET", "HEAD"} else "writes"
    limits = rt.settings.limits
    most = limits.reads_per_minute if g.allowance == "reads" else limits.writes_per_minute
    if not most:
        return who
    g.taken = taken = rt.allowances.take(f"{g.allowance}:{holder(who)}", most, rt.now())
    if not taken.ok:
        rt.metrics.limited(g.allowance)
        raise RateLimited(
            f"more than {most} {g.allowance} in a minute with this token",
            hint=f"call again in {taken.reset_secs} seconds; [limits] {g.allowance}_per_minute sets how many",
            retry_after=taken.reset_secs,
        )
    return who


def _identify() -> Principal:
    rt = runtime()
    client, source = client_address(
        request.remote_addr, request.headers.get("X-Forwarded-For"), rt.settings.trusted_proxies
    )
    who = identity.authenticate(
        rt,
        _bearer(),
        peer_ip=request.remote_addr,
        client_ip=client,
        source=source,
        finishing=request.endpoint in FINISHING,
    )
    g.principal = who
    return who


def _bearer() -> str | None:
    header = request.headers.get("Authorization")
    if header is None:
        return None
    scheme, space, token = header.partition(" ")
    if scheme != "Bearer" or not space or not token.isascii() or len(token) > 8192:
        raise Unauthorized("authentication required")
    return token
