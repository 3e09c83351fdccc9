"""How often the kernel has ended a process of this worker's control group, or of this machine, for want of memory.

A child that ends by SIGKILL says nothing; that the count has grown since it began tells why.
"""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def oom_kills(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """The kernel's count: of the control group where it keeps one, else of the machine; 0 where it keeps none.

    Args:
        proc: where the kernel tells of processes.
        cgroups: where the control groups are mounted, of either version.
    """
    for line in _lines(proc / "self" / "cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            counted = _count(cgroups / path.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            counted = _count(cgroups / "memory" / path.lstrip("/") / "memory.oom_control")
        else:
            continue
        if counted is not None:
            return counted
    return _count(proc / "vmstat") or 0


def _count(path: Path) -> int | None:
    return next((int(line.split()[1]) for line in _lines(path) if line.startswith("oom_kill ")), None)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
