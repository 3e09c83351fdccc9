"""A synchronous client of the REST interface, with the retries that make it safe to leave alone.

    with DistillClient() as client:
        job = client.submit({"dataset": {"name": "digits"}, "ipc": 1, "recipe": "dm"})
        job = client.wait(job["id"])
        client.download_all(job["id"], Path("result"))

Every call repeats itself on connection errors, 5xx and 429; `submit` keeps one `Idempotency-Key` over its repetitions, so
a lost answer never makes a second job. Needs httpx and tenacity only: no torch, SQL or Celery.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from api.client.connection import Connection, Json
from api.client.dataset_calls import DatasetCalls
from api.client.downloads import download
from api.client.following import events, follow, job_path
from core.settings import Settings

log = logging.getLogger(__name__)


class DistillClient(DatasetCalls):
    """Talks to one service. Methods raise `ClientError` and nothing else for what a server or a network can do."""

    def __init__(
        self,
        url: str = "",
        *,
        api_key: str = "",
        max_tries: int = 5,
        timeout_seconds: float = 30.0,
        patience_seconds: float = 120.0,
        poll_seconds: float = 1.0,
        backoff_seconds: float = 0.2,
    ) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            url: where the service is; empty takes `DISTILL_URL`.
            api_key: bearer token; empty takes `DISTILL_API_KEY`.
            max_tries: how often a request is sent before its failure is reported.
            timeout_seconds: longest silence within one request.
            patience_seconds: how long `stream` bears a service that does not answer.
            poll_seconds: time between questions where streaming does not work.
            backoff_seconds: first wait before a repetition; doubles, with jitter, up to 5 s.

        Raises:
            ClientError: the URL is not one.
        """
        settings = Settings()
        self._connection = Connection(
            url or settings.url,
            api_key=api_key or settings.api_key,
            max_tries=max_tries,
            timeout_seconds=timeout_seconds,
            backoff_seconds=backoff_seconds,
        )
        self.url = self._connection.url
        self.patience_seconds = patience_seconds
        self.poll_seconds = poll_seconds
        self.backoff_seconds = backoff_seconds

    def close(self) -> None:
        """Close all connections."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # Jobs

    def submit(self, spec: Mapping[str, Any], *, idempotency_key: str = "") -> Json:
        """Create a job and return it.

        The key (drawn anew when empty) goes along with every repetition, so the job is created once.

        Raises:
            ClientError: `validation_failed` and the like, with `problems` naming the fields.
        """
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return self._connection.request("POST", "/v1/jobs", headers=headers, body=spec)

    def validate(self, spec: Mapping[str, Any]) -> Json:
        """Resolve a specification without creating a job: `spec` with every default filled in, its `budget`, an `estimate`."""
        return self._connection.request("POST", "/v1/jobs", params={"validate_only": "true"}, body=spec)

    def job(self, job_id: str) -> Json:
        """Read one job."""
        return self._connection.request("GET", job_path(job_id))

    def jobs(self, *, states: Sequence[str] = (), kind: str = "", limit: int | None = 20) -> Iterator[Json]:
        """Jobs, newest first, page by page; `limit=None` for all."""
        params: dict[str, Any] = ({"state": list(states)} if states else {}) | ({"kind": kind} if kind else {})
        return self._connection.pages("/v1/jobs", params, limit)

    def cancel(self, job_id: str) -> Json:
        """Cancel a job; one that runs is `cancelling` until its worker has stopped it.

        Raises:
            ClientError: `job_already_terminal` when it has succeeded or failed.
        """
        return self._connection.request("POST", f"{job_path(job_id)}/cancel")

    def retry(self, job_id: str, changes: Mapping[str, Any] | None = None, *, idempotency_key: str = "") -> Json:
        """Repeat a job that is over as a new one, with changes merged over its specification; the new job.

        The key (drawn anew when empty) goes along with every repetition of the request, so the job is created once.

        Raises:
            ClientError: `invalid_state` while the job is not over.
        """
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return self._connection.request("POST", f"{job_path(job_id)}/retry", headers=headers, body=changes or {})

    def delete(self, job_id: str) -> None:
        """Delete a job that is over, with everything it made and the jobs that evaluated its set.

        Raises:
            ClientError: it is not over, or a job that is not over needs what it made; `not_found` also where a lost answer
                was that of a deletion.
        """
        self._connection.send("DELETE", job_path(job_id))

    def attempt_log(self, job_id: str, *, attempt: int | None = None, tail: int | None = None) -> str:
        """What the process of an ended attempt (the newest) wrote, its last mebibyte or `tail` lines of it."""
        params = {name: value for name, value in (("attempt", attempt), ("tail", tail)) if value is not None}
        return self._connection.send("GET", f"{job_path(job_id)}/logs", params=params).text

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Json]:
        """All events that exist after sequence number `after`, ascending."""
        return events(self._connection, job_id, after)

    def stream(self, job_id: str, *, after: int = 0, on_trouble: Callable[[str], None] = log.info) -> Iterator[Json]:
        """Follow a job's events until it is terminal and every event was seen, each event once.

        A dropped connection is opened again with `Last-Event-ID`; where streaming does not work at all, the client asks
        for new events each `poll_seconds`. `on_trouble` hears of each failure that is being repaired.

        Raises:
            ClientError: no such job, or no answer for `patience_seconds`.
        """
        return follow(
            self._connection, job_id, after=after, patience_seconds=self.patience_seconds, poll_seconds=self.poll_seconds,
            on_trouble=on_trouble,
        )

    def wait(self, job_id: str) -> Json:
        """Block until a job is terminal and return it."""
        for _ in self.stream(job_id):
            pass
        return self.job(job_id)

    # Artifacts

    def artifacts(self, job_id: str, *, kind: str = "") -> list[Json]:
        """The finished files of a job, optionally of one kind."""
        params = {"kind": kind} if kind else {}
        found = self._connection.request("GET", f"{job_path(job_id)}/artifacts", params=params)["data"]
        return [artifact for artifact in found if not kind or artifact.get("kind") == kind]

    def download(self, artifact: Json, folder: Path) -> Path:
        """Fetch one artifact into a folder and return its path.

        Bytes go to a hidden temporary name, continue where a cut connection (or an earlier call) stopped, are checked against
        the SHA-256 of the artifact, and get their name by a rename: a file with the final name is complete.

        Raises:
            ClientError: `digest_mismatch` when the bytes are not the ones that were promised.
        """
        return download(self._connection, artifact, folder)

    def download_all(self, job_id: str, folder: Path, *, kind: str = "") -> list[Path]:
        """Fetch all artifacts of a job (of one kind) and return their paths."""
        return [self.download(artifact, folder) for artifact in self.artifacts(job_id, kind=kind)]

    # Catalogue

    def methods(self) -> list[Json]:
        """The recipes that a job can name."""
        return list(self._connection.pages("/v1/methods", {}, None))

    def method(self, name: str) -> Json:
        """One recipe, with its schema and its published rows."""
        return self._connection.request("GET", f"/v1/methods/{quote(name, safe='')}")

    # The service

    def workers(self) -> list[Json]:
        """The workers that the service knows, the newest first."""
        return list(self._connection.request("GET", "/v1/workers")["data"])

    def drain(self, worker_id: str) -> Json:
        """Let a worker save its job, hand it back and take no more."""
        return self._connection.request("POST", f"/v1/workers/{quote(worker_id, safe='')}/drain")

    def queues(self) -> list[Json]:
        """Every queue, with how much waits in it and who serves it."""
        return list(self._connection.request("GET", "/v1/queues")["data"])

    def version(self) -> Json:
        """What the service says of itself."""
        return self._connection.request("GET", "/v1/version")
