"""Jobs that need a pool of trained networks, on a service with a single worker: one training serves all of them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.fixtures.service import QUICK, Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

POOLED: dict[str, Any] = QUICK | {
    "method": {
        "num_iterations": 10, "network": {"width": 16},
        "models": {"kind": "pretrained_pool", "num_networks": 2, "training": {"num_epochs": 1}},
    },
}


def trainings(service: Service) -> list[dict[str, Any]]:
    answer = httpx.get(f"{service.url}/v1/jobs", params={"kind": "experts", "limit": 100}, timeout=30)
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def states(service: Service, job_id: str) -> list[dict[str, Any]]:
    events = httpx.get(f"{service.url}/v1/jobs/{job_id}/events", params={"limit": 100}, timeout=30).json()["data"]
    return [event["data"] for event in events if event["type"] == "job.state"]


def test_jobs_submitted_at_once_share_one_training_and_a_later_one_reuses_it(laptop_service: Service) -> None:
    service = laptop_service
    with ThreadPoolExecutor(2) as clients:
        both = list(clients.map(lambda seed: service.submit(**POOLED, seed=seed), (1, 2)))
    done = [service.finished(job["id"]) for job in both]
    assert [job["state"] for job in done] == ["succeeded", "succeeded"], service.logs()
    (training,) = trainings(service)
    assert training["state"] == "succeeded"
    assert training["parent_id"] in {job["id"] for job in both}
    assert (training["ipc"], training["attempt"]) == (None, 1)
    assert len(training["result"]["summary"]["accuracies"]) == 2

    waited = [job for job in done if job["attempt"] == 2]
    assert waited, "the first one to start had to wait"
    for job in waited:
        assert (job["failures"], job["waiting_for"]) == (0, [])
        told = states(service, job["id"])
        assert [data["state"] for data in told] == ["queued", "running", "waiting", "queued", "running", "succeeded"]
        assert told[2]["waiting_for"] == [training["id"]]

    files = service.artifacts(training["id"])
    assert {(name, file["kind"]) for name, file in files.items()} == {
        ("experts.safetensors", "experts"), ("manifest.json", "manifest"),
    }
    manifest = json.loads(service.download(files["manifest.json"]))
    assert manifest["files"]["experts.safetensors"]["sha256"] == files["experts.safetensors"]["sha256"]

    third = service.finished(service.submit(**POOLED, seed=3)["id"])
    assert (third["state"], third["attempt"]) == ("succeeded", 1), service.logs()
    assert [job["id"] for job in trainings(service)] == [training["id"]]


def test_a_job_whose_training_is_cancelled_fails_and_says_why(laptop_service: Service) -> None:
    service = laptop_service
    method = POOLED["method"] | {
        "models": {"kind": "pretrained_pool", "num_networks": 500, "training": {"num_epochs": 100}, "pool_seed": 1}
    }
    job = service.submit(**(POOLED | {"method": method}))
    (training,) = service.wait_until(lambda: service.job(job["id"])["waiting_for"], 60, "the job waits")
    service.wait_until(lambda: service.job(training)["state"] == "running", 60, "the training runs")
    httpx.post(f"{service.url}/v1/jobs/{training}/cancel", timeout=30)
    done = service.finished(job["id"], 60)
    assert (done["state"], done["error"]["code"]) == ("failed", "experts_failed")
    assert training in done["error"]["message"]
