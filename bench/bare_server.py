"""dbward's server with nothing in it: the same process, gunicorn worker and settings around two bare Flask routes.

Run as `python -m bench.bare_server server start …`.
"""

from __future__ import annotations

from flask import Flask, request
from flask.typing import ResponseReturnValue

import web.wsgi
from dbward.cli.main import run
from dbward.runtime import Runtime


def create_bare(_rt: Runtime) -> Flask:
    app = Flask("bare")

    @app.get("/ready")
    @app.get("/bare")
    def get() -> ResponseReturnValue:
        return {"status": "ok"}

    @app.post("/bare")
    def post() -> ResponseReturnValue:
        return {"got": len(request.get_json())}, 201

    return app


if __name__ == "__main__":
    web.wsgi.create_app = create_bare
    run()
