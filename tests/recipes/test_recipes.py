"""Every recipe runs as a job over HTTP and is reported beside its baselines under the same protocol. Run by `make recipes`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.specs.recipes import RECIPES
from tests.fixtures.service import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SHORT = {"num_eval": 1, "num_epochs": 20, "random_draws": 2, "check_8bit": False, "baseline_training": {"num_epochs": 2}}
ITERATIONS = 20
CORESETS = {"random", "herding", "k_center", "forgetting", "k_means", "mosaic"}


def overrides(recipe: str) -> dict[str, Any]:
    return {} if recipe in CORESETS else {"num_iterations": ITERATIONS}


@pytest.fixture(scope="module")
def jobs(laptop_service: Service) -> dict[str, str]:
    """All of them at once: they wait for their pools, and share them."""
    return {
        recipe: laptop_service.submit(
            dataset={"name": "digits"}, ipc=2, recipe=recipe, scale="small", method=overrides(recipe),
            evaluation=SHORT | {"baselines": ["herding", "k_center", "forgetting", "mosaic"]},
        )["id"]
        for recipe in sorted(RECIPES)
    }


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_runs_and_is_reported_beside_its_baselines(recipe: str, jobs: dict[str, str], laptop_service: Service) -> None:
    job = laptop_service.finished(jobs[recipe], seconds=500)
    assert job["state"] == "succeeded", (job["error"], laptop_service.logs())
    report = json.loads(laptop_service.download(laptop_service.artifacts(job["id"])["report.json"]))
    names = [score["name"] for score in report["scores"]]
    assert names == ["distilled", "random", "herding", "k_center", "forgetting", "mosaic"]
    assert all(score["mean"] > 0.1 for score in report["scores"])
    assert len({score["network"] for score in report["scores"]}) == 1


def test_pools_are_trained_once(jobs: dict[str, str], laptop_service: Service) -> None:
    import httpx

    for job_id in jobs.values():
        laptop_service.finished(job_id, seconds=500)
    listed = httpx.get(f"{laptop_service.url}/v1/jobs", params={"limit": 100}, timeout=30).json()["data"]
    pools = [job for job in listed if job["kind"] == "experts"]
    contents = [json.dumps(job["spec"]["pool"], sort_keys=True) for job in pools]
    assert len(contents) == len(set(contents))
    assert all(job["state"] == "succeeded" for job in pools)
