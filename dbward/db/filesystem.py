"""Which file system a path is on: a log index in shared memory is wrong on one that other machines mount."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

# statfs(2) f_type. FUSE counts as a network: sshfs, s3fs and the like all look the same from here.
_NETWORK = {
    0x6969: "NFS",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x01021997: "9p",
    0x00C36400: "Ceph",
    0x0BD00BD3: "Lustre",
    0x65735546: "FUSE",
}


def filesystem_type(path: Path) -> int:
    """The `f_type` of the file system that holds `path`, 0 where the system does not tell. Raises OSError."""
    if not sys.platform.startswith("linux"):
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    result = ctypes.create_string_buffer(512)  # struct statfs is 120 bytes; f_type is its first word
    if libc.statfs(os.fsencode(path), result) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(path))
    return ctypes.c_long.from_buffer(result).value & 0xFFFFFFFF


def network_name(f_type: int) -> str | None:
    """The name of the network file system, or None for a local one."""
    return _NETWORK.get(f_type)
