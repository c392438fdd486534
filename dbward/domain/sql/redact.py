"""SQL without its values, for the audit log: strings and numbers become `?`."""

from __future__ import annotations

from hashlib import sha256

from dbward.domain.model import Dialect
from dbward.domain.sql.lex import Kind, tokenize
from dbward.errors import Invalid

_LITERALS = frozenset({Kind.STRING, Kind.NUMBER})
_NUMBER_TAILS = frozenset({Kind.WORD, Kind.NUMBER, Kind.ODD})
_HIDDEN = frozenset({Kind.COMMENT, Kind.HINT})


def redact(text: str, dialect: Dialect) -> str:
    """The text with every string and number replaced, and comments left out: both may hold personal data.

    `"…"` counts as a string where the database may read it as one. What cannot be read is not shown at all:
    `<unparsable, sha256:…, N bytes>`, enough to tell whether a given text was it.
    """
    try:
        tokens = tokenize(text, dialect)
    except Invalid:
        raw = text.encode(errors="surrogatepass")
        return f"<unparsable, sha256:{sha256(raw).hexdigest()[:16]}, {len(raw)} bytes>"
    parts: list[str] = []
    end = 0
    apart = in_number = False
    for token in tokens:
        written = text[token.start : token.end]
        joined = token.start == end
        end = token.end
        if token.kind in _HIDDEN:
            apart = bool(parts)
            continue
        if joined and in_number and token.kind in _NUMBER_TAILS:
            continue  # of something like 1_000 or 0x1f, which older versions read as a number and a name
        in_number = token.kind is Kind.ODD and not written.endswith('"')
        literal = token.kind in _LITERALS or (written.startswith('"') and dialect is not Dialect.POSTGRESQL)
        parts.append(" " if parts and (apart or not joined) else "")
        parts.append("?" if literal or in_number else written)
        apart = False
    return "".join(parts)
