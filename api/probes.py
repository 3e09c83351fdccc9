"""Looking at servers that may never answer, without waiting for them.

Each probe runs in a daemon thread of its own, at most one at a time; a caller waits as long as it likes. A frozen server
therefore costs one stuck thread, and neither a request nor the end of the process waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

log = logging.getLogger(__name__)


class Probe:
    """A named check that raises when its server is not well."""

    def __init__(self, name: str, check: Callable[[], object]) -> None:
        self.name = name
        self._check = check
        self._lock = threading.Lock()
        self._running: Future[bool] | None = None

    async def passes(self, timeout_seconds: float) -> bool:
        """Whether the check passed within the time."""
        waiting = asyncio.wrap_future(self._start())
        done, _ = await asyncio.wait([waiting], timeout=timeout_seconds)  # wait() leaves a late one running
        return bool(done) and waiting.result()

    def _start(self) -> Future[bool]:
        with self._lock:
            if self._running is None or self._running.done():
                self._running = Future()
                threading.Thread(target=self._run, args=(self._running,), name=f"probe-{self.name}", daemon=True).start()
            return self._running

    def _run(self, future: Future[bool]) -> None:
        try:
            self._check()
        except Exception as error:  # whatever it is, the server is not well
            log.warning("probe of the %s failed: %s", self.name, error)
            future.set_result(False)
        else:
            future.set_result(True)
