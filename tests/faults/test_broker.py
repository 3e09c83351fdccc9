"""Rows B1 to B8: the broker fails, and nothing but time is lost."""

from __future__ import annotations

import time

import pytest

from tests.faults.stand import LEASE_SECONDS, SLACK_SECONDS, Node, Stand

pytestmark = pytest.mark.faults


def test_b1_down_at_submission(stand: Stand) -> None:
    stand.serving_worker()
    stand.broker.stop()
    job = stand.probe(steps=3)
    answer = stand.http.get("/readyz")
    assert answer.status_code == 200
    missed = "broker is missed"
    stand.wait_until(lambda: "broker" in stand.http.get("/readyz").json()["degraded"], 20 + SLACK_SECONDS, missed)
    assert stand.state(job["id"]) == "queued"
    stand.broker.start()
    stand.succeeded(job["id"], attempts=1, seconds=90)


def test_b2_wiped_with_jobs_queued(stand: Stand) -> None:
    """Also trap 23."""
    made = [stand.probe(steps=2, seconds_per_step=0.0) for _ in range(8)]
    stand.wait_until(lambda: stand.messages() >= 8, 20 + SLACK_SECONDS, "every message waits in line")
    with stand.broker.client() as client:
        client.flushall()
    for _ in range(2):
        stand.worker()
    for job in made:
        stand.succeeded(job["id"], attempts=1, seconds=120)


def test_b3_restarted_during_a_job(stand: Stand) -> None:
    worker = stand.serving_worker()
    job = stand.probe(steps=40)
    stand.stepped(job["id"], 3)
    stand.broker.stop()
    time.sleep(1)
    stand.broker.start()
    stand.succeeded(job["id"], attempts=1)
    stand.succeeded(stand.probe(steps=2)["id"], attempts=1, seconds=90)
    assert worker.running


def test_b4_frozen(stand: Stand) -> None:
    worker = stand.serving_worker()
    job = stand.probe(steps=30)
    stand.stepped(job["id"], 3)
    stand.broker.freeze()
    later = stand.probe(steps=2)
    stand.in_state(job["id"], "succeeded", 30)
    stand.broker.thaw()
    stand.succeeded(job["id"], attempts=1)
    stand.succeeded(later["id"], attempts=1, seconds=90)
    assert worker.running


def test_b5_out_of_memory(stand: Stand) -> None:
    worker = stand.serving_worker()
    with stand.broker.client() as client:
        client.config_set("maxmemory", "1")
        job = stand.probe(steps=2)
        time.sleep(12)  # the worker's transport also writes, each ten seconds, and Celery gives up on a refusal
        assert stand.state(job["id"]) == "queued"
        client.config_set("maxmemory", "0")
    stand.succeeded(job["id"], attempts=1, seconds=90)
    assert worker.running


def test_b6_down_for_long(stand: Stand) -> None:
    """Hours are simulated by an outage of several leases."""
    worker = stand.serving_worker()
    job = stand.probe(steps=30)
    stand.stepped(job["id"], 3)
    stand.broker.stop()
    stand.succeeded(job["id"], attempts=1)
    waiting_job = stand.probe(steps=2)
    time.sleep(3 * LEASE_SECONDS)
    assert worker.running
    stand.broker.start()
    stand.succeeded(waiting_job["id"], attempts=1, seconds=120)
    assert stand.attempts(waiting_job["id"])[0]["worker"] == stand.boot_id(worker)


def test_b7_a_message_is_lost_on_its_way(stand: Stand) -> None:
    """The message is popped by the test, as by a consumer that dies before it notes what it holds."""
    job = stand.probe(steps=2)
    stand.wait_until(lambda: stand.messages() == 1, 20 + SLACK_SECONDS, "the message waits in line")
    with stand.broker.client() as client:
        (key,) = stand.message_keys(client)
        assert client.rpop(key)
    stand.worker()
    stand.succeeded(job["id"], attempts=1, seconds=60)


def test_b8_replaced_by_an_empty_server(stand: Stand) -> None:
    worker: Node = stand.serving_worker()
    running = stand.probe(steps=40)
    stand.stepped(running["id"], 3)
    queued = [stand.probe(steps=2) for _ in range(3)]
    stand.broker.stop()
    stand.broker.start()
    stand.succeeded(running["id"], attempts=1)
    for job in queued:
        stand.succeeded(job["id"], attempts=1, seconds=90)
    assert worker.running


def test_trap_1_a_long_job_is_not_delivered_again(stand: Stand) -> None:
    """Redis delivers again what stays unacknowledged for longer than the visibility time-out; a job runs much longer."""
    workers = [stand.serving_worker(visibility_seconds=3) for _ in range(2)]
    job = stand.probe(steps=60, seconds_per_step=0.25)
    stand.succeeded(job["id"], attempts=1, seconds=60)
    assert stand.messages() == 0
    assert all(worker.running for worker in workers)
    logs = "".join(worker.log.read_text() for worker in workers)
    assert (logs.count("attempt_started"), logs.count("nothing_to_claim")) == (1, 0), "the message came once"
