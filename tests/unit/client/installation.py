"""The real API behind a wire that fails when a test says so, for tests of the client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from api.client.http import DistillClient
from core.jobs.models import DEFAULT_TENANT
from core.uploads.repository import parts_of
from tests.fixtures.api import Api

PART_BYTES = 100_000


class Wire:
    """Passes requests on, notes each, and does to some what a test has ordered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Callable[[str, str], str]] = []
        """Each is asked about a request: `refuse` and `lose` (its answer), or nothing."""
        self.delay_seconds = 0.0
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        with self._lock:
            self.requests.append((method, path))
            what = next((said for fault in self.faults if (said := fault(method, path))), "")
        if what == "refuse":
            while (await receive()).get("more_body"):
                pass
            await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        elif what == "lose":

            async def lost(_message: object) -> None:
                return

            await self.app(scope, receive, lost)
            raise RuntimeError("the answer is lost")
        else:
            if method == "PUT" and self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            await self.app(scope, receive, send)

    def puts(self) -> list[str]:
        return [path.rpartition("/")[2] for method, path in self.requests if method == "PUT"]


class Installation:
    def __init__(self, api: Api, wire: Wire) -> None:
        self.api, self.wire = api, wire

    def client(self, **options: float) -> DistillClient:
        return DistillClient(self.api.url, max_tries=int(options.get("max_tries", 5)), backoff_seconds=0.001)

    def content(self, upload_id: str) -> bytes:
        """What a worker would read."""
        with self.api.database.read() as session:
            parts = parts_of(session, DEFAULT_TENANT, upload_id)
        return b"".join(b"".join(self.api.objects.chunks(part.key, 0, part.size_bytes)) for part in parts)
