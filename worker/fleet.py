"""One worker process for each GPU of a host: `distill worker --gpus all`.

Each worker is told its GPU by UUID. One that dies is started again, after a growing wait; one that was drained, and ended well,
is not. When this process ends, however it ends, the workers see the end of their standard input and drain.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from core.jobs.workers import Device
from core.settings import Settings

log = structlog.get_logger(__name__)

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
STEADY_SECONDS = 60.0
"""A worker that has lived so long is started again without a growing wait."""


@dataclass
class _Member:
    gpu: Device
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restart_at: float = 0.0
    wait: float = FIRST_WAIT_SECONDS
    done: bool = field(default=False)


class Fleet:
    """The workers of one host."""

    def __init__(self, gpus: Sequence[Device], queues: str, settings: Settings) -> None:
        self._members = [_Member(gpu) for gpu in gpus]
        self._queues = queues
        # Without a word about threads each child takes all cores: that many children would only be in each other's way.
        threads = settings.child_threads or max(1, (os.cpu_count() or 1) // len(gpus))
        self._environment = os.environ | {"DISTILL_CHILD_THREADS": str(threads)}
        self._stop = threading.Event()

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, or until every worker has ended well; 0 when all of them did in the end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        while not self._stop.is_set() and not all(member.done for member in self._members):
            for member in self._members:
                self._tend(member)
            self._stop.wait(0.2)
        return self._end()

    def _tend(self, member: _Member) -> None:
        now = time.monotonic()
        if member.process is None:
            if not member.done and now >= member.restart_at:
                self._start(member)
            return
        code = member.process.poll()
        if code is None:
            return
        log.log(20 if code == 0 else 40, "worker_ended", gpu=member.gpu["uuid"], exit_code=code)
        self._close(member)
        member.done = code == 0
        steady = now - member.started >= STEADY_SECONDS
        member.wait = FIRST_WAIT_SECONDS if steady else member.wait
        member.restart_at = now + member.wait
        member.wait = min(2 * member.wait, LONGEST_WAIT_SECONDS)

    def _start(self, member: _Member) -> None:
        member.started = time.monotonic()
        member.process = subprocess.Popen(
            [sys.executable, "-m", "worker", "--device", member.gpu["uuid"], "--queues", self._queues, "--with-parent"],
            stdin=subprocess.PIPE, env=self._environment, start_new_session=True,
        )
        log.info("worker_started", gpu=member.gpu["uuid"], pid=member.process.pid)

    def _end(self) -> int:
        """Let every worker drain; each bounds its own time."""
        running = [member for member in self._members if member.process is not None]
        for member in running:
            assert member.process is not None
            member.process.terminate()
        codes = []
        for member in running:
            assert member.process is not None
            codes.append(member.process.wait())
            self._close(member)
        return max((abs(code) for code in codes), default=0)

    def _close(self, member: _Member) -> None:
        if member.process is not None and member.process.stdin is not None:
            member.process.stdin.close()
        member.process = None
