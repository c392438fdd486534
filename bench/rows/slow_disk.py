"""creates per second with 32 clients, on a disk with 10 ms added to every fsync, and with 5 as on a file server."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from bench.lab import BenchFailed, Client, Lab, in_threads
from bench.report import Line
from tests.support.processes import Server

ORDER = 4
DELAY_MS = 10
FILE_SERVER_MS = 5
CLIENTS = 32
SECS = 8
BUDGET = 10
FILE_SERVER_BUDGET = 0.5
SOURCE = Path(__file__).parents[1] / "fsync_delay.c"


def measure(lab: Lab) -> list[Line]:
    shim = compile_shim(lab.dir)
    alone, together = on_a_disk(lab, shim, DELAY_MS)
    far_alone, far = on_a_disk(lab, shim, FILE_SERVER_MS)
    fast = lab.server(name="fast")
    creates(fast, clients=4, secs=1)
    limit = creates(fast, clients=CLIENTS, secs=SECS)
    return [
        Line(
            what=f"creates a second, {CLIENTS} clients, {DELAY_MS} ms more for every fsync",
            ours=f"{together:.0f}/s",
            beside=f"{alone:.0f}/s one commit at a time",
            ratio=f"{together / alone:.1f}x",
            budget=f"at least {BUDGET}x",
            ok=together >= BUDGET * alone,
            note=f"through the whole HTTP API; without the added delay {limit:.0f}/s, which is this machine's CPU",
        ),
        Line(
            what=f"creates, {CLIENTS} clients, {FILE_SERVER_MS} ms more for every fsync, as on a network file system",
            ours=f"{far / limit:.2f} of the rate without",
            beside=f"{far_alone / limit:.2f} one commit at a time",
            ratio=f"{far / far_alone:.1f}x",
            budget=f"at least {FILE_SERVER_BUDGET} of the rate without",
            ok=far >= FILE_SERVER_BUDGET * limit,
            note="the SQLite file is opened as it is on EFS: exclusive, WAL, synchronous=FULL, group commit",
        ),
    ]


def on_a_disk(lab: Lab, shim: Path, delay_ms: int) -> tuple[float, float]:
    """Creates a second on a server of its own whose fsync takes longer: of one client, and of `CLIENTS`."""
    env = {"LD_PRELOAD": str(shim), "FSYNC_DELAY_US": str(delay_ms * 1000)}
    server = lab.server(name=f"slow-{delay_ms}", env=env)
    creates(server, clients=4, secs=1)
    rates = creates(server, clients=1, secs=SECS), creates(server, clients=CLIENTS, secs=SECS)
    server.process.terminate()
    return rates


def creates(server: Server, *, clients: int, secs: float) -> float:
    """Committed creates a second."""
    token = server.admin_token
    done = [0] * clients
    until = time.perf_counter() + secs
    body = {"database": "app", "environment": "production", "detail": "UPDATE t SET a = 1 WHERE id = 1"}

    def work(number: int) -> None:
        with Client(server.port, token) as client:
            while time.perf_counter() < until:
                client.expect(201, "POST", "/api/requests", body)
                done[number] += 1

    seconds = in_threads(clients, work)
    return sum(done) / seconds


def compile_shim(where: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BenchFailed(
            "a C compiler is needed to slow the disk down (Debian, Ubuntu: apt-get install gcc libc6-dev)"
        )
    shim = where / "fsync_delay.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(shim), str(SOURCE), "-ldl"], check=True)
    return shim
