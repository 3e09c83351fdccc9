"""Rows W1 to W16 of the failure table: what must be seen when a worker, or what it runs, fails."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from core.jobs.models import Job
from core.jobs.queue import celery_app, publish
from core.settings import Settings
from tests.faults.boundaries import fake_driver, memory_group, small_disk
from tests.faults.stand import RECOVERY_SECONDS, SLACK_SECONDS, TIME_SCALE, Node, Stand

pytestmark = pytest.mark.faults


def gone(stand: Stand, node: Node) -> None:
    """Wait until no child of a host is left."""
    stand.wait_until(lambda: not node.children(), 5 * TIME_SCALE, f"the children of {node.name} are gone")


def state_of(stand: Stand, node: Node) -> str | None:
    """What a worker's row says."""
    row = stand.row_of(node)
    return None if row is None else str(row["state"])


def sent(stand: Stand, job_id: str) -> bool:
    """Whether a message for a job was published, and that was noted."""
    with stand.database.read() as session:
        return session.scalar(sa.select(Job.sent_at).where(Job.id == job_id)) is not None


def test_w1_killed_between_message_and_claim(stand: Stand) -> None:
    first = stand.serving_worker()
    first.db.stall()
    job = stand.probe()
    stand.wait_until(lambda: sent(stand, job["id"]), 20 + SLACK_SECONDS, "the message is sent")
    stand.wait_until(lambda: stand.messages() == 0, 20 + SLACK_SECONDS, "the message is taken")
    assert stand.state(job["id"]) == "queued"
    first.kill()
    stand.worker()
    stand.succeeded(job["id"], attempts=1)


def test_w2_killed_while_training(stand: Stand) -> None:
    first = stand.serving_worker()
    second = stand.serving_worker()
    job = stand.probe(steps=60)
    stand.stepped(job["id"], 7)
    stand.checkpointed(job["id"])
    owner, other = (first, second) if first.children() else (second, first)
    killed = time.monotonic()
    owner.kill()
    gone(stand, owner)
    # Not "is queued": the other worker may take it between two looks.
    again = "another attempt has begun"
    stand.wait_until(lambda: len(stand.attempts(job["id"])) == 2, RECOVERY_SECONDS + SLACK_SECONDS, again)
    assert time.monotonic() - killed < RECOVERY_SECONDS + SLACK_SECONDS
    done = stand.succeeded(job["id"], attempts=2)
    assert done["failures"] == 1
    lost, finished = stand.attempts(job["id"])
    assert lost["error"]["code"] == "worker_lost"
    assert finished["resumed_from_step"] >= 5
    assert stand.boot_id(other) == finished["worker"]


def test_w3_power_off(stand: Stand) -> None:
    """Simulated: worker and child are killed at one instant, and every connection of the host is cut without a goodbye."""
    first = stand.serving_worker()
    job = stand.probe(steps=40)
    stand.stepped(job["id"], 6)
    children = first.children()
    first.signal(signal.SIGSTOP)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    first.cut_off()
    lost = stand.boot_id(first)
    first.kill()
    stand.worker()
    stand.succeeded(job["id"], attempts=2)

    def shown() -> str:
        return str(stand.http.get(f"/v1/workers/{lost}").json()["state"])

    stand.wait_until(lambda: shown() == "lost", 20 + SLACK_SECONDS, f"the worker is shown as lost (it is {shown()})")


def test_w4_the_child_is_killed_or_crashes(stand: Stand) -> None:
    worker = stand.serving_worker()
    fault = {"kind": "signal", "signal": "SIGSEGV", "step": 6}
    job = stand.probe(fault=fault)
    done = stand.succeeded(job["id"], attempts=2)
    assert [attempt["worker"] for attempt in stand.attempts(done["id"])] == [stand.boot_id(worker)] * 2
    job = stand.probe(fault=fault | {"signal": "SIGKILL", "attempts": 9}, max_attempts=2)
    stand.failed(job["id"], "child_killed", attempts=2)
    stand.succeeded(stand.probe()["id"], attempts=1)
    assert worker.running


