"""The Flask application over an opened runtime. It reads no files, opens no database and starts no thread."""

from __future__ import annotations

from time import perf_counter

from flask import Flask, Response, g, request

from dbward import VERSION
from dbward.runtime import Current, Runtime
from web import errors, guard, openapi
from web.api import (
    agent,
    agents,
    audit,
    broker,
    config_only,
    directory,
    docs,
    health,
    identity,
    metrics,
    migrations,
    policies,
    requests,
    results,
    schemas,
    tokens,
    users,
    webhooks,
)
from web.json import ApiJson

VERSION_HEADER = "x-dbward-version"

BLUEPRINTS = (
    health.bp,
    requests.bp,
    results.bp,
    audit.bp,
    agents.bp,
    schemas.bp,
    migrations.bp,
    agent.bp,
    broker.bp,
    identity.bp,
    tokens.bp,
    users.bp,
    directory.bp,
    metrics.bp,
    policies.bp,
    webhooks.bp,
    config_only.bp,
    docs.bp,
)


def create_app(current: Current) -> Flask:
    """One application over whatever runtime is in force."""
    app = bare_app()
    app.extensions["dbward"] = current
    app.jinja_env.filters["type_name"] = openapi.type_name
    errors.register(app)
    app.before_request(_begin)
    app.before_request(_limit_body)
    app.before_request(guard.refuse_nul)
    app.before_request(guard.check_unrouted)
    app.after_request(guard.show_allowance)
    app.after_request(_stamp)
    app.after_request(_measure)
    return app


def bare_app() -> Flask:
    """The routes without anything behind them: enough to describe them."""
    app = Flask("dbward", static_folder=None)
    app.json = ApiJson(app)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    # A path is spelled one way; a redirect would lose the body of a POST and tell strangers what exists.
    app.url_map.strict_slashes = True
    app.url_map.merge_slashes = False
    for bp in BLUEPRINTS:
        app.register_blueprint(bp)
    return app


def body_limit(rt: Runtime) -> int:
    """Bytes a JSON body may have: never less than the longest allowed statement, or what is to be migrated, needs.

    Escaped throughout, where a statement may grow six times; migrations, which are JSON already, three times.
    """
    sql = max(6 * rt.settings.max_detail_bytes, 3 * rt.settings.max_migration_bytes)
    return max(rt.settings.http.max_body_bytes, sql + 64 * 1024)


def _limit_body() -> None:
    request.max_content_length = body_limit(guard.runtime())


def _stamp(response: Response) -> Response:
    response.headers[VERSION_HEADER] = VERSION
    return response


def _begin() -> None:
    g.began = perf_counter()


def _measure(response: Response) -> Response:
    """Count the call. How long one took that waited says nothing about the server."""
    rule = request.url_rule
    seconds = None if g.get("waited") else perf_counter() - g.began
    guard.runtime().metrics.answered(request.method, rule.rule if rule else None, response.status_code, seconds)
    return response
