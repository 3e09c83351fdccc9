"""Rows R1 to R3: the reconciler is away, doubled, or a worker's clock is wrong."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.faults.boundaries import shifted_clock
from tests.faults.stand import LEASE_SECONDS, Node, Stand

pytestmark = pytest.mark.faults


def test_r1_none_is_running(stand: Stand) -> None:
    """Ten minutes are simulated by two leases."""
    stand.reconciler.kill()
    first, second = stand.serving_worker(), stand.serving_worker()
    lost = stand.probe(steps=60)
    stand.stepped(lost["id"], 6)
    owner, other = (first, second) if first.children() else (second, first)
    goes_on = stand.probe(steps=20)
    owner.kill()
    time.sleep(2 * LEASE_SECONDS)
    assert stand.state(lost["id"]) == "running", "nobody gives it away"
    stand.succeeded(goes_on["id"], attempts=1)
    stand.reconciler.start("worker.reconciler")
    stand.succeeded(lost["id"], attempts=2)
    assert other.running


def test_r2_two_are_running(stand: Stand) -> None:
    other = Node(stand, "reconciler-2")
    other.start("worker.reconciler")
    try:
        first = stand.serving_worker()
        job = stand.probe(steps=50)
        stand.stepped(job["id"], 6)
        first.kill()
        with stand.broker.client() as client:
            client.flushall()
        stand.worker()
        done = stand.succeeded(job["id"], attempts=2)
        assert done["failures"] == 1
        queued = [event for event in stand.events(job["id"]) if event["data"].get("state") == "queued"]
        assert len(queued) == 2, "accepted once, given away once"
        assert other.running
    finally:
        other.close()


@pytest.mark.parametrize("seconds", [600, -600])
def test_r3_a_workers_clock_is_off(stand: Stand, tmp_path: Path, seconds: int) -> None:
    """By ten minutes, 200 leases: an hour would also make the S3 server refuse its signatures, whatever leases do."""
    worker = stand.host()
    worker.env |= shifted_clock(tmp_path, seconds)
    worker.start("worker", "--queues", "cpu")
    job = stand.probe(steps=40)
    done = stand.succeeded(job["id"], attempts=1)
    assert done["failures"] == 0
    assert 0 <= done["durations"]["total"] < 300
