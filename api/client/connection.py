"""Requests with retries: what repeats them, and what makes one kind of error of all that a network can do."""

from __future__ import annotations

import contextlib
import ipaddress
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from api.client.errors import ClientError

Json = dict[str, Any]

MAX_RETRY_AFTER_SECONDS = 30.0


class Connection:
    """A way to one service. Every request repeats itself on connection errors, 5xx and 429."""

    def __init__(self, url: str, *, api_key: str, max_tries: int, timeout_seconds: float, backoff_seconds: float) -> None:
        """Prepare; nothing is sent yet. The arguments are those of `DistillClient`, without its defaults.

        Raises:
            ClientError: the URL is not one.
        """
        self.url = url.rstrip("/")
        self.max_tries = max_tries
        self.backoff_seconds = backoff_seconds
        try:
            parsed = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise ClientError(f"{self.url!r} is not a URL: {error}", code="bad_url") from None
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise ClientError(f"{self.url!r} is not a URL of a service: it must begin with http:// or https://", code="bad_url")
        self.http = httpx.Client(
            base_url=self.url,
            headers={"User-Agent": "distill-client", **({"Authorization": f"Bearer {api_key}"} if api_key else {})},
            timeout=httpx.Timeout(timeout_seconds, connect=min(5.0, timeout_seconds)),
            follow_redirects=True,
            trust_env=not _is_loopback(parsed.host),  # a proxy of the environment cannot reach this machine's loopback
        )

    def close(self) -> None:
        """Close all connections."""
        self.http.close()

    def request(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Json:
        """As `send`; returns the object that the request is answered with."""
        return object_of(self.send(method, path, params=params, headers=headers, body=body))

    def send(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> httpx.Response:
        """Send a request, again and again where that may help, and return the answer.

        Raises:
            ClientError: refused, or not answered after `max_tries`.
        """
        content = None
        sent = dict(headers or {})
        if body is not None:
            try:
                content = json.dumps(body, allow_nan=False).encode()
            except (ValueError, TypeError) as error:
                raise ClientError(f"the specification is not JSON: {error}", code="invalid_json") from None
            sent["Content-Type"] = "application/json"

        return self.retrying()(self.once, method, path, params=params, headers=sent, content=content)

    def once(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None,
        content: bytes | Iterable[bytes] | None = None,
    ) -> httpx.Response:
        """Send a request a single time and return the answer.

        Raises:
            ClientError: refused, or not answered.
        """
        with self.translated():
            response = self.http.request(method, path, params=params, headers=headers, content=content)
        if response.is_success:
            return response
        raise refusal(response)

    def pages(self, path: str, params: Mapping[str, Any], limit: int | None) -> Iterator[Json]:
        """The items of a collection, page by page; `limit=None` for all."""
        query = dict(params)
        left = limit
        while left is None or left > 0:
            query["limit"] = 100 if left is None else min(left, 100)
            page = self.request("GET", path, params=query)
            data = page.get("data", [])
            yield from data if left is None else data[:left]
            left = None if left is None else left - len(data)
            if not page.get("has_more") or not page.get("last_id") or not data:
                return
            query["after"] = page["last_id"]

    def retrying(self, stop: Callable[[RetryCallState], bool] | None = None) -> Retrying:
        """Calls a function again after a `retryable` error, with growing waits; `stop` replaces the end after `max_tries`."""
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
    def translated(self) -> Iterator[None]:
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


def refusal(response: httpx.Response) -> ClientError:
    """The error that an answer without success stands for."""
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


def object_of(response: httpx.Response) -> Json:
    """The JSON object in an answer.

    Raises:
        ClientError: there is none; whoever answered is no service of ours.
    """
    try:
        value = response.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        message = f"{response.url} answered, but not as a Distill Service does"
        raise ClientError(message, code="not_a_service", status=response.status_code)
    return value


def _seconds(value: str) -> float:
    return float(value) if value.isascii() and value.isdigit() else 0.0


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
