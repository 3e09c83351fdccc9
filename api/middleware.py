"""What surrounds every request: an id, a log line, a bound on the body, and an answer to the unexpected.

Plain ASGI classes: Starlette's `BaseHTTPMiddleware` would run each request in a task of its own and hold back streams.
"""

from __future__ import annotations

import asyncio
import re
import time
from urllib.parse import urlsplit

import anyio
import structlog
from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import BodyTooLargeError, ServiceStoppingError, UnknownHostError, distill_problem, internal_problem
from api.monitoring import Monitoring
from core.jobs.ids import new_id
from core.uploads.parts import MAX_CONTENT_BYTES, MAX_PART_BYTES

log = structlog.get_logger("api.access")

DRAIN_FACTOR = 16
DRAIN_SECONDS = 10.0
"""What is left of a refused body is dropped, up to so many times the limit and for so long."""
PUT_LIMITS = {
    re.compile(r"/v1/uploads/[^/]+/parts/[^/]+"): MAX_PART_BYTES, re.compile(r"/v1/uploads/[^/]+/content"): MAX_CONTENT_BYTES,
}
"""Paths that take files, and how much of one."""


class RequestContext:
    """Outermost: names the request, logs and counts it, and turns an unhandled exception into a problem document."""

    def __init__(self, app: ASGIApp, monitoring: Monitoring) -> None:
        self.app = app
        self.monitoring = monitoring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = scope["request_id"] = _request_id(Headers(scope=scope).get("x-request-id"))
        status, began = 0, 0.0

        async def send_named(message: Message) -> None:
            nonlocal status, began
            if message["type"] == "http.response.start":
                status, began = message["status"], time.perf_counter()
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers.setdefault("X-Content-Type-Options", "nosniff")
            await send(message)

        started = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_named)
            except ClientDisconnect:
                status = status or 499
            except asyncio.CancelledError:  # by the server, which stops and has no more patience
                if not status:
                    await distill_problem(Request(scope), ServiceStoppingError("stopping"))(scope, receive, send_named)
                raise
            except Exception:
                log.exception("request_crashed", method=scope["method"], path=scope["path"])
                if status:  # the answer has begun: cutting the connection is the only way left to say so
                    raise
                await internal_problem(Request(scope))(scope, receive, send_named)
            finally:
                ended = time.perf_counter()
                self.monitoring.count(scope, status, (began or ended) - started)
                took = round((ended - started) * 1000, 1)
                log.info("request", method=scope["method"], path=scope["path"], status=status, milliseconds=took)


def _request_id(given: str | None) -> str:
    if given is not None and 1 <= len(given) <= 128 and given.isascii() and given.isprintable():
        return given
    return new_id("req")


class AllowedHosts:
    """Answers only under its own names.

    Without keys, being reachable from this machine alone is the protection; a web page whose name was made to resolve to
    127.0.0.1 would get around it from inside the user's browser, but cannot hide its name in the Host header.
    """

    def __init__(self, app: ASGIApp, hosts: str) -> None:
        self.app = app
        self.hosts = {host.strip().lower() for host in hosts.split(",") if host.strip()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "*" not in self.hosts and _host_of(scope) not in self.hosts:
            error = UnknownHostError("the Host header names another host; DISTILL_ALLOWED_HOSTS lists those that are served")
            await distill_problem(Request(scope), error)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _host_of(scope: Scope) -> str:
    """The name in the Host header, without port and brackets; empty when there is none or it is malformed."""
    try:
        return (urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname or "").lower()
    except ValueError:
        return ""


class BodyLimit:
    """Refuses bodies over a limit, whether their length was declared or turns out while reading.

    What takes files has limits of its own. Before a refusal is sent, what is left of the body is read and dropped: closing
    a socket with unread bytes resets it, and a reset destroys the answer on its way.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(scope, receive, send, self._limit(scope), DRAIN_FACTOR * self.max_body_bytes)
        if body.declared_too_large:
            await distill_problem(Request(scope), body.too_large)(scope, receive, body.send)
            return
        await self.app(scope, body.receive, body.send)

    def _limit(self, scope: Scope) -> int:
        limits = PUT_LIMITS if scope["method"] == "PUT" else {}
        return next((limit for path, limit in limits.items() if path.fullmatch(scope["path"])), self.max_body_bytes)


class _Body:
    """The body of one request on its way in."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: int, drain_bytes: int) -> None:
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        self.declared_too_large = declared.isdecimal() and int(declared[:20]) > limit
        self.too_large = BodyTooLargeError(f"the body may have at most {limit} bytes")
        self._receive, self._send, self._limit = receive, send, limit
        self._drain_bytes = max(limit, drain_bytes)
        self._received = 0
        self._ended = declared in {"", "0"} and "transfer-encoding" not in headers
        self._held_back = headers.get("expect", "").lower() == "100-continue"

    async def receive(self) -> Message:
        message = await self._next()
        if self._received > self._limit:
            raise self.too_large
        return message

    async def send(self, message: Message) -> None:
        # A client that holds its body back until it is asked for it has nothing on the way.
        if message["type"] == "http.response.start" and message["status"] >= 400 and not self._held_back:
            with anyio.move_on_after(DRAIN_SECONDS):
                while not self._ended and self._received <= self._drain_bytes:
                    await self._next()
        await self._send(message)

    async def _next(self) -> Message:
        message = await self._receive()
        self._held_back = False
        self._received += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        return message
