"""dbward's server with one more path, which publishes no-op tasks the way the server publishes executions.

Run as `python -m bench.noop_server server start …`. Each task is a transaction of its own and carries the time before
it began, unless all are asked for at once.
"""

from __future__ import annotations

import time

from flask import Blueprint, Flask, request

import web.wsgi
from bench.noop import NAME
from dbward.broker.names import job_queue
from dbward.broker.publish import Publisher
from dbward.cli.main import run
from dbward.db.engine import Tx
from dbward.domain.model import Target
from dbward.runtime import Current, Runtime
from web.app import create_app

QUEUE = job_queue(Target("app", "development"))
BATCH = 50


class NoopPublisher(Publisher):
    def noop(self, tx: Tx, sent: float) -> None:
        self._inside.tx = tx
        try:
            self._app.send_task(NAME, args=[sent], queue=QUEUE, producer=self._producer, retry=False)
        finally:
            self._inside.tx = None


def create_with_noop(rt: Runtime) -> Flask:
    app = create_app(Current(rt))
    publisher = NoopPublisher()
    bp = Blueprint("bench", __name__)

    @bp.post("/bench/publish")
    def publish() -> dict[str, int]:
        left = count = request.json["count"]
        while left:
            batch = min(left, BATCH)
            sent = time.time()

            def work(tx: Tx, batch: int = batch, sent: float = sent) -> None:
                for _ in range(batch):
                    publisher.noop(tx, sent)

            rt.store.write(work)
            left -= batch
        return {"published": count}

    app.register_blueprint(bp)
    return app


if __name__ == "__main__":
    web.wsgi.create_app = create_with_noop  # type: ignore[attr-defined]
    run()
