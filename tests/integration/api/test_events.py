"""Events as pages and as a stream: every number once, in order, whatever is cut and whoever writes."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from api.client.sse import ServerSentEvent, read_events
from core.jobs import events, leases
from core.jobs.database import now
from core.jobs.events import NewEvent
from core.jobs.models import DEFAULT_TENANT, Event, Job
from core.jobs.repository import Jobs
from tests.fixtures.api import Api, problem


@contextmanager
def stream(
    api: Api, job_id: str, last: int | None = None, query: str = ""
) -> Iterator[tuple[httpx.Response, Iterator[ServerSentEvent]]]:
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with api.http.stream("GET", f"/v1/jobs/{job_id}/events/stream{query}", headers=headers) as answer:
        yield answer, read_events(answer.iter_bytes())


def warn(api: Api, lease: leases.Lease, *messages: str) -> None:
    api.report(lease, new_events=[NewEvent("warning", message, {}, "warning") for message in messages])


class TestPages:
    def test_walks_without_gap_or_repetition(self, api: Api) -> None:
        job_id = api.submit()["id"]
        lease = api.claim(job_id)
        warn(api, lease, *(f"w{i}" for i in range(20)))
        api.succeed(lease)
        seen: list[int] = []
        after = 0
        while True:
            page = api.http.get(f"/v1/jobs/{job_id}/events", params={"after": after, "limit": 5}).json()
            seen += [event["seq"] for event in page["data"]]
            assert (page["first_id"], page["last_id"]) == (page["data"][0]["seq"], page["data"][-1]["seq"])
            if not page["has_more"]:
                break
            after = page["last_id"]
        assert seen == list(range(1, 25))
        last = page["data"][-1]
        assert (last["type"], last["data"], last["attempt"], last["level"]) == ("job.state", {"state": "succeeded"}, 1, "info")
        assert last["created_at"].endswith("Z")
        end = api.http.get(f"/v1/jobs/{job_id}/events", params={"after": 24}).json()
        assert end == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}

    def test_cursors_nobody_issued_are_400(self, api: Api) -> None:
        job_id = api.submit()["id"]
        for cursor in ("-1", "x", "2", "1.0", "9" * 30, "%00"):
            for path in ("events", "events/stream"):
                problem(api.http.get(f"/v1/jobs/{job_id}/{path}?after={cursor}"), 400, "invalid_cursor")
        problem(api.http.get(f"/v1/jobs/{job_id}/events/stream", headers={"Last-Event-ID": "2"}), 400, "invalid_cursor")

    def test_two_writers_and_a_reader_that_resumes_see_no_gap(self, api: Api) -> None:
        """Transactions that commit in any order: a number is never visible before a smaller one."""
        job_id = api.submit()["id"]
        api.claim(job_id)
        each = 40

        def write(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(each):
                with api.database.write() as session:
                    job = Jobs(session, DEFAULT_TENANT).get(job_id)
                    events.append(session, job, [NewEvent("warning", "w")] * chance.randint(1, 3), now(session))
                    time.sleep(chance.random() * 0.004)
                time.sleep(chance.random() * 0.002)

        writers = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
        for writer in writers:
            writer.start()
        chance, seen, alive = random.Random(3), [], True
        while alive:
            alive = any(writer.is_alive() for writer in writers)  # before the last look
            after = seen[-1] if seen else 0
            if seen and chance.random() < 0.3:  # a client that lost some of what it had read
                after = chance.choice(seen[-5:])
                del seen[after:]
            while True:
                page = api.http.get(f"/v1/jobs/{job_id}/events", params={"after": after, "limit": chance.randint(1, 50)}).json()
                seen += [event["seq"] for event in page["data"]]
                after = seen[-1] if seen else 0
                if not page["has_more"]:
                    break
        assert len(seen) > 2 * each
        assert seen == list(range(1, len(seen) + 1))


class TestStream:
    def test_follows_a_job_to_its_end(self, api: Api) -> None:
        job_id = api.submit()["id"]
        with stream(api, job_id) as (answer, received):
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "no-cache"
            assert answer.headers["x-accel-buffering"] == "no"
            first = next(received)
            assert (first.id, first.event, first.retry_seconds) == ("1", "job.state", 3.0)
            assert json.loads(first.data)["data"] == {"state": "queued"}
            lease = api.claim(job_id)
            assert [next(received).event for _ in range(2)] == ["attempt.started", "job.state"]
            warn(api, lease, "line one\nline two\r\n\u2028three", "\U0001f600")
            assert json.loads(next(received).data)["message"] == "line one\nline two\r\n\u2028three"
            assert json.loads(next(received).data)["message"] == "\U0001f600"
            api.succeed(lease)
            rest = list(received)  # the server closes
        assert [(e.id, e.event) for e in rest] == [("6", "job.state")]
        assert json.loads(rest[0].data)["data"]["state"] == "succeeded"
        with stream(api, job_id, last=6) as (answer, _):
            assert answer.status_code == 204
        with stream(api, job_id, query="?after=6") as (answer, _):
            assert answer.status_code == 204
        with stream(api, job_id, last=5) as (answer, received):
            assert [e.id for e in received] == ["6"]

    def test_last_event_id_goes_before_after(self, api: Api) -> None:
        job_id = api.submit()["id"]
        api.http.post(f"/v1/jobs/{job_id}/cancel")
        with stream(api, job_id, last=1, query="?after=0") as (_, received):
            assert [e.id for e in received] == ["2"]

    def test_a_stream_cut_at_random_resumes_without_gap_or_repetition(self, api: Api) -> None:
        job_id = api.submit()["id"]
        lease = api.claim(job_id)

        def work() -> None:
            chance = random.Random(1)
            for i in range(60):
                warn(api, lease, *(f"w{i}.{j}" for j in range(chance.randint(1, 4))))
                time.sleep(chance.random() * 0.01)
            api.succeed(lease)

        worker = threading.Thread(target=work)
        worker.start()
        chance, seen = random.Random(2), []
        while True:
            with stream(api, job_id, last=seen[-1] if seen else None) as (answer, received):
                if answer.status_code == 204:
                    break
                for event in received:
                    seen.append(int(event.id))
                    if chance.random() < 0.1:
                        break  # the connection is dropped
        worker.join()
        assert seen == list(range(1, len(seen) + 1))
        assert len(seen) > 60

    def test_more_events_than_one_batch(self, api: Api) -> None:
        job_id = api.submit()["id"]
        lease = api.claim(job_id)
        warn(api, lease, *(f"w{i}" for i in range(450)))
        api.succeed(lease)
        with stream(api, job_id) as (_, received):
            assert [int(e.id) for e in received] == list(range(1, 455))

    def test_many_streams_leave_room_for_requests(self, api: Api) -> None:
        """More streams than the server has threads."""
        job_id = api.submit()["id"]
        ends: list[str] = []

        def follow() -> None:
            with api.http.stream("GET", f"/v1/jobs/{job_id}/events/stream", timeout=120) as answer:
                ends.append(list(read_events(answer.iter_bytes()))[-1].data)

        threads = [threading.Thread(target=follow) for _ in range(60)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        for _ in range(5):
            started = time.monotonic()
            api.job(job_id)
            assert time.monotonic() - started < 2.0
        api.http.post(f"/v1/jobs/{job_id}/cancel")
        for thread in threads:
            thread.join(120)
        assert len(ends) == 60
        assert all(json.loads(end)["data"]["state"] == "cancelled" for end in ends)

    def test_many_streams_cost_one_look(self, api: Api) -> None:
        """Statements do not grow with the streams that wait: one a look, and one more where something happened."""
        job_ids = [api.submit()["id"] for _ in range(3)]
        looked: list[str] = []

        def follow(job_id: str) -> None:
            with api.http.stream("GET", f"/v1/jobs/{job_id}/events/stream", timeout=120) as answer:
                received = read_events(answer.iter_bytes())
                next(received)
                began.release()
                ends.append(list(received)[-1].data)

        def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "events" in statement or "event_seq" in statement:
                looked.append(statement)

        ends: list[str] = []
        began = threading.Semaphore(0)
        threads = [threading.Thread(target=follow, args=(job_ids[i % 3],)) for i in range(45)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert began.acquire(timeout=120)
        time.sleep(0.5)  # every stream has caught up
        sa.event.listen(sa.Engine, "before_cursor_execute", count)
        started = time.monotonic()
        while len(looked) < 10:
            assert time.monotonic() < started + 120
            time.sleep(0.05)
        took = time.monotonic() - started
        sa.event.remove(sa.Engine, "before_cursor_execute", count)
        assert len(looked) <= took / api.settings.stream_seconds + 2, "not one for each stream"
        for job_id in job_ids:
            api.http.post(f"/v1/jobs/{job_id}/cancel")
        for thread in threads:
            thread.join(120)
        assert [json.loads(end)["data"]["state"] for end in ends] == ["cancelled"] * 45

    def test_a_stream_ends_with_its_job(self, api: Api) -> None:
        job_id = api.submit()["id"]
        api.http.post(f"/v1/jobs/{job_id}/cancel")
        with api.database.write() as session:  # as it would look between the last event and a delete
            session.execute(sa.update(Event).where(Event.job_id == job_id, Event.seq == 2).values(type="warning"))
            session.execute(sa.update(Job).where(Job.id == job_id).values(state="running"))
        with stream(api, job_id) as (_, received):
            assert [next(received).id, next(received).id] == ["1", "2"]
            with api.database.write() as session:
                session.execute(sa.update(Job).where(Job.id == job_id).values(state="cancelled", deleted_at=now(session)))
            assert list(received) == []

    def test_a_silent_stream_says_that_it_lives(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("api.jobs.stream.KEEP_ALIVE_SECONDS", 0.05)
        job_id = api.submit()["id"]
        with api.http.stream("GET", f"/v1/jobs/{job_id}/events/stream") as answer:
            text = ""
            for chunk in answer.iter_text():
                text += chunk
                if text.count(": keep-alive\n\n") >= 2:
                    break
        assert text.startswith("retry: 3000\n\nid: 1\nevent: job.state\n")


def test_the_projects_own_client_follows_a_stream(api: Api) -> None:
    from api.client.http import DistillClient

    def work() -> None:
        time.sleep(0.1)
        lease = api.claim(job["id"])
        warn(api, lease, "hello")
        api.succeed(lease)

    with DistillClient(api.url) as client:
        job: dict[str, Any] = client.submit({"dataset": {"name": "digits"}, "ipc": 1, "recipe": "dm"})
        worker = threading.Thread(target=work)
        worker.start()
        assert [event["seq"] for event in client.stream(job["id"])] == [1, 2, 3, 4, 5]
        worker.join()
        assert [event["seq"] for event in client.events(job["id"])] == [1, 2, 3, 4, 5]
        assert client.job(job["id"])["state"] == "succeeded"
