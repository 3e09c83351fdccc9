"""The process that reads a user's files: no network, no secrets, no more memory, time and files than it needs.

The network is taken away by `unshare --net` (util-linux), as root or in a user namespace of its own; where the kernel or the
container permits neither, a worker says so when it starts and reads files all the same, with the other walls alone: an
environment of a few words, and the limits that the child sets itself before it opens anything (`core.ingest.run`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from worker.child import SOURCE_ROOT

MODULE = "core.ingest.run"
UNSHARE = (("unshare", "--net"), ("unshare", "--user", "--map-current-user", "--net"))
TRY_SECONDS = 10.0


@cache
def without_network() -> tuple[str, ...]:
    """The command in front of a program that takes the network away from it; empty where none works here."""
    for command in UNSHARE:
        if shutil.which(command[0]) is None:
            continue
        try:
            tried = subprocess.run([*command, "true"], capture_output=True, timeout=TRY_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            continue
        if tried.returncode == 0:
            return command
    return ()


def environment(folder: Path, *, threads: int) -> dict[str, str]:
    """The whole environment of such a process; temporary files go to its job directory."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {
        "HOME": str(folder), "TMPDIR": str(folder), "PYTHONPATH": str(SOURCE_ROOT), "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads),
        "MALLOC_ARENA_MAX": "2",  # each arena reserves address space, which is limited
    }
