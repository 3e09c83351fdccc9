"""The kernel's count of processes it ended for want of memory, in the layouts that kernels have."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.memory import oom_kills

pytestmark = pytest.mark.unit


def layout(tmp_path: Path, groups: str, **files: str) -> tuple[Path, Path]:
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(groups)
    (proc / "vmstat").write_text("nr_free_pages 5\noom_kill 9\n")
    for path, text in files.items():
        (cgroups / path).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / path).write_text(text)
    return proc, cgroups


@pytest.mark.parametrize(
    ("groups", "files", "count"),
    [
        ("0::/system.slice/w\n", {"system.slice/w/memory.events": "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"}, 2),
        ("0::/\n", {"memory.events": "oom_kill 1\n"}, 1),
        ("9:cpu:/\n4:memory:/docker/x\n0::/\n", {"memory/docker/x/memory.oom_control": "under_oom 0\noom_kill 4\n"}, 4),
        ("0::/\n", {}, 9),  # no control group keeps a count: the machine's
        ("", {}, 9),
    ],
)
def test_the_count_of_the_own_group_goes_before_the_machines(
    tmp_path: Path, groups: str, files: dict[str, str], count: int
) -> None:
    assert oom_kills(*layout(tmp_path, groups, **files)) == count


def test_a_machine_that_keeps_no_count_has_none(tmp_path: Path) -> None:
    assert oom_kills(tmp_path / "nothing", tmp_path / "nothing") == 0