def test_w4_a_child_that_the_kernel_ends_for_want_of_memory(stand: Stand) -> None:
    """The worker runs in a control group with a limit; the kernel picks the child."""
    with memory_group(600 << 20) as join:
        worker = stand.host()
        worker.start("worker", "--queues", "cpu")
        assert worker.process is not None
        join(worker.process.pid)
        stand.wait_until(lambda: stand.row_of(worker), 60 + SLACK_SECONDS, "the worker serves")
        job = stand.probe(fault={"kind": "memory", "limit_bytes": 1 << 40, "step": 2})
        stand.failed(job["id"], "host_out_of_memory", attempts=1)
        stand.succeeded(stand.probe(steps=3)["id"], attempts=1)
        assert worker.running


def test_w5_a_device_that_fails(stand: Stand, tmp_path: Path) -> None:
    """Simulated: a driver that lists a GPU which no program can use, so that the self-test fails as it would on a dead one."""
    tools = fake_driver(tmp_path, "GPU-dead")
    sick = stand.host()
    sick.env["PATH"] = f"{tools}:{sick.env['PATH']}"
    sick.start("worker", "--queues", "cpu", "--device", "GPU-dead")
    job = stand.probe(fault={"kind": "exit", "code": 72, "step": 1})
    stand.wait_until(lambda: state_of(stand, sick) == "quarantined", 60 + SLACK_SECONDS, "the worker is quarantined")
    well = stand.serving_worker()
    stand.succeeded(job["id"], attempts=2)
    boots = [stand.boot_id(sick), stand.boot_id(well)]
    assert [attempt["worker"] for attempt in stand.attempts(job["id"])] == boots
    assert stand.attempts(job["id"])[0]["error"]["code"] == "device_fault"
    for other in [stand.probe(steps=2) for _ in range(2)]:
        stand.succeeded(other["id"], attempts=1)
        assert stand.attempts(other["id"])[0]["worker"] == stand.boot_id(well)
    row = stand.row_of(sick)
    assert row is not None
    assert (row["state"], [gpu["uuid"] for gpu in row["devices"]]) == ("quarantined", ["GPU-dead"])
    assert row["quarantined_reason"]
    sick.signal(signal.SIGTERM)
    assert sick.wait() == 0


def test_w5_a_device_that_recovers(stand: Stand) -> None:
    """On the CPU, which passes its self-test at once."""
    worker = stand.serving_worker()
    job = stand.probe(fault={"kind": "exit", "code": 72, "step": 1})
    stand.succeeded(job["id"], attempts=2, seconds=120)
    assert worker.log.read_text().count('"quarantine_lifted"') == 1
    row = stand.row_of(worker)
    assert row is not None
    assert row["quarantined_reason"] is None


def test_w6_out_of_device_memory(stand: Stand) -> None:
    """Simulated: the child's exit code alone; what the detail holds comes from the device's own count."""
    stand.serving_worker()
    job = stand.probe(fault={"kind": "exit", "code": 71, "attempts": 9})
    stand.failed(job["id"], "gpu_out_of_memory", attempts=1)
    job = stand.probe(fault={"kind": "memory", "limit_bytes": 1 << 28, "attempts": 9})
    failed = stand.failed(job["id"], "host_out_of_memory", attempts=1)
    assert failed["error"]["detail"]["peak_memory_bytes"] > 1 << 20


def test_w7_a_hang(stand: Stand) -> None:
    worker = stand.serving_worker(stall_seconds=8 * TIME_SCALE)
    once = stand.probe(steps=8, fault={"kind": "hang", "step": 6})
    stand.succeeded(once["id"], attempts=2)
    assert stand.attempts(once["id"])[0]["error"]["code"] == "stalled"
    always = stand.probe(steps=8, fault={"kind": "hang", "step": 6, "attempts": 9}, max_attempts=5)
    stand.failed(always["id"], "stalled", attempts=2)
    gone(stand, worker)


