"""One folder that holds a whole service: its paths, the lock on it, and the record of the processes that serve it.

What a launcher that was killed outright left behind is stopped by the next one, which knows each part by its pid and the
time it was born, so that a recycled pid is never signalled.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from api.client.errors import LauncherError
from api.client.part import Part
from core.settings import Settings


class Installation:
    """The folder of one launcher at a time."""

    def __init__(self, settings: Settings) -> None:
        self.home = settings.home_dir
        self.logs = self.home / "logs"
        self.record_path = self.home / "run" / "parts.json"
        self._data_dir = settings.data_dir
        self._lock: IO[str] | None = None

    def make_folders(self) -> None:
        """Make the folders that the parts expect.

        Raises:
            LauncherError: one cannot be made.
        """
        try:
            for folder in (self.home, self.home / "run", self.logs, self._data_dir):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LauncherError(f"cannot make the folder {error.filename}: {error.strerror}") from None

    def take_lock(self) -> None:
        """Claim the folder until `release`, or until this process ends however it does.

        Raises:
            LauncherError: another launcher serves it; the message says which.
        """
        file = (self.home / "run" / "lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = _parsed(file.read())
            file.close()
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                raise LauncherError(f"cannot lock {self.home}: {error.strerror}") from None
            where = f" (pid {holder['pid']}, {holder['url']})" if {"pid", "url"} <= holder.keys() else ""
            raise LauncherError(f"a service already runs in {self.home}{where}; another one needs another --home") from None
        self._lock = file

    def write_lock(self, url: str) -> None:
        """Note in the lock who holds it, for a launcher that is refused."""
        assert self._lock is not None
        self._lock.truncate(0)
        self._lock.write(json.dumps({"pid": os.getpid(), "url": url}))
        self._lock.flush()

    def release(self) -> None:
        """Give the folder back, if it is ours; nothing of it runs any more."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self.record_path.unlink(missing_ok=True)
                self._lock.truncate(0)
            self._lock.close()
            self._lock = None

    def write_record(self, parts: Iterable[Part]) -> None:
        """Note which processes are ours, for the launcher after one that was killed."""
        alive = [(part.name, part.process.pid, part.grace_seconds) for part in parts if part.process is not None]
        record = [{"name": name, "pid": pid, "birth": birth(pid), "grace_seconds": grace} for name, pid, grace in alive]
        scratch = self.record_path.with_suffix(".tmp")
        scratch.write_text(json.dumps(record))
        scratch.replace(self.record_path)

    def clear_leftovers(self, *, hurried: Callable[[], bool], say: Callable[[str], None]) -> None:
        """Stop the parts of a launcher that was killed, the broker last; once `hurried`, kill them."""
        try:
            record = json.loads(self.record_path.read_text())
        except (OSError, ValueError):
            return
        left = [entry for entry in record if entry["birth"] and birth(entry["pid"]) == entry["birth"]]
        if left:
            say(f"stopping what a killed launcher left: {', '.join(entry['name'] for entry in left)}")
        for group in ([e for e in left if e["name"] != "broker"], [e for e in left if e["name"] == "broker"]):
            for entry in group:
                _signal(entry, signal.SIGTERM)
            asked = time.monotonic()
            while group := [entry for entry in group if birth(entry["pid"]) == entry["birth"]]:
                for entry in group:
                    if time.monotonic() - asked > entry["grace_seconds"] or hurried():
                        _signal(entry, signal.SIGKILL)
                time.sleep(0.05)
        self.record_path.unlink(missing_ok=True)


def birth(pid: int) -> str:
    """What tells a process from any other that has had or will have its pid; empty when there is none (or a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
    else:
        fields = stat.rpartition(")")[2].split()
        return "" if fields[0] in {"Z", "X"} else f"{boot}/{fields[19]}"
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return "" if not shown or shown[0].startswith("Z") else " ".join(shown[1:])


def _signal(entry: Mapping[str, Any], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(entry["pid"], number)


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
