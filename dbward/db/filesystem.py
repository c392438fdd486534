"""Which file system a path is on: on one that other machines mount, memory is not shared, and locks not always."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOUNTINFO: Final = Path("/proc/self/mountinfo")

# statfs(2) f_type. FUSE counts as a network: sshfs, s3fs and the like all look the same from here.
_MAGIC: Final = {
    0x6969: "nfs",
    0xFF534D42: "cifs",
    0xFE534D42: "smb3",
    0x01021997: "9p",
    0x00C36400: "ceph",
    0x0BD00BD3: "lustre",
    0x65735546: "fuse",
}
_NETWORK: Final = frozenset({*_MAGIC.values(), "nfs4", "efs", "virtiofs", "afs", "beegfs", "gfs2", "gpfs", "ocfs2"})
_LOCAL_LOCKS: Final = frozenset({"nolock", "local_lock=all", "local_lock=flock", "local_lock=posix", "nobrl"})
_GIVES_UP: Final = frozenset({"soft", "softerr"})


@dataclass(frozen=True, slots=True)
class Filesystem:
    """`kind` as the kernel names it (`ext4`, `nfs4`, `fuse.sshfs`; empty where it does not tell), and how it is
    mounted.
    """

    kind: str
    options: frozenset[str] = frozenset()

    @property
    def network(self) -> bool:
        """Whether other machines may have it mounted as well."""
        return self.kind in _NETWORK or self.kind.startswith("fuse.")

    @property
    def local_locks(self) -> frozenset[str]:
        """The options that keep locks from other machines: two servers would both own the same file."""
        return self.options & _LOCAL_LOCKS if self.network else frozenset()

    @property
    def gives_up(self) -> frozenset[str]:
        """The options that turn a file server's silence into an I/O error."""
        return self.options & _GIVES_UP if self.network else frozenset()

    @property
    def locks_unknown(self) -> bool:
        """Whether nobody here can tell if a lock is seen by other machines."""
        return self.kind in {"fuse", "9p", "virtiofs"} or self.kind.startswith("fuse.")


def filesystem_of(path: Path) -> Filesystem:
    """That of `path`, or of its nearest parent that exists. Raises OSError."""
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not sys.platform.startswith("linux"):
        return Filesystem("")
    magic = _MAGIC.get(_f_type(there))
    try:
        mounts = MOUNTINFO.read_text(errors="surrogateescape")
    except OSError:
        mounts = ""
    return choose(mounts, there.stat().st_dev, magic)


def choose(mounts: str, device: int, magic: str | None) -> Filesystem:
    """What `mounts`, in the format of /proc/self/mountinfo, says of a device.

    `magic` is what the file itself says, where that is a network: some mounts are not listed, as inside a chroot, and
    the devices of some (btrfs) are not those of their files.
    """
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if len(fields) >= 6 and len(rest) >= 3 and fields[2] == wanted:
            seen = Filesystem(rest[0], frozenset(f"{fields[5]},{rest[2]}".split(",")))
            return seen if seen.network or magic is None else Filesystem(magic, seen.options)
    return Filesystem(magic or "")


def _f_type(path: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = ctypes.create_string_buffer(512)  # struct statfs is 120 bytes; f_type is its first word
    if libc.statfs(os.fsencode(path), result) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(path))
    return ctypes.c_long.from_buffer(result).value & 0xFFFFFFFF