def test_w8_a_zombie(stand: Stand) -> None:
    """Also trap 5."""
    zombie = stand.serving_worker()
    job = stand.probe(steps=50)
    stand.stepped(job["id"], 7)
    zombie.signal(signal.SIGSTOP)
    stand.in_state(job["id"], "queued", RECOVERY_SECONDS)
    other = stand.worker()
    stand.succeeded(job["id"], attempts=2)
    zombie.signal(signal.SIGCONT)
    gone(stand, zombie)
    stand.wait_until(lambda: "attempt_discarded" in zombie.log.read_text(), 30, "the zombie throws its work away")
    stand.wait_until(lambda: stand.fence_rejections() == 1, 30, "the rejection is counted once")
    assert stand.succeeded(job["id"], attempts=2)["failures"] == 1
    assert stand.swept(job["id"]) == {2}
    other.kill()
    stand.succeeded(stand.probe(steps=3)["id"], attempts=1)
    assert zombie.running


def test_w9_killed_while_it_uploads(stand: Stand) -> None:
    first = stand.serving_worker()
    put = first.store.catch(b"/artifacts/probe.bin")
    job = stand.probe(work={"artifact_bytes": 12 << 20})
    put.wait()
    assert stand.artifacts(job["id"]) == {}
    first.kill()
    put.drop()
    stand.worker()
    stand.succeeded(job["id"], attempts=2)
    assert stand.swept(job["id"]) == {2}


def test_w10_killed_between_upload_and_commit(stand: Stand) -> None:
    first = stand.serving_worker()
    commit = first.db.catch(b"INSERT INTO artifacts")
    job = stand.probe()
    commit.wait()
    assert [key for key in stand.objects.keys(f"jobs/{job['id']}") if key.endswith("attempts/1/artifacts/probe.bin")]
    assert stand.artifacts(job["id"]) == {}
    first.kill()
    commit.drop()
    stand.worker()
    stand.succeeded(job["id"], attempts=2)
    assert stand.swept(job["id"]) == {2}


@pytest.mark.parametrize("committed", [True, False], ids=["after", "before"])
def test_w11_connection_lost_during_the_commit(stand: Stand, committed: bool) -> None:
    worker = stand.serving_worker()
    commit = worker.db.catch(b"COMMIT", after=b"INSERT INTO artifacts", answer=committed)
    job = stand.probe()
    commit.wait()
    if committed:
        stand.in_state(job["id"], "succeeded")
    commit.drop()
    stand.succeeded(job["id"], attempts=1)
    stand.succeeded(stand.probe(steps=2)["id"], attempts=1)
    assert worker.running


@pytest.mark.parametrize("signals", [1, 2])
def test_w12_drain(stand: Stand, signals: int) -> None:
    """A second SIGTERM changes nothing."""
    first = stand.serving_worker()
    job = stand.probe(steps=60)
    stand.stepped(job["id"], 3)
    for _ in range(signals):
        first.signal(signal.SIGTERM)
        time.sleep(0.05)
    assert first.wait(20 + SLACK_SECONDS) == 0
    assert stand.state(job["id"]) == "queued"
    assert not first.children()
    row = stand.row_of(first)
    assert row is not None
    assert row["state"] == "stopped"
    stand.worker()
    done = stand.succeeded(job["id"], attempts=2)
    assert done["failures"] == 0
    given_back, finished = stand.attempts(job["id"])
    assert given_back["outcome"] == "given_back"
    assert finished["resumed_from_step"] >= 3


