"""What the kernel's list of mounts says about a place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dbward.db.filesystem import Filesystem, choose, filesystem_of

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
25 22 0:22 / /proc rw,nosuid shared:12 - proc proc rw
31 22 0:45 / /data rw,relatime shared:20 - nfs4 127.0.0.1:/ rw,vers=4.1,hard,local_lock=none,addr=127.0.0.1
32 22 0:46 / /old rw,relatime - nfs nas:/with\\040space\\040-\\040and\\040dash rw,vers=3,nolock,local_lock=all
33 22 0:47 / /ssh rw,nosuid,nodev master:3 propagate_from:2 - fuse.sshfs me@host:/ rw,user_id=0
34 22 0:48 / /win rw - cifs //nas/share rw,vers=3.0,soft,nobrl
35 22 0:49 / /box rw - overlay overlay rw,lowerdir=/a - b:/c,upperdir=/d,workdir=/e
broken
"""


@pytest.mark.parametrize(
    ("device", "magic", "kind", "network", "local_locks", "gives_up", "unknown"),
    [
        ((8, 1), None, "ext4", False, set(), set(), False),
        ((0, 45), "nfs", "nfs4", True, set(), set(), False),
        ((0, 46), "nfs", "nfs", True, {"nolock", "local_lock=all"}, set(), False),
        ((0, 47), "fuse", "fuse.sshfs", True, set(), set(), True),
        ((0, 48), "smb3", "cifs", True, {"nobrl"}, {"soft"}, False),
        ((0, 49), None, "overlay", False, set(), set(), False),
        ((0, 49), "nfs", "nfs", True, set(), set(), False),  # the file itself knows better
        ((0, 99), "nfs", "nfs", True, set(), set(), False),  # not listed, as in a chroot
        ((0, 99), None, "", False, set(), set(), False),
    ],
)
def test_the_mount_of_a_device(device, magic, kind, network, local_locks, gives_up, unknown):
    found = choose(MOUNTS, os.makedev(*device), magic)
    assert (found.kind, found.network, found.locks_unknown) == (kind, network, unknown)
    assert (found.local_locks, found.gives_up) == (local_locks, gives_up)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "efs", "cifs", "smb3", "9p", "virtiofs", "ceph", "fuse", "fuse.s3fs"])
def test_what_counts_as_a_network(kind):
    assert Filesystem(kind).network


def test_this_very_machine(tmp_path: Path):
    assert filesystem_of(Path("/proc/self")).kind == "proc"
    assert filesystem_of(tmp_path / "not" / "there") == filesystem_of(tmp_path)
