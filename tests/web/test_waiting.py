"""What a server answers that does not own its state yet."""

from __future__ import annotations

import pytest

from dbward import VERSION
from dbward.client.answers.agents import Alive, Ready
from web.waiting import REASONS, Phase, waiting_app


@pytest.mark.parametrize("phase", REASONS)
def test_it_lives_and_is_not_ready_and_says_why(phase: Phase) -> None:
    client = waiting_app(lambda: phase).test_client()
    alive = client.get("/health")
    assert alive.status_code == 200
    assert Alive.model_validate(alive.json).version == VERSION
    ready = client.get("/ready")
    assert (ready.status_code, int(ready.headers["Retry-After"]) > 0) == (503, True)
    said = Ready.model_validate(ready.json)
    assert (said.status, said.reason, said.checks) == (phase, REASONS[phase], {})


@pytest.mark.parametrize("phase", REASONS)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/requests"),
        ("POST", "/api/requests"),
        ("DELETE", "/health"),
        ("POST", "/ready"),
        ("GET", "/health/"),
        ("GET", "/metrics"),
        ("GET", "/nothing"),
        ("PUT", "/%00"),
    ],
)
def test_all_the_rest_is_for_later(phase: Phase, method: str, path: str) -> None:
    answer = waiting_app(lambda: phase).test_client().open(path, method=method, data=b"not json")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["x-dbward-version"] == VERSION
    assert answer.json == {
        "error": f"the server is not ready: {REASONS[phase]}",
        "code": f"server.{phase}",
        "hint": "try again shortly",
    }


def test_what_it_says_follows_what_it_waits_for() -> None:
    phases: list[Phase] = ["waiting", "starting"]
    client = waiting_app(lambda: phases.pop(0)).test_client()
    assert [client.get("/ready").json["status"] for _ in range(2)] == ["waiting", "starting"]
