"""The Celery app of the comparison: Redis as broker, otherwise set as dbward's agent is."""

from __future__ import annotations

import os

from celery import Celery

from bench import noop

app = Celery("bench", broker=os.environ["BENCH_REDIS"])
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_default_queue=noop.QUEUE,
    broker_connection_retry_on_startup=True,
    worker_enable_remote_control=True,
)
noop.register(app)
