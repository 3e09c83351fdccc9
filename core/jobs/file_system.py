"""Which kind of file system a path lies on, as far as the system says: SQLite needs a local one."""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
"""Linux; where it does not exist, nothing is known."""

NETWORK = re.compile(
    r"(nfs|cifs|smb|afs|9p|ceph|lustre|beegfs|gpfs|ocfs|gfs|davfs|fuse\.(sshfs|glusterfs|s3fs|rclone|juicefs)).*"
)
"""Kinds whose files lie on another machine. Locks over them fail silently, and SQLite's shared memory cannot work at all."""


def network_kind(path: Path) -> str | None:
    """The kind of network share that a path lies on, existing or not; None when it is local or nothing is known."""
    try:
        mounts = MOUNTS.read_text()
    except OSError:
        return None
    path = path.resolve()
    kind, depth = "", -1
    for line in mounts.splitlines():
        _, point, found, *_ = line.split()
        folder = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point))
        if path.is_relative_to(folder) and len(folder.parts) >= depth:  # of two on one folder, the later hides the earlier
            kind, depth = found, len(folder.parts)
    return kind if NETWORK.fullmatch(kind) else None
