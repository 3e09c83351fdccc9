"""A synchronous client of the REST interface, with the retries that make it safe to leave alone.

    with DistillClient() as client:
        job = client.submit({"dataset": {"name": "digits"}, "ipc": 1, "recipe": "dm"})
        job = client.wait(job["id"])
        client.download_all(job["id"], Path("result"))

Every call repeats itself on connection errors, 5xx and 429; `submit` keeps one `Idempotency-Key` over its repetitions, so
a lost answer never makes a second job. Needs httpx and tenacity only: no torch, SQL or Celery.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from api.client.sse import EventTooLargeError, read_events
from core.settings import Settings

log = logging.getLogger(__name__)

Json = dict[str, Any]

TERMINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})
MAX_RETRY_AFTER_SECONDS = 30.0
FRUITLESS_STREAMS = 3
"""Connections in a row that brought no event before the client asks again and again instead."""

_CHUNK_BYTES = 1 << 18


class ClientError(Exception):
    """A request could not be fulfilled; the message is fit for a person.

    `code` is the server's code, or one of ours: `unreachable`, `not_a_service`, `digest_mismatch`, `unsafe_name`,
    `unsafe_archive`, `bad_url`, `invalid_json`. `status` is 0 when no answer came. `problem` is the problem document.
    """

    def __init__(
        self, message: str, *, code: str, status: int = 0, problem: Json | None = None, retry_after: float = 0.0
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.problem: Json = problem or {}
        self.retry_after = retry_after

    @property
    def problems(self) -> list[tuple[str, str]]:
        """(JSON pointer, message) of each field that the server refused."""
        errors = self.problem.get("errors")
        if not isinstance(errors, list):
            return []
        return [(str(e.get("pointer", "")), str(e.get("message", ""))) for e in errors if isinstance(e, dict)]

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        if self.code == "unreachable" or self.problem.get("retryable") is True:
            return True
        if self.status == 429:  # a quota is not worth waiting for; the document says so
            return self.problem.get("retryable") is not False
        return self.status >= 500 and self.status != 501


class DistillClient:
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
        self.url = (url or settings.url).rstrip("/")
        self.max_tries = max_tries
        self.patience_seconds = patience_seconds
        self.poll_seconds = poll_seconds
        self.backoff_seconds = backoff_seconds
        try:
            parsed = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise ClientError(f"{self.url!r} is not a URL: {error}", code="bad_url") from None
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise ClientError(f"{self.url!r} is not a URL of a service: it must begin with http:// or https://", code="bad_url")
        key = api_key or settings.api_key
        self._http = httpx.Client(
            base_url=self.url,
            headers={"User-Agent": "distill-client", **({"Authorization": f"Bearer {key}"} if key else {})},
            timeout=httpx.Timeout(timeout_seconds, connect=min(5.0, timeout_seconds)),
            follow_redirects=True,
            trust_env=not _is_loopback(parsed.host),  # a proxy of the environment cannot reach this machine's loopback
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

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
        return _json(self._request("POST", "/v1/jobs", headers=headers, body=spec))

    def validate(self, spec: Mapping[str, Any]) -> Json:
        """Resolve a specification without creating a job; returns it with every default filled in."""
        answer = _json(self._request("POST", "/v1/jobs", params={"validate_only": "true"}, body=spec))
        resolved = answer.get("spec", answer)
        return resolved if isinstance(resolved, dict) else answer

    def job(self, job_id: str) -> Json:
        """Read one job."""
        return _json(self._request("GET", _job_path(job_id)))

    def jobs(self, *, states: Sequence[str] = (), limit: int | None = 20) -> Iterator[Json]:
        """Jobs, newest first, page by page; `limit=None` for all."""
        params: dict[str, Any] = {"state": list(states)} if states else {}
        return self._pages("/v1/jobs", params, limit)

    def cancel(self, job_id: str) -> Json:
        """Cancel a job; one that runs is `cancelling` until its worker has stopped it.

        Raises:
            ClientError: `job_already_terminal` when it has succeeded or failed.
        """
        return _json(self._request("POST", f"{_job_path(job_id)}/cancel"))

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Json]:
        """All events that exist after sequence number `after`, ascending."""
        while True:
            page = _json(self._request("GET", f"{_job_path(job_id)}/events", params={"after": after, "limit": 100}))
            for event in page.get("data", []):
                after = max(after, int(event["seq"]))
                yield event
            if not page.get("has_more") or not page.get("data"):
                return

    def stream(self, job_id: str, *, after: int = 0, on_trouble: Callable[[str], None] = log.info) -> Iterator[Json]:
        """Follow a job's events until it is terminal and every event was seen, each event once.

        A dropped connection is opened again with `Last-Event-ID`; where streaming does not work at all, the client asks
        for new events each `poll_seconds`. `on_trouble` hears of each failure that is being repaired.

        Raises:
            ClientError: no such job, or no answer for `patience_seconds`.
        """
        last, fruitless = after, 0
        while fruitless < FRUITLESS_STREAMS:
            retry_seconds = 0.0
            try:
                with self._http.stream(
                    "GET",
                    f"{_job_path(job_id)}/events/stream",
                    headers={"Accept": "text/event-stream", "Last-Event-ID": str(last)},
                    timeout=httpx.Timeout(10.0, read=45.0),  # the server sends a comment each 15 s
                ) as response:
                    if response.status_code == 204:
                        return
                    if response.status_code >= 500 or response.status_code == 429:
                        raise httpx.RemoteProtocolError(f"HTTP {response.status_code}")
                    if response.status_code != 200 or not _content_type(response).startswith("text/event-stream"):
                        break
                    for received in read_events(response.iter_bytes()):
                        retry_seconds = received.retry_seconds or 0.0
                        event = _event(received.data)
                        if event is None or event["seq"] <= last:
                            continue
                        last, fruitless = event["seq"], 0
                        yield event
                        if _is_end(event):
                            retry_seconds = 0.0
            except (httpx.TransportError, EventTooLargeError) as error:
                on_trouble(f"the event stream was cut ({str(error) or type(error).__name__})")
            fruitless += 1
            if fruitless > 1:
                time.sleep(min(max(retry_seconds, self.backoff_seconds * 2**fruitless), 3.0))
        yield from self._poll(job_id, last, on_trouble)

    def wait(self, job_id: str) -> Json:
        """Block until a job is terminal and return it."""
        for _ in self.stream(job_id):
            pass
        return self.job(job_id)

    def _poll(self, job_id: str, last: int, on_trouble: Callable[[str], None]) -> Iterator[Json]:
        answered = time.monotonic()
        while True:
            try:
                job = self.job(job_id)  # before the events, so that the last ones are not missed
                for event in self.events(job_id, after=last):
                    last = int(event["seq"])
                    yield event
            except ClientError as error:
                if not error.retryable or time.monotonic() - answered > self.patience_seconds:
                    raise
                on_trouble(error.message)
            else:
                if job["state"] in TERMINAL_STATES:
                    return
                answered = time.monotonic()
            time.sleep(self.poll_seconds)

    # Artifacts

    def artifacts(self, job_id: str, *, kind: str = "") -> list[Json]:
        """The finished files of a job, optionally of one kind."""
        params = {"kind": kind} if kind else {}
        found = self._pages(f"{_job_path(job_id)}/artifacts", params, None)
        return [artifact for artifact in found if not kind or artifact.get("kind") == kind]

    def download(self, artifact: Json, folder: Path) -> Path:
        """Fetch one artifact into a folder and return its path.

        Bytes go to a hidden temporary name, continue where a cut connection (or an earlier call) stopped, are checked against
        the SHA-256 of the artifact, and get their name by a rename: a file with the final name is complete.

        Raises:
            ClientError: `digest_mismatch` when the bytes are not the ones that were promised.
        """
        target = folder / _safe_name(str(artifact["name"]))
        sha256, size = str(artifact["sha256"]), int(artifact["size_bytes"])
        if target.is_file() and target.stat().st_size == size and _sha256(target) == sha256:
            return target
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{target.name}.{sha256[:16]}.part"
        url = f"/v1/artifacts/{quote(str(artifact['id']), safe='')}/content"
        self._retrying(_StopWhenStuck(partial, self.max_tries))(self._fetch, url, partial, sha256)
        if (found := _sha256(partial)) != sha256:
            partial.unlink()
            raise ClientError(
                f"{target.name}: the bytes received have SHA-256 {found}, but {sha256} was promised; nothing was kept",
                code="digest_mismatch",
            )
        partial.replace(target)
        return target

    def download_all(self, job_id: str, folder: Path, *, kind: str = "") -> list[Path]:
        """Fetch all artifacts of a job (of one kind) and return their paths."""
        return [self.download(artifact, folder) for artifact in self.artifacts(job_id, kind=kind)]

    def _fetch(self, url: str, partial: Path, sha256: str) -> None:
        """One connection's worth of a download, appended to `partial`."""
        have = partial.stat().st_size if partial.exists() else 0
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": f'"sha256-{sha256}"'}
        with self._translated(), self._http.stream("GET", url, headers=headers) as response:
            if response.status_code == 416:  # all there already, or a leftover longer than the file
                if _range_total(response) != have:
                    partial.unlink(missing_ok=True)
                    raise ClientError("the partial file did not fit; starting again", code="unreachable")
                return
            if response.status_code not in {200, 206}:
                response.read()
                raise _error(response)
            resumed = response.status_code == 206 and _range_start(response) == have
            if response.status_code == 206 and not resumed:
                partial.unlink(missing_ok=True)
                raise ClientError("the service sent another range than asked for", code="unreachable")
            with partial.open("ab" if resumed else "wb") as file:
                for chunk in response.iter_raw(_CHUNK_BYTES):
                    file.write(chunk)

    # Catalogue

    def datasets(self) -> list[Json]:
        """The data sets that a job can name."""
        return list(self._pages("/v1/datasets", {}, None))

    def dataset(self, name: str) -> Json:
        """One data set."""
        return _json(self._request("GET", f"/v1/datasets/{quote(name, safe='')}"))

    def methods(self) -> list[Json]:
        """The recipes that a job can name."""
        return list(self._pages("/v1/methods", {}, None))

    def method(self, name: str) -> Json:
        """One recipe, with its schema and its published rows."""
        return _json(self._request("GET", f"/v1/methods/{quote(name, safe='')}"))

    def version(self) -> Json:
        """What the service says of itself."""
        return _json(self._request("GET", "/v1/version"))

    # Requests

    def _pages(self, path: str, params: Mapping[str, Any], limit: int | None) -> Iterator[Json]:
        query = dict(params)
        left = limit
        while left is None or left > 0:
            query["limit"] = 100 if left is None else min(left, 100)
            page = _json(self._request("GET", path, params=query))
            data = page.get("data", [])
            yield from data if left is None else data[:left]
            left = None if left is None else left - len(data)
            if not page.get("has_more") or not page.get("last_id") or not data:
                return
            query["after"] = page["last_id"]

    def _request(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> httpx.Response:
        content = None
        sent = dict(headers or {})
        if body is not None:
            try:
                content = json.dumps(body, allow_nan=False).encode()
            except (ValueError, TypeError) as error:
                raise ClientError(f"the specification is not JSON: {error}", code="invalid_json") from None
            sent["Content-Type"] = "application/json"

        def once() -> httpx.Response:
            with self._translated():
                response = self._http.request(method, path, params=params, headers=sent, content=content)
            if response.is_success:
                return response
            raise _error(response)

        return self._retrying()(once)

    def _retrying(self, stop: Callable[[RetryCallState], bool] | None = None) -> Retrying:
        backoff = wait_exponential(multiplier=self.backoff_seconds, max=5.0) + wait_random(0.0, self.backoff_seconds)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.retry_after if isinstance(error, ClientError) else 0.0
            return max(min(asked, MAX_RETRY_AFTER_SECONDS), backoff(state))

        return Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, ClientError) and error.retryable),
            stop=stop or stop_after_attempt(self.max_tries),
            wait=wait,
            reraise=True,
        )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what the network can do into a `ClientError`."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ClientError(
                f"cannot reach a Distill Service at {self.url} ({str(error) or type(error).__name__}). "
                "Start one on this machine with `distill up`, or name another with --url or DISTILL_URL.",
                code="unreachable",
            ) from error
        except (httpx.TransportError, httpx.TooManyRedirects, httpx.DecodingError) as error:
            raise ClientError(
                f"the connection to {self.url} failed: {str(error) or type(error).__name__}", code="unreachable"
            ) from error