def test_w12_a_child_that_does_not_stop(stand: Stand) -> None:
    first = stand.serving_worker(drain_seconds=2)
    job = stand.probe(steps=40, seconds_per_step=0.3, fault={"kind": "deaf"})
    stand.stepped(job["id"], 6)
    first.signal(signal.SIGTERM)
    assert first.wait(2 + SLACK_SECONDS) == 0
    assert stand.state(job["id"]) == "queued"
    stand.worker()
    assert stand.succeeded(job["id"], attempts=2)["failures"] == 0


def test_w12_an_operator_drains(stand: Stand) -> None:
    first = stand.serving_worker()
    job = stand.probe(steps=60)
    stand.stepped(job["id"], 3)
    answer = stand.http.post(f"/v1/workers/{stand.boot_id(first)}/drain")
    assert answer.status_code < 300, answer.text
    assert first.wait(20 + SLACK_SECONDS) == 0
    assert stand.state(job["id"]) == "queued"
    stand.worker()
    assert stand.succeeded(job["id"], attempts=2)["failures"] == 0


def test_w13_cancel_while_the_child_computes(stand: Stand) -> None:
    worker = stand.serving_worker()
    job = stand.probe(steps=1000)
    stand.stepped(job["id"], 3)
    asked = time.monotonic()
    assert stand.http.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
    stand.in_state(job["id"], "cancelled", 2)
    assert time.monotonic() - asked < 2 * TIME_SCALE + 1
    gone(stand, worker)
    assert stand.artifacts(job["id"]) == {}
    stand.succeeded(stand.probe(steps=2)["id"], attempts=1)


def test_w13_cancel_and_the_worker_dies(stand: Stand) -> None:
    worker = stand.serving_worker()
    job = stand.probe(steps=1000)
    stand.stepped(job["id"], 3)
    worker.signal(signal.SIGSTOP)
    assert stand.http.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelling"
    worker.kill()
    stand.worker()
    stand.in_state(job["id"], "cancelled", RECOVERY_SECONDS)
    states = [event["data"]["state"] for event in stand.events(job["id"]) if event["type"] == "job.state"]
    assert states == ["queued", "running", "cancelling", "cancelled"]


def test_w14_the_disk_under_the_job_directory_is_full(stand: Stand) -> None:
    worker = stand.host()
    with small_disk(worker.home / "jobs", 8 << 20):
        worker.start("worker", "--queues", "cpu")
        job = stand.probe(fault={"kind": "disk", "limit_bytes": 64 << 20, "step": 1})
        failed = stand.failed(job["id"], "internal", attempts=1)
        assert "disk" in failed["error"]["message"]
        assert str(worker.home) not in failed["error"]["message"]
        stand.wait_until(lambda: not list((worker.home / "jobs").glob("*/job_*")), 10, "the job directory is removed")
        stand.succeeded(stand.probe(steps=3)["id"], attempts=1)
        worker.kill()
        for pid in worker.children():
            os.kill(pid, signal.SIGKILL)
        gone(stand, worker)


def test_trap_24_a_deadline_that_the_child_ignores(stand: Stand) -> None:
    worker = stand.serving_worker()
    job = stand.probe(steps=10_000, timeout_seconds=int(3 * TIME_SCALE), fault={"kind": "deaf", "attempts": 9})
    stand.failed(job["id"], "timeout", attempts=1)
    gone(stand, worker)


def test_trap_6_the_same_host_starts_again(stand: Stand) -> None:
    worker = stand.serving_worker()
    job = stand.probe(steps=40)
    stand.stepped(job["id"], 6)
    before = stand.boot_id(worker)
    worker.kill()
    worker.start("worker", "--queues", "cpu")
    stand.succeeded(job["id"], attempts=2)
    assert stand.boot_id(worker) != before
    stand.wait_until(lambda: len(list((worker.home / "jobs").iterdir())) == 1, 10, "the dead worker's folder is removed")


def test_trap_2_a_short_job_behind_a_long_one(stand: Stand) -> None:
    stand.serving_worker()
    stand.serving_worker()
    long = stand.probe(steps=300)
    stand.stepped(long["id"], 1)
    short = stand.probe(steps=1, seconds_per_step=0.0)
    assert stand.seconds_until(short["id"], "succeeded") < 5 * TIME_SCALE
    assert stand.state(long["id"]) == "running"


