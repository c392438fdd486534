"""The people of an end-to-end test: they talk to a real server over HTTP and put up with its outages."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from time import monotonic
from typing import Any

import httpx2

from tests.support.processes import Server

CROWD = tuple(f"approver{n}" for n in range(8))
TOKENS = {name: f"dbw_{secrets.token_hex(16)}" for name in ("alice", "bob", "carol", *CROWD)}

CONFIG = """
[broker]
lease_secs = 5
start_grace_secs = 5

[[databases]]
name = "app"
environments = ["development", "production"]

[[auth.users]]
id = "alice"
roles = ["requester"]
token = "${TOKEN_ALICE}"

[[auth.users]]
id = "bob"
roles = ["approver"]
token = "${TOKEN_BOB}"

[[auth.users]]
id = "carol"
roles = ["operator", "requester"]
token = "${TOKEN_CAROL}"

[[workflows]]
environment = "development"
[workflows.auto_approve]
mode = "always"

[[workflows]]
environment = "production"
[[workflows.steps]]
approvers = [{ role = "approver", min = 1 }]
"""
"""alice asks, bob approves, carol watches. Leases are short: what a crash leaves behind is found in seconds."""

CROWDED = CONFIG + "".join(
    f"""
[[auth.users]]
id = "{name}"
roles = ["approver"]
token = "${{TOKEN_{name.upper()}}}"
"""
    for name in CROWD
)
"""The same, and eight more who approve."""

TERMINAL = {"executed", "failed", "rejected", "cancelled", "expired", "execution_lost"}


@dataclass(slots=True)
class People:
    server: Server

    @staticmethod
    def tokens_env() -> dict[str, str]:
        return {f"TOKEN_{name.upper()}": token for name, token in TOKENS.items()}

    def call(self, who: str, method: str, path: str, body: Any = None) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {TOKENS[who]}"}
        return httpx2.request(method, self.server.url + path, json=body, headers=headers, timeout=40)

    def ask(self, who: str, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The answer to a call that must succeed."""
        response = self.call(who, method, path, body)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text[:500]}"
        answer: dict[str, Any] = response.json()
        return answer

    def submit(self, sql: str, environment: str = "production", who: str = "alice", **more: Any) -> dict[str, Any]:
        body = {"database": "app", "environment": environment, "detail": sql, **more}
        return self.ask(who, "POST", "/api/requests", body)

    def submit_and_approve(self, sql: str) -> str:
        request_id: str = self.submit(sql)["id"]
        self.ask("bob", "POST", f"/api/requests/{request_id}/approve", {})
        return request_id

    def resume_despite_outage(self, request_id: str) -> None:
        """Resume; the server may die before it can answer."""
        try:
            self.ask("alice", "POST", f"/api/requests/{request_id}/resume", {})
        except httpx2.TransportError:
            return

    def resume_if_it_was_not(self, request_id: str) -> None:
        """What a person does whose resume got no answer: look, and ask again when nothing came of it."""
        if self.show(request_id)["status"] == "approved":
            self.ask("alice", "POST", f"/api/requests/{request_id}/resume", {})

    def show(self, request_id: str, wait: int = 0) -> dict[str, Any]:
        return self.ask("carol", "GET", f"/api/requests/{request_id}?wait={wait}")

    def await_end(self, request_id: str, secs: float = 90) -> str:
        """The status it ends in, by the long-poll that clients use."""
        deadline = monotonic() + secs
        while monotonic() < deadline:
            try:
                status: str = self.show(request_id, wait=10)["status"]
            except httpx2.TransportError:
                continue
            if status in TERMINAL:
                return status
        raise AssertionError(f"{request_id} is stuck: {self.show(request_id)}")

    def assert_record_is_whole(self, request_id: str) -> None:
        """The chain verifies, and says one thing at most about how the request's execution ended."""
        verdict = self.ask("carol", "GET", "/api/audit/verify")
        assert verdict["valid"], verdict
        events = self.ask("carol", "GET", f"/api/audit/events?request_id={request_id}&limit=200")["events"]
        kinds = [event["event_type"] for event in events]
        assert kinds.count("execution.started") == 1, kinds
        assert sum(kinds.count(f"execution.{end}") for end in ("completed", "failed", "lost")) == 1, kinds

    def queue_is_empty(self) -> bool:
        queues = self.ask("carol", "GET", "/api/agents")["queues"]
        return all(queue["ready"] == queue["leased"] == queue["dead"] == 0 for queue in queues)
