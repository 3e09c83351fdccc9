"""One supervised process: started in a session and with a log of its own, started again when it dies, stopped in time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from api.client.errors import LauncherError

_KEEP_LOG_BYTES = 16 << 20
_TAIL_LINES = 15


@dataclass(frozen=True)
class Patience:
    """When a dying part is started again, and when the launcher gives up."""

    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 30.0
    short_life_seconds: float = 20.0
    """A part that lived longer starts its count anew."""
    max_short_lives: int = 5
    """So many short lives in a row end the service."""


@dataclass
class Part:
    """One child process of the launcher: started, looked after, and stopped."""

    name: str
    command: Sequence[str]
    log_path: Path
    grace_seconds: float
    """From SIGTERM to SIGKILL."""

    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    short_lives: int = 0
    restart_at: float = field(default=0.0)

    @property
    def running(self) -> bool:
        """Whether the process exists and has not ended."""
        return self.process is not None and self.process.poll() is None

    def tail(self) -> str:
        """The last lines of the log."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:])

    def start(self, environment: Mapping[str, str]) -> None:
        """Start the process; a log that has grown large is put aside first."""
        if self.log_path.exists() and self.log_path.stat().st_size > _KEEP_LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        with self.log_path.open("ab") as file:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,
            )
        self.started_at = time.monotonic()

    def check(self, now: float, patience: Patience, say: Callable[[str], None]) -> None:
        """Notice when the process has ended, and set the time to start it again.

        Raises:
            LauncherError: it keeps dying; the message holds the end of its log.
        """
        status = None if self.process is None else self.process.poll()
        if status is None:
            return
        lived = now - self.started_at
        self.short_lives = self.short_lives + 1 if lived < patience.short_life_seconds else 0
        if self.short_lives >= patience.max_short_lives:
            raise LauncherError(
                f"{self.name} ended {self.short_lives} times in a row soon after its start (last: {_status(status)}); "
                f"the end of {self.log_path}:\n{self.tail()}"
            )
        wait = 0.0
        if self.short_lives:
            wait = min(patience.first_wait_seconds * 2 ** (self.short_lives - 1), patience.longest_wait_seconds)
        say(f"{self.name} ended ({_status(status)}) after {lived:.0f} s; starting it again (log: {self.log_path})")
        self.process = None
        self.restart_at = now + wait


def stop_all(parts: Sequence[Part], *, hurried: Callable[[], bool], say: Callable[[str], None]) -> None:
    """SIGTERM to all, SIGKILL to each whose time is over, or to all once `hurried`."""
    asked = time.monotonic()
    for part in parts:
        if part.running:
            assert part.process is not None
            part.process.terminate()
    told = False
    while left := [part for part in parts if part.running]:
        waited = time.monotonic() - asked
        for part in left:
            assert part.process is not None
            if hurried() or waited > part.grace_seconds:
                part.process.kill()
                part.process.wait()
        if waited > 2.0 and not told and left:
            told = True
            names = " and ".join(part.name for part in left)
            say(f"waiting up to {max(p.grace_seconds for p in left):.0f} s for {names}; Ctrl-C again kills")
        time.sleep(0.05)


def _status(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
