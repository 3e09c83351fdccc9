"""The child's side of the contract with its supervisor: lines on standard output, life line, signals.

Standard output carries JSON lines and nothing else: the descriptor is kept here and number 1 is pointed at standard error,
so that a library's print becomes a log line. Standard input is the life line: at its end the process group is killed.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from core.errors import DatasetUnreadableError, DistillError, DivergedError, HostMemoryError, InvalidInputError, SpecError
from core.progress import DelegatedError, Hooks, Stopped
from core.specs.job import JobSpec, parse_job_spec
from core.specs.report import ErrorLine, ExitCode, JobFile, MetricLine, Phase, PhaseLine, ProgressLine, UnitsLine, WarningLine

log = logging.getLogger(__name__)

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

    def wait(self, seconds: float) -> bool:
        """Sleep, not longer than until a stop is asked for; whether it was."""
        return self._stop.wait(seconds)

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
    def busy(self, message: str, limit_seconds: float = BUSY_LIMIT_SECONDS) -> Iterator[None]:
        """Say every two seconds that a long call runs, up to a limit."""
        done = threading.Event()

        def beat() -> None:
            limit = time.monotonic() + limit_seconds
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


def read_job(folder: Path) -> tuple[JobFile, JobSpec]:
    """What the supervisor wrote for this attempt.

    Raises:
        SpecError: `job.json` is missing or is not one this version understands.
    """
    try:
        file = JobFile.model_validate_json((folder / "job.json").read_text())
        return file, parse_job_spec(file.spec)
    except (OSError, ValidationError) as error:
        raise SpecError(f"job.json cannot be used: {error}") from error


class Failure(NamedTuple):
    """How a child says that its job cannot finish."""

    code: str
    message: str
    exit_code: ExitCode
    detail: dict[str, Any] = {}


def failure_of(error: BaseException) -> Failure:
    """Stable code, message and exit code of an error that needs no numerical library to be told."""
    match error:
        case SpecError():
            return Failure(error.code, error.message, ExitCode.BAD_SPEC)
        case DatasetUnreadableError() | InvalidInputError():
            return Failure(error.code, error.message, ExitCode.BAD_DATA)
        case DivergedError():
            return Failure(error.code, error.message, ExitCode.DIVERGED)
        case DistillError():
            return Failure(error.code, error.message, ExitCode.INTERNAL)
        case MemoryError():
            return host_memory_failure("the host has no memory left")
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG):
            return Failure("internal", f"the disk of the worker is full: {error.strerror}", ExitCode.INTERNAL)
        case _:
            return Failure("internal", f"{type(error).__name__}: {error}", ExitCode.INTERNAL)


def host_memory_failure(message: str) -> Failure:
    """The machine, or a limit on this process, gave no more memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Failure(HostMemoryError.code, message, ExitCode.INTERNAL, {"peak_memory_bytes": peak})


def serve(
    arguments: Sequence[str], run: Callable[[Path, Lines, ChildHooks], None], failure_of: Callable[[BaseException], Failure]
) -> int:
    """The life of a child process: take over the streams and signals, run one job directory, return the exit code."""
    lines = Lines()
    hold_life_line()
    hooks = ChildHooks(lines)
    hooks.listen()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        if len(arguments) != 1:
            raise SpecError("one argument is needed: the job directory")
        run(Path(arguments[0]), lines, hooks)
    except Stopped:
        return int(ExitCode.STOPPED)
    except DelegatedError as rest:
        lines.write(UnitsLine(units=rest.units, set_digest=rest.set_digest))
        return int(ExitCode.WAITING)
    except Exception as error:
        log.exception("job_failed")
        code, message, exit_code, detail = failure_of(error)
        lines.write(ErrorLine(code=code, message=message, detail=detail))
        return int(exit_code)
    return int(ExitCode.OK)
