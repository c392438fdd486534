"""HTTP to an identity provider: JSON documents and form posts, bounded in time and size, and never redirected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from time import monotonic
from typing import Any, Final

import httpx2

from dbward import trust
from dbward.errors import Unavailable

MAX_BYTES: Final = 512 * 1024
STEP_SECS: Final = 5.0
TOTAL_SECS: Final = 10.0


class ProviderDown(Unavailable):
    """The provider cannot be reached, or does not answer as one does."""

    code = "auth.provider_unavailable"

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"the identity provider {what}", hint="try again shortly; a dbward token works without the provider"
        )


def open_client(transport: httpx2.BaseTransport | None = None) -> httpx2.Client:
    """The connections to one provider. A redirect is an answer like any other, and not the one that was wanted.

    Raises `Misconfigured` where TLS has nobody to trust.
    """
    return httpx2.Client(
        headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        timeout=httpx2.Timeout(STEP_SECS),
        follow_redirects=False,
        verify=trust.context() if transport is None else True,
        transport=transport,
    )


def fetch(http: httpx2.Client, url: str) -> dict[str, Any]:
    """The JSON object at `url`. Raises `ProviderDown` when there is none."""
    status, body = _call(http, "GET", url, None)
    if status != 200 or body is None:
        raise ProviderDown(f"answered HTTP {status} to a request for its settings or keys")
    return body


def post(http: httpx2.Client, url: str, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Status and JSON object, an empty one when the answer holds none. Raises `ProviderDown` when there is no answer
    or one that is neither success nor a refusal."""
    status, body = _call(http, "POST", url, form)
    if not (200 <= status < 300 or 400 <= status < 500):
        raise ProviderDown(f"answered HTTP {status}")
    return status, body or {}


def _call(
    http: httpx2.Client, method: str, url: str, form: Mapping[str, str] | None
) -> tuple[int, dict[str, Any] | None]:
    deadline = monotonic() + TOTAL_SECS
    raw = bytearray()
    try:
        with http.stream(method, url, data=None if form is None else dict(form)) as response:
            # Never unpacked: a few bytes may stand for very many.
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise ProviderDown("compresses its answers although it was asked not to")
            for chunk in response.iter_raw():
                raw += chunk
                if len(raw) > MAX_BYTES:
                    raise ProviderDown(f"sent more than {MAX_BYTES} bytes")
                if monotonic() > deadline:
                    raise ProviderDown("answers too slowly")
            status = response.status_code
    except httpx2.TimeoutException:
        raise ProviderDown("does not answer in time") from None
    except RuntimeError:  # a reload of the settings has closed the connections meanwhile
        raise ProviderDown("is another one now") from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as e:
        raise ProviderDown(f"cannot be reached ({type(e).__name__})") from e
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    return status, body if isinstance(body, dict) else None
