"""The edges of the machine that a test can move: memory, disk, the clock, and what a driver says."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

V2 = Path("/sys/fs/cgroup")
V1 = V2 / "memory"

CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long offset(void) { const char *text = getenv("CLOCK_OFFSET_SECONDS"); return text ? atol(text) : 0; }
int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, at);
    if (!code && id == CLOCK_REALTIME) at->tv_sec += offset();
    return code;
}
int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Callable[[int], None]]:
    """A control group with a limit of memory and no swap; the value puts a process into it, with what it starts later."""
    name = f"distill-{uuid4().hex[:8]}"
    if (V2 / "cgroup.controllers").exists() and "memory" in (V2 / "cgroup.subtree_control").read_text().split():
        group, limits = V2 / name, {"memory.max": limit_bytes, "memory.swap.max": 0}
    elif V1.is_dir():
        own = next(line.split(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line)
        group, limits = V1 / own.lstrip("/") / name, {"memory.limit_in_bytes": limit_bytes}
    else:
        pytest.skip("control groups for memory are not available")
    try:
        group.mkdir()
        for file, value in limits.items():
            (group / file).write_text(str(value))
    except OSError as error:
        pytest.skip(f"a control group cannot be made here: {error.strerror}")

    def join(pid: int) -> None:
        (group / "cgroup.procs").write_text(str(pid))

    try:
        yield join
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(pid)
        group.rmdir()


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int, owner: str = "") -> Iterator[None]:
    """A file system of a few bytes at a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)], check=False, capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.strip()}")
    try:
        if owner:
            shutil.chown(folder, owner)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fake_driver(folder: Path, *uuids: str) -> Path:
    """A folder for `PATH` with an `nvidia-smi` that lists these GPUs in the real one's words."""
    tools = folder / "driver"
    tools.mkdir()
    rows = "\n".join(f"{uuid}, NVIDIA H200, 143771, 570.86.15" for uuid in uuids)
    program = tools / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{rows}\nEND\n")
    program.chmod(0o755)
    return tools


def shifted_clock(folder: Path, seconds: int) -> dict[str, str]:
    """Variables under which a process reads a wall clock that is off; compiled on the spot."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("a C compiler is needed to shift a clock")
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": os.fspath(library), "CLOCK_OFFSET_SECONDS": str(seconds)}
