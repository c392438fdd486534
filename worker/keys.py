"""The server's public key as this process knows it."""

from __future__ import annotations

import logging
from threading import Lock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dbward.client.agent_api import AgentApi
from dbward.errors import DbwardError
from worker.job import parse_key

log = logging.getLogger("dbward.agent")


class ServerKey:
    """Fetched at start; fetched again when a signature does not match, so that a rotation needs no restart here."""

    def __init__(self, api: AgentApi, key: Ed25519PublicKey) -> None:
        self._api = api
        self._key = key
        self._lock = Lock()

    @property
    def current(self) -> Ed25519PublicKey:
        return self._key

    def refetch(self) -> bool:
        """Whether the server has another key now. One attempt: a job waits for it."""
        with self._lock:
            try:
                key = parse_key(self._api.public_key())
            except DbwardError as e:
                log.warning("the server's public key could not be fetched again: %s", e.message)
                return False
            if key.public_bytes_raw() == self._key.public_bytes_raw():
                return False
            log.warning("the server signs with another key now; it was fetched again")
            self._key = key
            return True
