"""Whom TLS connections trust: this machine's authorities, or those that `SSL_CERT_FILE` or `SSL_CERT_DIR` name."""

from __future__ import annotations

import os
import ssl

import httpx2

from dbward.errors import Misconfigured


def context_for(url: str) -> ssl.SSLContext:
    """For a client of that address alone. Reading the authorities takes longer than many a call: plain http, which has
    no use for them, gets a context that trusts nobody. Raises `Misconfigured` as `context` does.
    """
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if url.startswith("http://") else context()


def context() -> ssl.SSLContext:
    """For a client. Raises `Misconfigured` when the authorities cannot be read, or the file holds none."""
    try:
        return httpx2.create_ssl_context()
    except OSError as e:  # a file without certificates is an `SSLError`, which is one
        where, hint = _named()
        why = "it holds no certificate" if isinstance(e, ssl.SSLError) else e.strerror or str(e)
        raise Misconfigured(f"{where} cannot be used: {why}", code="tls.authorities", hint=hint) from e


def _named() -> tuple[str, str]:
    """Where the authorities are looked for, and what to do when they are not there."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if value := os.environ.get(name):  # noqa: TID251 - read by the TLS library, not by dbward
            return f"{name}={value}", f"give it certificates in PEM, or unset {name} to trust whom this machine trusts"
    return "the list of certificate authorities of this machine", "install the package ca-certificates"
