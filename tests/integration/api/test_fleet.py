"""Workers and queues over HTTP."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from core.jobs import workers
from core.jobs.ids import new_id
from core.jobs.models import Job, Worker
from core.jobs.workers import Device
from tests.fixtures import jobs
from tests.fixtures.api import Api, problem

pytestmark = pytest.mark.integration

GPU = Device(uuid="GPU-1", name="NVIDIA H200", memory_bytes=150_000_000_000, driver="570.1")


def register(api: Api, queues: str = "cpu", **values: Any) -> str:
    name = new_id("wkr")
    with api.database.write() as session:
        workers.register(session, name, "host-a", 123, queues, devices=[GPU], software={"torch": "2.13.0"})
        if values:
            session.execute(sa.update(Worker).where(Worker.boot_id == name).values(**values))
    return name


def age(api: Api, name: str, seconds: float) -> None:
    with api.database.write() as session:
        row = session.get_one(Worker, name)
        row.seen_at -= timedelta(seconds=seconds)


class TestWorkers:
    def test_they_are_listed_with_their_silence(self, api: Api) -> None:
        assert api.http.get("/v1/workers").json()["data"] == []
        fresh, stopped, lost = register(api, "cpu,gpu"), register(api, state="stopped"), register(api, state="busy")
        held, held_and_lost = register(api, quarantined_reason="broken"), register(api, quarantined_reason="broken")
        for name in (stopped, lost, held_and_lost):
            age(api, name, api.settings.lease_seconds + 5)
        found = {worker["id"]: worker for worker in api.http.get("/v1/workers").json()["data"]}
        states = [found[name]["state"] for name in (fresh, stopped, lost, held, held_and_lost)]
        assert states == ["idle", "stopped", "lost", "quarantined", "lost"]
        assert found[held]["quarantined_reason"] == "broken"
        assert (found[fresh]["queues"], found[fresh]["devices"]) == (["cpu", "gpu"], [GPU])

    def test_one_with_what_it_does(self, api: Api) -> None:
        name, job_id = register(api), new_id("job")
        with api.database.write() as session:
            workers.beat(session, name, "busy", job_id)
        answer = api.http.get(f"/v1/workers/{name}")
        worker = answer.json()
        assert (worker["id"], worker["host"], worker["pid"], worker["state"]) == (name, "host-a", 123, "busy")
        assert (worker["job_id"], worker["software"], worker["drain_requested"]) == (job_id, {"torch": "2.13.0"}, False)
        tag = {"If-None-Match": answer.headers["etag"]}
        assert api.http.get(f"/v1/workers/{name}", headers=tag).status_code == 304
        with api.database.write() as session:
            workers.beat(session, name, "idle", None)
        assert api.http.get(f"/v1/workers/{name}", headers=tag).json()["state"] == "idle"

    def test_unknown_ones_and_another_tenants_are_404(self, api: Api) -> None:
        for name in ("nope", new_id("wkr"), new_id("job"), register(api, tenant_id="other")):
            problem(api.http.get(f"/v1/workers/{name}"), 404, "not_found")
            problem(api.http.post(f"/v1/workers/{name}/drain"), 404, "not_found")
        assert api.http.get("/v1/workers").json()["data"] == []

    def test_a_drain_reaches_the_worker_with_its_heartbeat(self, api: Api) -> None:
        name, other = register(api), register(api)
        for _ in range(2):
            answer = api.http.post(f"/v1/workers/{name}/drain")
            assert (answer.status_code, answer.json()["drain_requested"], answer.json()["state"]) == (202, True, "idle")
        with api.database.write() as session:
            assert workers.beat(session, name, "draining", None)
            assert not workers.beat(session, other, "idle", None)
        with api.database.write() as session:
            workers.beat(session, name, "stopped", None)
        problem(api.http.post(f"/v1/workers/{name}/drain"), 409, "invalid_state")


class TestQueues:
    def test_empty_queues_are_listed_too(self, api: Api) -> None:
        found = api.http.get("/v1/queues").json()
        assert found["data"][0] == {
            "object": "queue", "name": "cpu", "depth": 0, "delayed": 0, "running": 0, "oldest_seconds": 0.0, "workers": 0,
        }
        assert {queue["name"] for queue in found["data"]} >= {"cpu", "gpu"}

    def test_depth_oldest_age_running_and_who_serves(self, api: Api) -> None:
        old, _, delayed, running, done = (api.submit()["id"] for _ in range(5))
        api.submit(resources={"gpus": 1})
        jobs.create(api.database, tenant="other")
        with api.database.write() as session:
            row = session.get_one(Job, old)
            row.next_run_at -= timedelta(seconds=100)
        api.fail(api.claim(delayed), retry_after_seconds=3600.0)
        api.claim(running)
        api.succeed(api.claim(done))
        register(api, "cpu"), register(api, "cpu,gpu", state="busy")
        for values in ({"state": "draining"}, {"state": "stopped"}, {"drain_requested": True}, {"quarantined_reason": "x"}):
            register(api, "cpu", **values)
        found = {queue["name"]: queue for queue in api.http.get("/v1/queues").json()["data"]}
        cpu = found["cpu"]
        assert (cpu["depth"], cpu["delayed"], cpu["running"], cpu["workers"]) == (2, 1, 1, 2)
        assert 100 <= cpu["oldest_seconds"] < 160
        assert (found["gpu"]["depth"], found["gpu"]["running"], found["gpu"]["workers"]) == (1, 0, 1)
        assert found["gpu"]["oldest_seconds"] < 60
