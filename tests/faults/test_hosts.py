"""Several GPUs and several hosts. The GPUs are simulated: a driver that lists them; their workers and jobs are real."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.faults.boundaries import fake_driver
from tests.faults.stand import SLACK_SECONDS, Node, Stand

pytestmark = pytest.mark.faults


@pytest.fixture
def fleet(stand: Stand, tmp_path: Path) -> Node:
    """`distill worker --gpus all` on a host with two GPUs."""
    node = stand.host()
    node.env["PATH"] = f"{fake_driver(tmp_path, 'GPU-a', 'GPU-b')}:{node.env['PATH']}"
    node.start("worker", "--gpus", "all")
    return node


def serving(stand: Stand) -> dict[str, dict[str, Any]]:
    """Rows of the workers that are at work, by the GPU of each."""
    query = sa.text("SELECT * FROM workers WHERE state IN ('idle', 'busy') ORDER BY started_at")
    with stand.database.read() as session:
        return {row["devices"][0]["uuid"]: dict(row) for row in session.execute(query).mappings()}


def both(stand: Stand) -> dict[str, dict[str, Any]]:
    stand.wait_until(lambda: serving(stand).keys() == {"GPU-a", "GPU-b"}, 60 + SLACK_SECONDS, "both workers serve")
    return serving(stand)


def test_one_worker_for_each_gpu_which_its_child_sees_by_uuid(stand: Stand, fleet: Node) -> None:
    rows = both(stand)
    made = [stand.probe(steps=40, resources={"gpus": 1}) for _ in range(2)]
    for job in made:
        stand.stepped(job["id"], 1)
    visible = {
        variable.decode()
        for pid in fleet.children() for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if variable.startswith(b"CUDA_VISIBLE_DEVICES=")
    }
    assert visible == {"CUDA_VISIBLE_DEVICES=GPU-a", "CUDA_VISIBLE_DEVICES=GPU-b"}
    for job in made:
        stand.succeeded(job["id"], attempts=1)
    assert {stand.attempts(job["id"])[0]["worker"] for job in made} == {row["boot_id"] for row in rows.values()}
    assert all(row["queues"] == "gpu" and row["software"]["distill-service"] for row in rows.values())
    fleet.signal(signal.SIGTERM)
    assert fleet.wait(20 + SLACK_SECONDS) == 0
    assert serving(stand) == {}


def test_a_worker_that_dies_is_started_again_for_its_gpu(stand: Stand, fleet: Node) -> None:
    before = both(stand)["GPU-b"]
    os.kill(before["pid"], signal.SIGKILL)
    stand.wait_until(lambda: serving(stand)["GPU-b"]["pid"] != before["pid"], 60 + SLACK_SECONDS, "another serves GPU-b")
    assert fleet.running


def test_workers_drain_when_their_parent_is_killed(stand: Stand, fleet: Node) -> None:
    both(stand)
    fleet.kill()
    stand.wait_until(lambda: not serving(stand), 20 + SLACK_SECONDS, "both workers have drained")
    stand.wait_until(lambda: not fleet.processes(), 20 + SLACK_SECONDS, "and are gone")


def test_a_gpu_that_is_not_there_is_refused(stand: Stand, tmp_path: Path) -> None:
    node = stand.host()
    node.env["PATH"] = f"{fake_driver(tmp_path, 'GPU-a')}:{node.env['PATH']}"
    node.start("worker", "--gpus", "GPU-z")
    assert node.wait(60 + SLACK_SECONDS) == 2
    assert "there is no GPU 'GPU-z'; known: 0 = GPU-a" in node.log.read_text()
