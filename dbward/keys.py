"""The server's two Ed25519 keys: one signs execution tokens, the other the audit log's head and checkpoints.

Both live in `state_dir` as 32 raw bytes, mode 0600: random ones, or those that a seed stands for, which replicas have
in common. `audit-keys.json` keeps the public half of every audit key ever used, so that checkpoints signed before a
rotation still verify.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dbward.errors import Misconfigured
from dbward.settings.secret import Secret

EXECUTION_KEY = "signing.key"
AUDIT_KEY = "audit-signing.key"
AUDIT_KEYRING = "audit-keys.json"


@dataclass(frozen=True, slots=True)
class Keys:
    execution: Ed25519PrivateKey
    audit: Ed25519PrivateKey
    audit_key_id: str
    audit_keyring: Mapping[str, Ed25519PublicKey]

    @property
    def execution_public_hex(self) -> str:
        return self.execution.public_key().public_bytes_raw().hex()


def write_private(path: Path, data: bytes) -> bool:
    """Create `path` with mode 0600 and `data` in one step; False, and nothing changed, when it exists already."""
    draft = _draft(path, data)
    try:
        os.link(draft, path)  # unlike a rename, a link never replaces
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    sync_directory(path.parent)
    return True


def replace_file(path: Path, data: bytes) -> None:
    """Write `path` with mode 0600 so that it holds the old or the new content whatever happens."""
    draft = _draft(path, data)
    draft.replace(path)
    sync_directory(path.parent)


def missing(state_dir: Path) -> list[str]:
    """The names of the key files that are not there."""
    return [name for name in (EXECUTION_KEY, AUDIT_KEY, AUDIT_KEYRING) if not (state_dir / name).exists()]


def from_seed(seed: Secret, purpose: str, length: int) -> bytes:
    """So many bytes that nobody can tell from random ones without the seed; the same for the same purpose."""
    return HKDF(SHA256(), length, salt=b"dbward", info=purpose.encode()).derive(seed.reveal().encode())


def create_seeded(state_dir: Path, seed: Secret) -> None:
    """Write the keys that `seed` stands for where there are none. Raises `Misconfigured` where there are others."""
    execution, audit = (from_seed(seed, purpose, 32) for purpose in ("execution key", "audit key"))
    public = Ed25519PrivateKey.from_private_bytes(audit).public_key().public_bytes_raw()
    key_id = f"k-{sha256(public).hexdigest()[:16]}"
    ring = {"current": key_id, "keys": {key_id: base64.b64encode(public).decode()}}
    for name, data in (
        (EXECUTION_KEY, execution),
        (AUDIT_KEY, audit),
        (AUDIT_KEYRING, json.dumps(ring).encode()),
    ):
        if not write_private(state_dir / name, data) and (state_dir / name).read_bytes() != data:
            raise Misconfigured(
                f"{state_dir / name} is not what `[state] key_seed` stands for",
                code="key.mismatch",
                hint="give the seed that it was made from, or none where it was not made from one",
            )


def create_missing(state_dir: Path, now: datetime) -> None:
    """Make whichever key does not exist yet; an existing one is never touched.

    Only for a state that nothing was signed for yet: a new key proves nothing about what an old one has signed.
    """
    write_private(state_dir / EXECUTION_KEY, Ed25519PrivateKey.generate().private_bytes_raw())
    if not (state_dir / AUDIT_KEY).exists():
        key = Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes_raw()
        key_id = now.strftime("k-%Y%m%d%H%M%S")
        ring = {"current": key_id, "keys": {key_id: base64.b64encode(public).decode()}}
        # The ring first: a crash in between leaves a ring of a key that never was, and the next start makes both anew.
        replace_file(state_dir / AUDIT_KEYRING, json.dumps(ring).encode())
        write_private(state_dir / AUDIT_KEY, key.private_bytes_raw())


def load(state_dir: Path) -> Keys:
    """Both keys and the ring. Raises `Misconfigured` naming the file that is missing or damaged."""
    audit = _read_key(state_dir / AUDIT_KEY)
    key_id, keyring = read_ring(state_dir / AUDIT_KEYRING)
    current = keyring[key_id].public_bytes_raw()
    if current != audit.public_key().public_bytes_raw():
        raise Misconfigured(
            f"{state_dir / AUDIT_KEY} is not the key that {AUDIT_KEYRING} calls current",
            code="key.mismatch",
            hint="restore both files from the same backup",
        )
    return Keys(_read_key(state_dir / EXECUTION_KEY), audit, key_id, keyring)


def read_ring(path: Path) -> tuple[str, Mapping[str, Ed25519PublicKey]]:
    """The id of the current audit key, and every audit key by its id. Raises `Misconfigured`."""
    try:
        ring = json.loads(path.read_bytes())
        keyring = {
            name: Ed25519PublicKey.from_public_bytes(base64.b64decode(value)) for name, value in ring["keys"].items()
        }
        current = ring["current"]
        if current not in keyring:
            raise KeyError(current)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise Misconfigured(f"{path} cannot be read as the ring of audit keys: {e}", code="key.unreadable") from e
    return current, keyring


def _read_key(path: Path) -> Ed25519PrivateKey:
    try:
        return Ed25519PrivateKey.from_private_bytes(path.read_bytes())
    except (OSError, ValueError) as e:
        raise Misconfigured(f"{path} cannot be read as an Ed25519 key: {e}", code="key.unreadable") from e


def _draft(path: Path, data: bytes) -> Path:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)  # of a process that was killed; its mode is not to be trusted
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    return draft


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
