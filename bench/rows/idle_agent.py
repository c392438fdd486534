"""an agent with nothing to do."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from bench.lab import Lab, cpu_seconds, memory
from bench.report import Line

ORDER = 5
SECS = 120
BUDGET_REQUESTS = 4.0
BUDGET_CPU = 0.005
BUDGET_BYTES = 100 * 2**20


def measure(lab: Lab) -> list[Line]:
    server = lab.server()
    between = Counter(server.port)
    agent = lab.agent(f"http://127.0.0.1:{between.port}", token=server.agent_token)
    time.sleep(10)  # what belongs to the start is over
    requests, cpu, began = between.requests, cpu_seconds(agent.pid), time.monotonic()
    time.sleep(SECS)
    seconds = time.monotonic() - began
    per_minute = (between.requests - requests) * 60 / seconds
    share = (cpu_seconds(agent.pid) - cpu) / seconds
    held = memory(agent.pid)
    between.close()
    return [
        Line(
            what="idle agent",
            ours=f"{per_minute:.1f} requests/min, {share:.2%} of a core, {held / 2**20:.0f} MB",
            budget="at most 4 requests/min, under 0.5 %, under 100 MB",
            ok=per_minute <= BUDGET_REQUESTS and share < BUDGET_CPU and held < BUDGET_BYTES,
            note=f"over {seconds:.0f} s, all its HTTP requests counted between it and the server",
        )
    ]


class Counter:
    """A TCP relay to the server that counts the requests going through."""

    def __init__(self, port: int) -> None:
        self.requests = 0
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
            for source, sink, counted in ((near, far, True), (far, near, False)):
                threading.Thread(
                    target=self._pump, args=(source, sink), kwargs={"counted": counted}, daemon=True
                ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, *, counted: bool) -> None:
        marker = b" HTTP/1.1\r\n"
        rest = b""
        try:
            while data := source.recv(2**16):
                if counted:
                    text = rest + data
                    self.requests += text.count(marker)
                    rest = text[-(len(marker) - 1) :]
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
