"""The tiny server, and the agent's parts put together around it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dbward.client.agent_api import AgentApi
from tests.worker.tiny_server import TOKEN, TinyServer, tiny_server


@pytest.fixture
def server() -> Iterator[TinyServer]:
    with tiny_server() as running:
        yield running


@pytest.fixture
def api(server: TinyServer) -> Iterator[AgentApi]:
    api = AgentApi(server.url, TOKEN)
    yield api
    api.close()
