"""The child's side of the contract with its supervisor: lines on standard output, life line, signals.

Standard output carries JSON lines and nothing else: the descriptor is kept here and number 1 is pointed at standard error,
so that a library's print becomes a log line. Standard input is the life line: at its end the process group is killed.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel

from core.progress import Hooks
from core.specs.report import MetricLine, Phase, PhaseLine, ProgressLine, WarningLine

PROGRESS_SECONDS = 0.25
"""Progress is said at most so often."""

BUSY_SECONDS = 2.0
"""How often a long call is said to be alive."""

BUSY_LIMIT_SECONDS = 600.0
"""After so long a call that reports nothing is no longer covered, so that a hang can be noticed."""


class Lines:
    """The one writer of standard output; every line is whole, flushed, and one of ours."""

    def __init__(self) -> None:
        """Take standard output over."""
        sys.stdout.flush()
        self._descriptor = os.dup(1)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def write(self, line: BaseModel) -> None:
        """Write one line."""
        data = line.model_dump_json().encode() + b"\n"
        with self._lock:
            while data:
                data = data[os.write(self._descriptor, data) :]


class ChildHooks(Hooks):
    """Turns what the computation tells into lines, and SIGTERM into a wish to stop."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._stop = threading.Event()
        self._phase: Phase = "preparing"
        self._said = 0.0
        self._last: tuple[int, int, float | None] = (0, 0, None)

    def listen(self) -> None:
        """Let SIGTERM and SIGINT ask for a stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:  # noqa: ARG002
        self._stop.set()

    def should_stop(self) -> bool:
        """Whether a stop was asked for."""
        return self._stop.is_set()

    def phase(self, phase: Phase, total_steps: int) -> None:
        """Say that a phase begins."""
        self._phase, self._last, self._said = phase, (0, total_steps, None), 0.0
        self._lines.write(PhaseLine(phase=phase, total_steps=total_steps))

    def progress(self, step: int, total_steps: int, seconds_per_step: float | None = None, message: str = "") -> None:
        """Say where the phase is, unless that was just said; the last step is always said."""
        seconds_per_step = seconds_per_step or self._last[2]
        again = (step, total_steps) == self._last[:2]
        self._last = (step, total_steps, seconds_per_step)
        now = time.monotonic()
        if now - self._said >= PROGRESS_SECONDS or (step == total_steps and not again):
            self._say(message)

    def _say(self, message: str) -> None:
        step, total, seconds = self._last
        self._said = time.monotonic()
        line = ProgressLine(phase=self._phase, step=step, total_steps=total, seconds_per_step=seconds, message=message)
        self._lines.write(line)

    def metric(self, name: str, step: int, value: float) -> None:
        """Say one point of a curve; what is not finite is said as null."""
        self._lines.write(MetricLine(name=name, step=step, value=value if abs(value) < float("inf") else None))

    def warning(self, code: str, message: str) -> None:
        """Say a warning."""
        self._lines.write(WarningLine(code=code, message=message))

    @contextmanager
    def busy(self, message: str) -> Iterator[None]:
        """Say every two seconds that a long call runs, up to a limit."""
        done = threading.Event()

        def beat() -> None:
            limit = time.monotonic() + BUSY_LIMIT_SECONDS
            while not done.wait(BUSY_SECONDS) and time.monotonic() < limit:
                self._say(message)

        self._say(message)
        thread = threading.Thread(target=beat, name="busy", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def hold_life_line() -> None:
    """Kill the own process group when standard input ends.

    Only for a pipe or socket, which a supervisor holds open, and only when this process leads its group, so that nobody
    else is hit.
    """
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return
    if (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)) and os.getpgrp() == os.getpid():
        threading.Thread(target=_wait_for_end, name="life-line", daemon=True).start()


def _wait_for_end() -> None:
    # os.read, because a thread blocked in sys.stdin's buffered reader aborts the interpreter at exit.
    while os.read(0, 4096):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)
