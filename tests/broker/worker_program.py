"""A plain Celery worker on dbward's transport, without an agent in it: its task only notes that it ran.

`worker_program.py NODE POOL_SIZE QUEUE DIRECTORY`, with the server and the token in the environment. Each line of
`DIRECTORY/notes` is one step of one task. While `DIRECTORY/hold` exists, tasks wait before they end.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from pathlib import Path

from dbward.broker.names import EXECUTE_TASK
from tasks.app import make_app
from tasks.control import restrict_panel


def main(node: str, size: str, queue: str, directory: str) -> None:
    notes, hold = Path(directory) / "notes", Path(directory) / "hold"
    app = make_app(
        server_url=os.environ["SERVER_URL"],
        token=os.environ["TOKEN"],
        transport_options={"session": uuid.uuid4().hex},
    )

    def note(*words: object) -> None:
        with notes.open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    @app.task(name=EXECUTE_TASK, bind=True)
    def execute(task: object, request_id: str, execution_id: str) -> None:
        info = task.request.delivery_info  # type: ignore[attr-defined]
        note("start", request_id, node, "again" if info["redelivered"] else "first")
        while hold.exists():
            time.sleep(0.01)
        note("end", request_id, node)

    restrict_panel()
    worker = app.Worker(
        hostname=node,
        pool="threads",
        concurrency=int(size),
        queues=[queue],
        without_gossip=True,
        without_mingle=True,
        heartbeat_interval=2,
        loglevel="INFO",
    )
    worker.start()
    sys.exit(worker.exitcode)


if __name__ == "__main__":
    main(*sys.argv[1:])
