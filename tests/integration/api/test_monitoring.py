"""GET /metrics: what Prometheus reads, and that it says so when the database is away."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from core.jobs import recovery, totals, workers
from core.jobs.ids import new_id
from core.jobs.models import Job, Tick
from core.settings import Settings
from tests.fixtures.api import Api, serving

pytestmark = pytest.mark.integration


def scrape(api: Api) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels, in the order of their names."""
    answer = api.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text) for sample in family.samples
    }


def test_jobs_queues_and_workers_as_sql_has_them(api: Api) -> None:
    first, _, running, over = (api.submit()["id"] for _ in range(4))
    api.submit(resources={"gpus": 1})
    api.claim(running)
    api.http.post(f"/v1/jobs/{over}/cancel")
    with api.database.write() as session:
        for _ in range(2):
            workers.register(session, new_id("wkr"), "host-a", 1, "cpu")
        session.get_one(Job, first).next_run_at -= timedelta(seconds=100)
        recovery.tick(session, "reconciler")
        session.flush()
        session.get_one(Tick, "reconciler").ticked_at -= timedelta(seconds=50)
    found = scrape(api)
    assert found["distill_database_up",] == 1
    assert found["distill_jobs", "cpu", "queued"] == 2
    assert found["distill_jobs", "gpu", "queued"] == 1
    assert found["distill_jobs", "cpu", "running"] == found["distill_jobs", "cpu", "cancelled"] == 1
    assert 100 <= found["distill_queue_oldest_seconds", "cpu"] < 160
    assert found["distill_queue_oldest_seconds", "gpu"] < 60
    assert found["distill_workers", "idle"] == 2
    assert 50 <= found["distill_reconciler_last_tick_seconds",] < 110
    assert found["process_resident_memory_bytes",] > 1e6


def test_totals_of_attempts_and_jobs(api: Api) -> None:
    done, broken = api.submit()["id"], api.submit()["id"]
    before = scrape(api)
    assert before["distill_leases_expired_total",] == 0
    assert not any(name[0] == "distill_attempts_total" for name in before)
    api.succeed(api.claim(done))
    api.fail(api.claim(broken))
    with api.database.write() as session:
        totals.count_fence_rejection(session, "renew")
    found = scrape(api)
    assert found["distill_attempts_total", "succeeded"] == found["distill_attempts_total", "failed"] == 1
    assert found["distill_jobs_finished_total", "", "dm", "succeeded"] == 1
    assert found["distill_jobs_finished_total", "diverged", "dm", "failed"] == 1
    assert found["distill_fence_rejections_total", "renew"] == 1
    assert found["distill_job_run_seconds_count", "dm"] == found["distill_job_queue_seconds_count", "dm"] == 2
    assert 0 <= found["distill_job_run_seconds_sum", "dm"] < 60


def test_rows_that_no_message_was_sent_for(api: Api) -> None:
    first, second = api.submit()["id"], api.submit()["id"]
    with api.database.write() as session:
        session.get_one(Job, first).sent_at = None
        session.get_one(Job, first).next_run_at -= timedelta(seconds=200)
        recovery.mark_sent(session, second, 0)
    found = scrape(api)
    assert found["distill_outbox_rows",] == 1
    assert 200 <= found["distill_outbox_oldest_seconds",] < 260


def test_requests_are_counted_by_template_and_never_by_id(api: Api) -> None:
    job_id = api.submit()["id"]
    for _ in range(3):
        api.job(job_id)
    api.http.get("/v1/jobs/nope")
    api.http.get(f"/v1/nowhere/{job_id}")
    api.http.request("BREW", "/v1/jobs")
    found = scrape(api)
    assert found["distill_http_requests_total", "POST", "/v1/jobs", "202"] == 1
    assert found["distill_http_requests_total", "GET", "/v1/jobs/{job_id}", "200"] == 3
    assert found["distill_http_requests_total", "GET", "/v1/jobs/{job_id}", "404"] == 1
    assert found["distill_http_requests_total", "GET", "unmatched", "404"] == 1
    assert any(name[0] == "distill_http_requests_total" and name[1] == "other" for name in found)
    assert found["distill_http_request_seconds_count", "/v1/jobs/{job_id}"] == 4
    assert 0 < found["distill_http_request_seconds_sum", "/v1/jobs/{job_id}"] < 60
    assert not any(job_id in label for name in found for label in name)


def test_streams_are_counted_while_they_are_open(api: Api) -> None:
    job_id = api.submit()["id"]
    assert scrape(api)["distill_sse_connections",] == 0
    with httpx.stream("GET", f"{api.url}/v1/jobs/{job_id}/events/stream", timeout=30) as answer:
        received = answer.iter_bytes()  # kept: a generator that is dropped closes the connection
        next(received)
        deadline = time.monotonic() + 60
        while scrape(api)["distill_sse_connections",] != 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        began = scrape(api)["distill_http_request_seconds_count", "/v1/jobs"]
        assert began == 1
    while scrape(api)["distill_sse_connections",] != 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_a_database_only_that_is_said(tmp_path: Path, broker_url: str) -> None:
    settings = Settings(
        home=tmp_path, database_url="postgresql+psycopg://nobody@127.0.0.1:1/nowhere", broker_url=broker_url,
    )
    with serving(settings) as api:
        found = scrape(api)
    assert found["distill_database_up",] == 0
    assert ("distill_sse_connections",) in found
    assert not any(name[0].startswith("distill_jobs") for name in found)
