"""What needs one kind of servers only: determinism, a drain, doubled messages, a missing data set."""

from __future__ import annotations

import signal

import pytest

from tests.fixtures.service import LONG, QUICK, Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture
def service(laptop_service: Service) -> Service:
    return laptop_service


def test_another_seed_gives_other_bytes(service: Service) -> None:
    digests = set()
    for job in [service.submit(**QUICK, seed=seed) for seed in (3, 4)]:
        assert service.finished(job["id"])["state"] == "succeeded"
        digests.add(service.artifacts(job["id"])["data.safetensors"]["sha256"])
    assert len(digests) == 2


def test_a_worker_that_is_told_to_stop_hands_the_job_back(service: Service) -> None:
    job = service.submit(**LONG, seed=12)
    service.at_iteration(job["id"], 1)
    worker = service.newest_worker()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=60) == 0
    handed_back = service.job(job["id"])
    assert (handed_back["state"], handed_back["failures"]) == ("queued", 0)
    service.start_worker()
    done = service.finished(job["id"])
    assert (done["state"], done["attempt"], done["failures"]) == ("succeeded", 2, 0)


def test_the_same_message_twice_is_one_attempt(service: Service) -> None:
    from core.jobs.queue import celery_app, publish
    from core.settings import Settings

    job = service.submit(**QUICK, seed=14)
    settings = Settings(broker_url=service.env["DISTILL_BROKER_URL"])
    app = celery_app(settings)
    for _ in range(20):
        publish(app, job["id"], "cpu", "normal")
    app.close()
    done = service.finished(job["id"])
    assert (done["state"], done["attempt"]) == ("succeeded", 1)


def test_a_failure_says_what_is_missing(service: Service) -> None:
    job = service.submit(dataset={"name": "cifar10"}, ipc=1, recipe="random", scale="small")
    done = service.finished(job["id"])
    assert (done["state"], done["error"]["code"]) == ("failed", "dataset_unreadable")
    assert "cifar-10-batches-py" in done["error"]["message"]


def test_a_job_that_fails_leaves_its_log(service: Service) -> None:
    method = {"optimizer": {"lr_img": 1e6}, "num_iterations": 200, "network": {"norm": "none", "width": 8}}
    job = service.submit(**(QUICK | {"method": method}))
    assert service.finished(job["id"])["error"]["code"] == "diverged"
    log = service.http.get(f"/v1/jobs/{job['id']}/logs", params={"tail": 50})
    assert log.status_code == 200, log.text
    assert "DivergedError" in log.text
