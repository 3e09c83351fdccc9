"""Reading, listing and cancelling jobs, in every state a worker can bring them into."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from core.jobs import leases, reports
from core.jobs.leases import Lease, LostLeaseError
from core.jobs.metrics import MetricPoint
from core.jobs.models import Job
from core.store.keys import log_key
from tests.fixtures import jobs
from tests.fixtures.api import Api, problem

PROGRESS = {
    "phase": "distilling", "step": 30, "total_steps": 300, "fraction": 0.1, "seconds_per_step": 0.01, "eta_seconds": 2.7,
    "message": "",
}


def in_state(api: Api, state: str) -> str:
    """A job brought into a state the way it gets there in life."""
    job_id: str = api.submit()["id"]
    if state == "waiting":
        with api.database.write() as session:
            session.execute(sa.update(Job).where(Job.id == job_id).values(state="waiting"))
        return job_id
    if state == "queued":
        return job_id
    if state == "cancelled":
        assert api.http.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
        return job_id
    lease = api.claim(job_id)
    finish: dict[str, Callable[[], Any]] = {
        "running": lambda: None,
        "cancelling": lambda: api.http.post(f"/v1/jobs/{job_id}/cancel"),
        "succeeded": lambda: api.succeed(lease),
        "failed": lambda: api.fail(lease),
    }
    finish[state]()
    return job_id


ROUTES = ("", "/attempts", "/events", "/events/stream", "/metrics", "/metrics/series", "/artifacts", "/preview")


class TestGet:
    def test_unknown_ids_are_404_on_every_route(self, api: Api) -> None:
        for job_id in ("nope", "job_", "job_" + "0" * 32, "job_%00", "JOB_" + "0" * 32, "art_" + "0" * 32, "%2e%2e"):
            for path in ROUTES:
                problem(api.http.get(f"/v1/jobs/{job_id}{path}"), 404, "not_found")
            problem(api.http.post(f"/v1/jobs/{job_id}/cancel"), 404, "not_found")

    def test_another_tenants_job_does_not_exist(self, api: Api) -> None:
        other = jobs.create(api.database, tenant="other").id
        for path in ROUTES:
            problem(api.http.get(f"/v1/jobs/{other}{path}"), 404, "not_found")
        problem(api.http.post(f"/v1/jobs/{other}/cancel"), 404, "not_found")
        problem(api.http.get("/v1/jobs", params={"after": other}), 400, "invalid_cursor")
        assert api.http.get("/v1/jobs").json()["data"] == []

    def test_follows_a_worker(self, api: Api) -> None:
        job_id = api.submit()["id"]
        lease = api.claim(job_id)
        api.report(lease, progress=PROGRESS)
        answer = api.http.get(f"/v1/jobs/{job_id}")
        job = answer.json()
        assert answer.headers["retry-after"] == "2"
        assert (job["state"], job["attempt"]) == ("running", 1)
        assert job["progress"] == PROGRESS | {"updated_at": job["progress"]["updated_at"]}
        assert job["progress"]["updated_at"].endswith("Z")
        assert job["started_at"].endswith("Z")
        assert job["durations"]["running"] >= 0

        api.succeed(lease)
        answer = api.http.get(f"/v1/jobs/{job_id}")
        job = answer.json()
        assert "retry-after" not in answer.headers
        assert job["state"] == "succeeded"
        assert job["result"] == {"summary": {"scores": []}, "artifacts": []}
        durations = job["durations"]
        assert durations["total"] == pytest.approx(durations["queued"] + durations["running"], abs=0.002)
        time.sleep(0.05)
        assert api.job(job_id)["durations"] == durations

    def test_shows_the_error_of_a_failed_job(self, api: Api) -> None:
        job = api.job(in_state(api, "failed"))
        assert job["error"] == {
            "code": "diverged", "message": "the loss is not finite", "retryable": False, "attempt": 1, "detail": {},
        }
        assert job["state_reason"] == {"code": "diverged", "message": "the loss is not finite"}
        assert job["failures"] == 1

    def test_unchanged_is_304_and_changed_is_not(self, api: Api) -> None:
        job_id = api.submit()["id"]
        first = api.http.get(f"/v1/jobs/{job_id}")
        tag = first.headers["etag"]
        assert tag == 'W/"1"'
        for candidate in (tag, tag.removeprefix("W/"), f'"x", {tag}', "*"):
            again = api.http.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": candidate})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
            assert "content-type" not in again.headers
        lease = api.claim(job_id)
        seen = {tag}
        for change in (lambda: None, lambda: api.report(lease, progress=PROGRESS), lambda: api.succeed(lease)):
            change()
            answer = api.http.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": ", ".join(seen)})
            assert answer.status_code == 200
            seen.add(answer.headers["etag"])
        assert len(seen) == 4

    def test_attempts(self, api: Api) -> None:
        job_id = api.submit()["id"]
        assert api.http.get(f"/v1/jobs/{job_id}/attempts").json()["data"] == []
        api.fail(api.claim(job_id, "wkr_a"), retry_after_seconds=0.0)
        api.claim(job_id, "wkr_b")
        first, second = api.http.get(f"/v1/jobs/{job_id}/attempts").json()["data"]
        assert (first["number"], first["worker"], first["outcome"]) == (1, "wkr_a", "failed")
        assert first["error"]["code"] == "diverged"
        assert (second["number"], second["worker"], second["outcome"], second["finished_at"]) == (2, "wkr_b", None, None)


class TestList:
    def test_walks_in_both_directions(self, api: Api) -> None:
        made = [jobs.create(api.database, seed=i).id for i in range(7)][::-1]
        forwards: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = api.http.get("/v1/jobs", params={"limit": 3} | after).json()
            forwards += [job["id"] for job in page["data"]]
            assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}
        assert forwards == made

        backwards: list[str] = []
        before = {"before": made[-1]}
        while True:
            page = api.http.get("/v1/jobs", params={"limit": 3} | before).json()
            backwards = [job["id"] for job in page["data"]] + backwards
            if not page["has_more"]:
                break
            before = {"before": page["first_id"]}
        assert backwards == made[:-1]
        between = api.http.get("/v1/jobs", params={"after": made[1], "before": made[5]}).json()
        assert [job["id"] for job in between["data"]] == made[2:5]

    def test_jobs_that_come_in_between_move_nothing(self, api: Api) -> None:
        """Neither skipped nor repeated: a page that begins after a job holds what was older, whatever came since."""
        chance = random.Random(0)
        old = [jobs.create(api.database, seed=i).id for i in range(12)][::-1]
        new: list[str] = []
        walked: list[str] = []
        page = api.http.get("/v1/jobs", params={"limit": 2}).json()
        while True:
            walked += [job["id"] for job in page["data"]]
            if not page["has_more"]:
                break
            new = [jobs.create(api.database).id for _ in range(chance.randrange(4))][::-1] + new
            page = api.http.get("/v1/jobs", params={"limit": 2, "after": page["last_id"]}).json()
        assert walked == old
        seen: list[str] = []
        cursor = old[0]
        while True:
            page = api.http.get("/v1/jobs", params={"limit": 2, "before": cursor}).json()
            if not page["data"]:
                break
            seen = [job["id"] for job in page["data"]] + seen
            cursor = page["first_id"]
        assert seen == new

    def test_jobs_of_one_instant_are_neither_lost_nor_doubled(self, api: Api) -> None:
        made = [jobs.create(api.database).id for _ in range(6)]
        with api.database.write() as session:
            at = session.scalar(sa.select(Job.created_at).limit(1))
            session.execute(sa.update(Job).values(created_at=at))
        walked: list[str] = []
        params: dict[str, Any] = {"limit": 1}
        for _ in made:
            page = api.http.get("/v1/jobs", params=params).json()
            walked += [job["id"] for job in page["data"]]
            params["after"] = page["last_id"]
        assert walked == sorted(made, reverse=True)
        assert not page["has_more"]

    def test_filters(self, api: Api) -> None:
        a = api.submit()["id"]
        b = api.submit(recipe="random")["id"]
        c = api.submit(dataset={"name": "mnist"})["id"]
        api.claim(b)

        def found(query: str) -> set[str]:
            return {job["id"] for job in api.http.get(f"/v1/jobs?{query}").json()["data"]}

        assert found("state=running") == {b}
        assert found("state=running&state=queued") == {a, b, c}
        assert found("state=failed") == set()
        assert found("recipe=random") == {b}
        assert found("dataset=mnist") == {c}
        assert found("recipe=dm&dataset=digits") == {a}

    def test_limits(self, api: Api) -> None:
        empty = api.http.get("/v1/jobs").json()
        assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
        with api.database.write() as session:
            from core.jobs.repository import Jobs

            for i in range(105):
                Jobs(session, "local").create(jobs.spec(seed=i), None)
        for limit, expected in (("", 20), ("?limit=1", 1), ("?limit=100", 100), ("?limit=101", 100), (f"?limit={10**30}", 100)):
            page = api.http.get(f"/v1/jobs{limit}").json()
            assert (len(page["data"]), page["has_more"]) == (expected, True)

    def test_bad_filters_are_422_and_unknown_cursors_400(self, api: Api) -> None:
        for query in ("limit=0", "limit=-1", "limit=x", "limit=1.5", "state=done", "recipe=%00", "dataset=a%20b", "recipe="):
            found = problem(api.http.get(f"/v1/jobs?{query}"), 422, "validation_failed")
            assert found["errors"][0]["pointer"].startswith(f"/query/{query.partition('=')[0]}")
        for cursor in ("x", "job_", "job_" + "0" * 32, "%00", ""):
            for direction in ("after", "before"):
                problem(api.http.get(f"/v1/jobs?{direction}={cursor}"), 400, "invalid_cursor")


class TestCancel:
    def test_what_can_still_stop_stops(self, api: Api) -> None:
        for state, status, result in (
            ("waiting", 200, "cancelled"), ("queued", 200, "cancelled"), ("running", 202, "cancelling"),
            ("cancelling", 202, "cancelling"), ("cancelled", 200, "cancelled"),
        ):
            job_id = in_state(api, state)
            before = jobs.event_types(api.database, job_id)
            answer = api.http.post(f"/v1/jobs/{job_id}/cancel", json={"reason": "not needed"})
            assert (answer.status_code, answer.json()["state"]) == (status, result), state
            assert ("retry-after" in answer.headers) == (status == 202)
            again = api.http.post(f"/v1/jobs/{job_id}/cancel")
            assert (again.status_code, again.json()["state"]) == (status, result), state
            changed = state not in {"cancelling", "cancelled"}
            assert len(jobs.event_types(api.database, job_id)) == len(before) + changed
            if changed:
                assert again.json()["state_reason"] == {"code": "cancelled_by_request", "message": "not needed"}

    def test_what_is_over_is_409_and_shows_the_job(self, api: Api) -> None:
        for state in ("succeeded", "failed"):
            job_id = in_state(api, state)
            found = problem(api.http.post(f"/v1/jobs/{job_id}/cancel"), 409, "job_already_terminal")
            assert (found["job"]["id"], found["job"]["state"]) == (job_id, state)
            assert found["job"]["object"] == "job"

    def test_an_accepted_cancel_wins_over_a_later_result(self, api: Api) -> None:
        job_id = api.submit()["id"]
        lease = api.claim(job_id)
        assert api.http.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
        with pytest.raises(leases.LostLeaseError):
            api.succeed(lease)
        api.cancelled(lease)
        assert api.job(job_id)["state"] == "cancelled"

    def test_a_bad_body_cancels_nothing(self, api: Api) -> None:
        job_id = api.submit()["id"]
        for body, status, code in (
            (b'{"reason": 1}', 422, "validation_failed"), (b'{"why": "x"}', 422, "validation_failed"),
            (b'{"reason": "%s"}' % (b"x" * 501), 422, "validation_failed"), (b"[]", 422, "validation_failed"),
            (b"{", 400, "invalid_json"), (b'{"reason": "\\u0000"}', 400, "invalid_json"),
        ):
            answer = api.http.post(f"/v1/jobs/{job_id}/cancel", content=body, headers={"Content-Type": "application/json"})
            problem(answer, status, code)
        problem(api.http.post(f"/v1/jobs/{job_id}/cancel", content=b"{}"), 415, "unsupported_media_type")
        assert api.job(job_id)["state"] == "queued"


class TestMetrics:
    def test_summaries_and_series(self, api: Api) -> None:
        job_id = api.submit()["id"]
        empty = api.http.get(f"/v1/jobs/{job_id}/metrics").json()
        assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
        lease = api.claim(job_id)
        loss = [MetricPoint("distil/loss", i, 100.0 - i) for i in range(50)]
        api.report(lease, metrics=[*loss, MetricPoint("eval/accuracy", 3, 0.5), MetricPoint("distil/loss", 50, None)])
        distil, accuracy = api.http.get(f"/v1/jobs/{job_id}/metrics").json()["data"]
        assert distil == {
            "name": "distil/loss", "last": None, "step": 50, "best": {"min": 51.0, "max": 100.0}, "count": 51, "diverged": True,
        }
        assert accuracy == {
            "name": "eval/accuracy", "last": 0.5, "step": 3, "best": {"min": 0.5, "max": 0.5}, "count": 1, "diverged": False,
        }
        everything = api.http.get(f"/v1/jobs/{job_id}/metrics/series").json()["series"]
        assert everything["distil/loss"]["values"] == [p.value for p in loss] + [None]
        assert everything["distil/loss"]["attempts"] == [1] * 51
        assert everything["eval/accuracy"] == {"steps": [3], "values": [0.5], "attempts": [1], "count": 1}
        later = api.http.get(f"/v1/jobs/{job_id}/metrics/series?name=distil/loss&after_step=47").json()["series"]
        assert later == {"distil/loss": {"steps": [48, 49, 50], "values": [52.0, 51.0, None], "attempts": [1] * 3, "count": 3}}
        unknown = api.http.get(f"/v1/jobs/{job_id}/metrics/series?name=nope").json()["series"]
        assert unknown == {"nope": {"steps": [], "values": [], "attempts": [], "count": 0}}

    def test_thinning_keeps_the_spike(self, api: Api) -> None:
        job_id = api.submit()["id"]
        lease = api.claim(job_id)
        api.report(lease, metrics=[MetricPoint("loss", i, 1e9 if i == 1234 else 1.0) for i in range(3000)])
        for query, most in (("", 1000), ("&max_points=5", 5), ("&max_points=5000", 3000)):
            series = api.http.get(f"/v1/jobs/{job_id}/metrics/series?name=loss{query}").json()["series"]["loss"]
            assert len(series["steps"]) <= most
            assert series["count"] == 3000
            assert (1234, 1e9) in zip(series["steps"], series["values"], strict=True)
            assert (series["steps"][0], series["steps"][-1]) == (0, 2999)

    def test_a_step_repeated_by_a_later_attempt_is_replaced(self, api: Api) -> None:
        job_id = api.submit()["id"]
        first = api.claim(job_id)
        api.report(first, metrics=[MetricPoint("loss", i, float(i)) for i in range(10)])
        api.fail(first, retry_after_seconds=0.0)
        api.report(api.claim(job_id, "wkr_b"), metrics=[MetricPoint("loss", i, -float(i)) for i in range(5, 12)])
        series = api.http.get(f"/v1/jobs/{job_id}/metrics/series").json()["series"]["loss"]
        assert series["steps"] == list(range(12))
        assert series["attempts"] == [1] * 5 + [2] * 7
        assert series["values"] == [float(i) for i in range(5)] + [-float(i) for i in range(5, 12)]

    def test_limits_and_tags(self, api: Api) -> None:
        job_id = api.submit()["id"]
        url = f"/v1/jobs/{job_id}/metrics/series"
        problem(api.http.get(url, params={"name": [f"m{i}" for i in range(21)]}), 400, "too_many_series")
        assert len(api.http.get(url, params={"name": [f"m{i}" for i in range(20)]}).json()["series"]) == 20
        for query in ("max_points=4", "max_points=5001", "after_step=-2", f"after_step={2**31}", "name=%00", "name="):
            problem(api.http.get(f"{url}?{query}"), 422, "validation_failed")
        for path in (url, f"/v1/jobs/{job_id}/metrics"):
            tag = api.http.get(path).headers["etag"]
            assert api.http.get(path, headers={"If-None-Match": tag}).status_code == 304
        lease = api.claim(job_id)
        api.report(lease, metrics=[MetricPoint(f"m{i:02d}", 1, 1.0) for i in range(21)])
        problem(api.http.get(url), 400, "too_many_series")
        assert api.http.get(url, headers={"If-None-Match": tag}, params={"name": "m00"}).status_code == 200


class TestLogs:
    def log(self, api: Api, lease: Lease, text: bytes, tmp_path: Path) -> None:
        path = tmp_path / "child.log"
        path.write_bytes(text)
        key = log_key(lease.job_id, lease.attempt)
        api.objects.put(key, path)
        with api.database.write() as session:
            reports.add_log(session, lease, key, len(text))

    def test_the_newest_or_that_of_an_attempt_whole_or_its_end(self, api: Api, tmp_path: Path) -> None:
        job_id = api.submit()["id"]
        problem(api.http.get(f"/v1/jobs/{job_id}/logs"), 404, "not_found")
        first = api.claim(job_id)
        self.log(api, first, "one\ntwo\nthr\u00e9e\n".encode(), tmp_path)
        api.fail(first, retry_after_seconds=0.0)
        second = api.claim(job_id)
        problem(api.http.get(f"/v1/jobs/{job_id}/logs", params={"attempt": 2}), 404, "not_found")
        answer = api.http.get(f"/v1/jobs/{job_id}/logs")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.text == "one\ntwo\nthr\u00e9e\n"
        assert api.http.get(f"/v1/jobs/{job_id}/logs", params={"tail": 1}).text == "thr\u00e9e\n"
        self.log(api, second, b"again\n", tmp_path)
        api.fail(second, retry_after_seconds=0.0)
        assert api.http.get(f"/v1/jobs/{job_id}/logs").text == "again\n"
        assert api.http.get(f"/v1/jobs/{job_id}/logs", params={"attempt": 1}).text.startswith("one")
        problem(api.http.get(f"/v1/jobs/{job_id}/logs", params={"attempt": 3}), 404, "not_found")
        sizes = [row["log_bytes"] for row in api.http.get(f"/v1/jobs/{job_id}/attempts").json()["data"]]
        assert sizes == [15, 6]

    def test_nobody_elses_and_none_of_a_lost_lease(self, api: Api, tmp_path: Path) -> None:
        lease = api.claim(api.submit()["id"])
        api.fail(lease, retry_after_seconds=0.0)
        with pytest.raises(LostLeaseError):
            self.log(api, lease, b"late\n", tmp_path)
        assert api.http.get(f"/v1/jobs/{lease.job_id}/logs").text == "", "it ended without a word"
