from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.client.errors import ClientError
from api.client.http import DistillClient
from tests.unit.client.contract_server import ContractServer

pytestmark = pytest.mark.unit

SPEC = {"dataset": {"name": "digits"}, "ipc": 1, "recipe": "dm"}


@pytest.fixture
def client(service: ContractServer) -> Iterator[DistillClient]:
    with DistillClient(backoff_seconds=0.001, poll_seconds=0.01, patience_seconds=1.0, timeout_seconds=5.0) as client:
        yield client


class TestSubmit:
    def test_a_refusal_carries_the_problem_and_is_not_repeated(self, service: ContractServer, client: DistillClient) -> None:
        errors = [{"pointer": "/ipc", "code": "less_than", "message": "must be at least 1"}]
        service.faults.append(lambda h: h.problem(422, "validation_failed", "one field is wrong", errors=errors))
        with pytest.raises(ClientError) as caught:
            client.submit(SPEC)
        assert caught.value.code == "validation_failed"
        assert caught.value.status == 422
        assert caught.value.problems == [("/ipc", "must be at least 1")]
        assert len(service.requests) == 1

    def test_lost_answers_and_server_errors_are_repeated_with_one_key(
        self, service: ContractServer, client: DistillClient
    ) -> None:
        service.faults += [
            lambda h: h.drop(),
            lambda h: h.problem(500, "internal", "oops", retryable=False),
            lambda h: h.problem(429, "rate_limited", "slower"),
            lambda h: h.problem(409, "idempotency_in_progress", "the first request still runs", retryable=True),
        ]
        job = client.submit(SPEC)
        assert job["state"] == "queued"
        keys = {request.headers["Idempotency-Key"] for request in service.sent("POST", "/v1/jobs")}
        assert len(service.requests) == 5
        assert len(keys) == 1
        assert list(service.jobs) == [job["id"]]

    def test_two_submissions_have_two_keys_and_a_given_key_is_used(
        self, service: ContractServer, client: DistillClient
    ) -> None:
        first, second = client.submit(SPEC), client.submit(SPEC)
        again = [client.submit(SPEC, idempotency_key="mine") for _ in range(2)]
        assert len({first["id"], second["id"], again[0]["id"]}) == 3
        assert again[0]["id"] == again[1]["id"]

    def test_a_quota_is_not_waited_for(self, service: ContractServer, client: DistillClient) -> None:
        service.faults.append(lambda h: h.problem(429, "quota_exceeded", "too many jobs", retryable=False))
        with pytest.raises(ClientError, match="too many jobs"):
            client.submit(SPEC)
        assert len(service.requests) == 1

    def test_retry_after_is_honoured(
        self, service: ContractServer, client: DistillClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits: list[float] = []
        monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
        service.faults += [
            lambda h: h.raw(503, b"", Retry_After="7"),
            lambda h: h.raw(503, b"", Retry_After="86400"),
        ]
        client.submit(SPEC)
        assert waits[0] == pytest.approx(7.0, abs=0.1)
        assert waits[1] == pytest.approx(30.0, abs=0.1)

    def test_gives_up_after_max_tries(self, service: ContractServer, client: DistillClient) -> None:
        service.faults += [lambda h: h.raw(502, b"<html>bad gateway</html>")] * 5
        with pytest.raises(ClientError, match=r"HTTP 502 Bad Gateway from http://127\.0\.0\.1"):
            client.submit(SPEC)
        assert len(service.requests) == 5

    def test_nan_is_refused_before_it_is_sent(self, service: ContractServer, client: DistillClient) -> None:
        with pytest.raises(ClientError, match="not JSON"):
            client.submit({"method": {"lr": float("nan")}})
        assert service.requests == []


class TestReaching:
    def test_nobody_there_names_the_url_and_the_way_out(self) -> None:
        with (
            DistillClient("http://127.0.0.1:1", max_tries=2, backoff_seconds=0.001) as client,
            pytest.raises(ClientError, match=r"http://127\.0\.0\.1:1 .*`distill up`") as caught,
        ):
            client.job("job_1")
        assert caught.value.code == "unreachable"
        assert caught.value.retryable

    @pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://[::1"])
    def test_what_is_no_url_is_refused(self, url: str) -> None:
        with pytest.raises(ClientError, match="is not a URL"):
            DistillClient(url)

    def test_another_web_server_is_recognised(self, service: ContractServer, client: DistillClient) -> None:
        service.faults.append(lambda h: h.raw(200, b"<html>hello</html>"))
        with pytest.raises(ClientError, match="not as a Distill Service does"):
            client.job("job_1")

    def test_a_proxy_of_the_environment_is_not_asked_for_loopback(
        self, service: ContractServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        service.add_job()
        with DistillClient(max_tries=1) as client:
            assert client.job("job_1")["state"] == "succeeded"

    def test_the_key_is_sent_and_ids_are_quoted(self, service: ContractServer) -> None:
        with DistillClient(api_key="secret") as client, pytest.raises(ClientError):
            client.job("../v1/x?y")
        assert service.requests[0].headers["Authorization"] == "Bearer secret"
        assert service.requests[0].path == "/v1/jobs/..%2Fv1%2Fx%3Fy"


class TestLists:
    def test_pages_are_followed_up_to_the_limit(self, service: ContractServer, client: DistillClient) -> None:
        for number in range(250):
            service.add_job(f"job_{number}", state="failed" if number % 2 else "succeeded")
        assert len(list(client.jobs(limit=None))) == 250
        assert [job["id"] for job in client.jobs(limit=120)][-1] == "job_130"
        assert {job["state"] for job in client.jobs(states=["failed"], limit=10)} == {"failed"}

    def test_events_are_read_page_by_page(self, service: ContractServer, client: DistillClient) -> None:
        service.add_job()
        for step in range(205):
            service.add_event("job_1", "job.progress", {"step": step})
        assert [event["seq"] for event in client.events("job_1", after=3)] == list(range(4, 206))


class TestStream:
    def finished_job(self, service: ContractServer, events: int = 7) -> None:
        service.add_job()
        for step in range(events - 1):
            service.add_event("job_1", "job.progress", {"step": step}, message="a\u2028b")
        service.add_event("job_1", "job.state", {"state": "succeeded"})

    def test_an_unknown_job_is_an_error(self, service: ContractServer, client: DistillClient) -> None:
        with pytest.raises(ClientError) as caught:
            list(client.stream("job_9"))
        assert caught.value.code == "not_found"

    def test_each_event_comes_once_and_204_ends_it(self, service: ContractServer, client: DistillClient) -> None:
        self.finished_job(service)
        assert [event["seq"] for event in client.stream("job_1")] == [1, 2, 3, 4, 5, 6, 7]
        asked = [r.headers["Last-Event-ID"] for r in service.sent("GET", "/v1/jobs/job_1/events/stream")]
        assert asked == ["0", "7"]

    def test_dropped_streams_go_on_after_the_last_event(self, service: ContractServer, client: DistillClient) -> None:
        self.finished_job(service)
        service.events_per_stream = 3
        assert [event["seq"] for event in client.stream("job_1")] == [1, 2, 3, 4, 5, 6, 7]
        asked = [r.headers["Last-Event-ID"] for r in service.sent("GET", "/v1/jobs/job_1/events/stream")]
        assert asked == ["0", "3", "6", "7"]

    def test_a_restarting_service_is_survived(self, service: ContractServer, client: DistillClient) -> None:
        self.finished_job(service)
        trouble: list[str] = []
        service.faults += [lambda h: h.drop(), lambda h: h.raw(503, b"")]
        assert len(list(client.stream("job_1", on_trouble=trouble.append))) == 7
        assert len(trouble) == 2

    @pytest.mark.parametrize("streams", [False, True])
    def test_where_streams_do_not_work_it_asks_again_and_again(
        self, service: ContractServer, client: DistillClient, streams: bool
    ) -> None:
        self.finished_job(service, events=150)
        service.streams = streams
        if streams:  # they are offered, but something in between cuts each of them
            service.faults += [lambda h: h.drop()] * 3
        assert [event["seq"] for event in client.stream("job_1")] == list(range(1, 151))
        assert service.sent("GET", "/v1/jobs/job_1/events")

    def test_an_absent_service_ends_the_patience(self, service: ContractServer) -> None:
        self.finished_job(service)
        service.faults += [lambda h: h.drop()] * 10_000
        with (
            DistillClient(max_tries=2, backoff_seconds=0.001, poll_seconds=0.01, patience_seconds=0.2) as client,
            pytest.raises(ClientError, match="failed"),
        ):
            list(client.stream("job_1"))

    def test_wait_returns_the_terminal_job(self, service: ContractServer, client: DistillClient) -> None:
        self.finished_job(service)
        assert client.wait("job_1")["state"] == "succeeded"


class TestDownload:
    content = os.urandom(3_000_000)

    def test_wrong_bytes_are_refused_and_removed(self, service: ContractServer, client: DistillClient, tmp_path: Path) -> None:
        artifact = service.add_artifact("data.parquet", self.content, sha256="0" * 64)
        with pytest.raises(ClientError, match="SHA-256") as caught:
            client.download(artifact, tmp_path)
        assert caught.value.code == "digest_mismatch"
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["../evil", "a/b", "..", ".hidden", "", "c:\\x", "a\0b"])
    def test_a_name_that_leaves_the_folder_is_refused(
        self, service: ContractServer, client: DistillClient, tmp_path: Path, name: str
    ) -> None:
        artifact = service.add_artifact(name, b"x")
        with pytest.raises(ClientError, match="plain file name"):
            client.download(artifact, tmp_path / "in")
        assert not (tmp_path / "evil").exists()

    def test_a_cut_download_goes_on_where_it_stopped(
        self, service: ContractServer, client: DistillClient, tmp_path: Path
    ) -> None:
        artifact = service.add_artifact("data.parquet", self.content)
        # More cuts than tries: what counts is a try that brings nothing.
        service.cut_content_after += [400_000] * 6
        path = client.download(artifact, tmp_path)
        assert path.read_bytes() == self.content
        assert [p.name for p in tmp_path.iterdir()] == ["data.parquet"]
        sent = service.sent("GET", f"/v1/artifacts/{artifact['id']}/content")
        assert len(sent) == 7
        assert all(r.headers["If-Range"] == f'"sha256-{artifact["sha256"]}"' for r in sent[1:])
        starts = [int(r.headers["Range"].removeprefix("bytes=").rstrip("-")) for r in sent[1:]]
        assert starts == sorted(starts)
        assert starts[0] > 0

    def test_a_download_that_never_moves_is_given_up(
        self, service: ContractServer, client: DistillClient, tmp_path: Path
    ) -> None:
        artifact = service.add_artifact("data.parquet", self.content)
        service.cut_content_after += [0] * 50
        with pytest.raises(ClientError, match="connection to"):
            client.download(artifact, tmp_path)
        assert len(service.requests) == 5

    def test_a_later_call_resumes_an_earlier_one(self, service: ContractServer, client: DistillClient, tmp_path: Path) -> None:
        artifact = service.add_artifact("data.parquet", self.content)
        (tmp_path / f".data.parquet.{artifact['sha256'][:16]}.part").write_bytes(self.content[:1_000_000])
        assert client.download(artifact, tmp_path).read_bytes() == self.content
        assert service.requests[-1].headers["Range"] == "bytes=1000000-"

    @pytest.mark.parametrize("extra", [b"", b"more than there is"])
    def test_a_partial_file_that_is_complete_or_too_long(
        self, service: ContractServer, client: DistillClient, tmp_path: Path, extra: bytes
    ) -> None:
        artifact = service.add_artifact("data.parquet", b"12345")
        (tmp_path / f".data.parquet.{artifact['sha256'][:16]}.part").write_bytes(b"12345" + extra)
        assert client.download(artifact, tmp_path).read_bytes() == b"12345"

    def test_a_file_that_is_there_is_not_fetched_again(
        self, service: ContractServer, client: DistillClient, tmp_path: Path
    ) -> None:
        artifact = service.add_artifact("data.parquet", self.content)
        client.download(artifact, tmp_path)
        client.download(artifact, tmp_path)
        assert len(service.requests) == 1
        (tmp_path / "data.parquet").write_bytes(b"changed")
        assert hashlib.sha256(client.download(artifact, tmp_path).read_bytes()).hexdigest() == artifact["sha256"]

    def test_an_empty_file(self, service: ContractServer, client: DistillClient, tmp_path: Path) -> None:
        assert client.download(service.add_artifact("empty", b""), tmp_path).read_bytes() == b""