class _StopWhenStuck:
    """Ends a download after so many tries in a row that brought no byte."""

    def __init__(self, partial: Path, max_tries: int) -> None:
        self._partial, self._max_tries = partial, max_tries
        self._size, self._tries = -1, 0

    def __call__(self, _state: RetryCallState) -> bool:
        size = self._partial.stat().st_size if self._partial.exists() else 0
        self._tries = self._tries + 1 if size <= self._size else 1
        self._size = size
        return self._tries >= self._max_tries


def _job_path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _content_type(response: httpx.Response) -> str:
    return str(response.headers.get("Content-Type", ""))


def _json(response: httpx.Response) -> Json:
    try:
        value = response.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        message = f"{response.url} answered, but not as a Distill Service does"
        raise ClientError(message, code="not_a_service", status=response.status_code)
    return value


def _error(response: httpx.Response) -> ClientError:
    try:
        document = response.json()
    except ValueError:
        document = None
    problem: Json = document if isinstance(document, dict) else {}
    title = problem.get("title") or f"HTTP {response.status_code} {response.reason_phrase}".rstrip()
    detail = problem.get("detail")
    message = str(detail) if isinstance(detail, str) and detail else f"{title} from {response.url.copy_with(query=None)}"
    return ClientError(
        message,
        code=str(problem.get("code") or f"http_{response.status_code}"),
        status=response.status_code,
        problem=problem,
        retry_after=_seconds(response.headers.get("Retry-After", "")),
    )


def _seconds(value: str) -> float:
    return float(value) if value.isascii() and value.isdigit() else 0.0


def _event(data: str) -> Json | None:
    try:
        event = json.loads(data)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("seq"), int) else None


def _is_end(event: Json) -> bool:
    data = event.get("data")
    return event.get("type") == "job.state" and isinstance(data, dict) and data.get("state") in TERMINAL_STATES


def _range_start(response: httpx.Response) -> int:
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdigit() else -1


def _range_total(response: httpx.Response) -> int:
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(total) if total.isdigit() else -1


def _safe_name(name: str) -> str:
    """The name itself when it is a plain file name.

    Raises:
        ClientError: it could lead out of the folder or hide itself.
    """
    if not name or name.startswith(".") or any(c in name for c in '/\\:\0') or os.path.basename(name) != name:  # noqa: PTH119
        raise ClientError(f"refused an artifact named {name!r}: not a plain file name", code="unsafe_name")
    return name


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