def test_w15_a_poisonous_job(stand: Stand) -> None:
    stand.serving_worker(retry_backoff_seconds=2)
    poison = stand.probe(fault={"kind": "signal", "signal": "SIGKILL", "attempts": 9}, max_attempts=3, priority="high")
    others = [stand.probe(steps=3) for _ in range(2)]
    for other in others:
        stand.succeeded(other["id"], attempts=1)
    assert stand.state(poison["id"]) in {"queued", "running"}, "the others went between its attempts"
    failed = stand.failed(poison["id"], "child_killed", attempts=3)
    assert failed["failures"] == 3
    starts = [attempt["started_at"] for attempt in stand.attempts(poison["id"])]
    assert len(set(starts)) == 3


def test_w16_a_hundred_messages_for_one_job(stand: Stand) -> None:
    """Also trap 8."""
    job = stand.probe(steps=5)
    app = celery_app(Settings(broker_url=f"redis://127.0.0.1:{stand.broker.port}/0"))
    for _ in range(100):
        publish(app, job["id"], "cpu", "normal")
    app.close()
    workers = [stand.serving_worker(), stand.worker()]
    stand.succeeded(job["id"], attempts=1)
    stand.wait_until(lambda: stand.messages() == 0, 60 + SLACK_SECONDS, "every message is taken")
    events = stand.events(job["id"])
    assert sum(event["type"] == "attempt.started" for event in events) == 1
    assert not [event for event in events if event["level"] == "error"]
    assert all(worker.running for worker in workers)


def test_trap_22_drain_during_a_checkpoint(stand: Stand) -> None:
    """The upload that is under way when the drain begins is waited for, and the next attempt continues from there."""
    first = stand.serving_worker()
    put = first.store.catch(b"/checkpoints/")
    job = stand.probe(steps=60)
    put.wait()
    first.signal(signal.SIGTERM)
    stand.wait_until(lambda: not first.children(), 20 + SLACK_SECONDS, "the child has stopped")
    put.release()
    assert first.wait(20 + SLACK_SECONDS) == 0
    assert stand.state(job["id"]) == "queued"
    stand.worker()
    assert stand.succeeded(job["id"], attempts=2)["failures"] == 0
    assert stand.attempts(job["id"])[1]["resumed_from_step"] >= 5
    assert stand.swept(job["id"]) == {2}


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_trap_22_cancel_at_the_instant_of_commit(stand: Stand, before: bool) -> None:
    """A cancel that is accepted wins; one that comes when the commit is on its way is refused."""
    worker = stand.serving_worker()
    held = (
        worker.store.catch(b"/artifacts/probe.bin", answer=True) if before
        else worker.db.catch(b"COMMIT", after=b"INSERT INTO artifacts")
    )
    job = stand.probe(steps=5)
    held.wait()
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(stand.http.post(f"/v1/jobs/{job['id']}/cancel")))
    asking.start()
    if before:
        asking.join(20 + SLACK_SECONDS)
    else:
        time.sleep(1)  # it waits for the row that the commit holds
        assert answers == []
    held.release()
    asking.join(20 + SLACK_SECONDS)
    answer = answers[0]
    if before:
        assert (answer.status_code, answer.json()["state"]) == (202, "cancelling")
        stand.in_state(job["id"], "cancelled")
        assert stand.artifacts(job["id"]) == {}
        assert stand.swept(job["id"]) == set()
    else:
        assert (answer.status_code, answer.json()["code"]) == (409, "job_already_terminal")
        stand.succeeded(job["id"], attempts=1)
    ends = [event["data"]["state"] for event in stand.events(job["id"]) if event["type"] == "job.state"]
    assert ("cancelled" in ends) != ("succeeded" in ends)
