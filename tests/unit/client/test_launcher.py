from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from api.client.address import free_port
from api.client.errors import LauncherError
from api.client.installation import birth
from api.client.launcher import Launcher
from api.client.part import Part, Patience

pytestmark = pytest.mark.unit

READY = """
import http.server, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
SLEEP = "import time; time.sleep(600)"


class SmallLauncher(Launcher):
    """The launcher with parts that start in milliseconds."""

    worker_code = SLEEP

    def _migrate(self, environment: object) -> None:
        pass

    def _service_parts(self) -> Iterator[Part]:
        yield self._part("api", [sys.executable, "-c", READY, str(self.port)], 5.0)
        yield self._part("worker", [sys.executable, "-c", self.worker_code], 5.0)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make(tmp_path: Path, said: list[str]) -> Iterator[Callable[..., SmallLauncher]]:
    made: list[SmallLauncher] = []

    def build(worker_code: str = SLEEP, port: int = 0) -> SmallLauncher:
        patience = Patience(first_wait_seconds=0.01, max_short_lives=3)
        launcher = SmallLauncher(port=port, home=tmp_path / "home", say=said.append, patience=patience)
        launcher.worker_code = worker_code
        made.append(launcher)
        return launcher

    yield build
    for launcher in made:
        launcher.request_stop()
        launcher.request_stop()
        launcher.stop()


def pids(launcher: Launcher) -> dict[str, int]:
    return {part.name: part.process.pid for part in launcher.parts if part.process is not None}


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_only_loopback_addresses(host: str) -> None:
    with pytest.raises(LauncherError, match="refused to listen"):
        Launcher(host=host)


@pytest.mark.parametrize(("host", "url"), [("localhost", "http://127.0.0.1:9"), ("::1", "http://[::1]:9")])
def test_loopback_has_several_names(host: str, url: str) -> None:
    assert Launcher(host=host, port=9).url == url


def test_a_busy_port_is_named(make: Callable[..., SmallLauncher]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LauncherError, match=f"port {port} is in use"):
            make(port=port).start()
    make(port=port).start()  # the lock was given back


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LauncherError, match="cannot make the folder"):
        Launcher(home=tmp_path / "file" / "home").start()


def test_starts_everything_and_stops_everything(make: Callable[..., SmallLauncher]) -> None:
    launcher = make()
    launcher.start()
    running = pids(launcher)
    assert list(running) == ["broker", "api", "worker"]
    assert launcher.settings.broker_socket.is_socket()
    assert {os.getsid(pid) for pid in running.values()} == set(running.values())  # Ctrl-C reaches the launcher alone
    launcher.stop()
    assert not any(birth(pid) for pid in running.values())
    assert {p.name for p in launcher.logs.iterdir()} == {"broker.log", "api.log", "worker.log"}


def test_the_broker_outlives_its_users_and_keeps_its_data(make: Callable[..., SmallLauncher], tmp_path: Path) -> None:
    code = (
        "import signal, socket, sys, time\n"
        "def end(*_):\n"
        "    time.sleep(0.3)\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b'SET last word\\r\\n'); s.recv(9)\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(1)\n"
    )
    launcher = make()
    code = code.replace("sys.argv[1]", repr(str(launcher.settings.broker_socket)))
    launcher.worker_code = code
    launcher.start()
    until(lambda: "ready" in (launcher.logs / "worker.log").read_text())
    launcher.stop()
    again = make()
    again.start()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(again.settings.broker_socket))
        connection.sendall(b"GET last\r\n")
        assert connection.recv(64) == b"$4\r\nword\r\n"


def test_a_second_launcher_learns_who_is_there(make: Callable[..., SmallLauncher]) -> None:
    first = make()
    first.start()
    with pytest.raises(LauncherError, match=rf"already runs in .*pid {os.getpid()}, {first.url}"):
        make().start()
    assert all(part.running for part in first.parts)


def test_a_part_that_dies_is_started_again(make: Callable[..., SmallLauncher], said: list[str]) -> None:
    launcher = make()
    launcher.start()
    before = pids(launcher)
    serving = threading.Thread(target=launcher.serve)
    serving.start()
    os.kill(before["worker"], signal.SIGKILL)
    until(lambda: pids(launcher).get("worker", before["worker"]) != before["worker"])
    launcher.request_stop()
    serving.join()
    assert pids(launcher)["api"] == before["api"]
    assert any("worker ended (SIGKILL)" in line for line in said)


def test_a_part_that_keeps_dying_ends_it_with_its_last_words(make: Callable[..., SmallLauncher]) -> None:
    launcher = make(worker_code="import sys; sys.exit('no database here')")
    with pytest.raises(LauncherError, match=r"worker ended 3 times in a row.*exit status 1(.|\n)*no database here"):  # noqa: PT012
        launcher.start()
        launcher.serve()


def test_growing_waits(make: Callable[..., SmallLauncher], monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = make()
    part = launcher._part("worker", [sys.executable, "-c", "pass"], 1.0)
    launcher._patience = Patience(first_wait_seconds=1.0, longest_wait_seconds=3.0, max_short_lives=10)
    launcher.logs.mkdir(parents=True)
    (launcher.home / "run").mkdir()
    launcher.parts.append(part)
    waits: list[float] = []
    for _ in range(4):
        launcher._spawn(part)
        assert part.process is not None
        part.process.wait()
        launcher.tend()
        waits.append(part.restart_at - time.monotonic())
    assert waits == pytest.approx([1.0, 2.0, 3.0, 3.0], abs=0.3)
    launcher._spawn(part)
    assert part.process is not None
    part.process.wait()
    part.started_at -= 3600.0  # a long life
    launcher.tend()
    assert part.short_lives == 0


def test_what_a_killed_launcher_left_is_stopped(make: Callable[..., SmallLauncher], said: list[str]) -> None:
    first = make()
    first.start()
    left = pids(first)
    # As after SIGKILL: the kernel drops the lock, the parts live on.
    assert first.installation._lock is not None
    first.installation._lock.close()
    first.installation._lock = None
    bystander = subprocess.Popen([sys.executable, "-c", SLEEP])
    record = json.loads(first.installation.record_path.read_text())
    record.append({"name": "reconciler", "pid": bystander.pid, "birth": "another/life", "grace_seconds": 1.0})
    first.installation.record_path.write_text(json.dumps(record))
    reaper = threading.Thread(target=lambda: [part.process.wait() for part in first.parts if part.process is not None])
    reaper.start()
    try:
        second = make(port=first.port)
        second.start()
        assert not any(birth(pid) for pid in left.values())
        assert bystander.poll() is None  # its pid was in the record, but it was born at another time
        assert "stopping what a killed launcher left: broker, api, worker" in said
    finally:
        bystander.kill()
        bystander.wait()
        reaper.join()


def test_a_second_request_kills_what_will_not_stop(make: Callable[..., SmallLauncher]) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    launcher = make(worker_code=stubborn)
    launcher.start()
    until(lambda: "deaf" in (launcher.logs / "worker.log").read_text())
    for part in launcher.parts:
        part.grace_seconds = 600.0
    stopping = threading.Thread(target=launcher.stop)
    launcher.request_stop()
    stopping.start()
    time.sleep(0.3)
    assert stopping.is_alive()
    launcher.request_stop()
    stopping.join(10)
    assert not stopping.is_alive()


def test_the_parts_find_our_code_and_absolute_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "api.py").write_text("raise SystemExit('the wrong one')")
    environment = Launcher(home=Path("here")).environment()
    assert environment["DISTILL_HOME"] == str(tmp_path / "here")
    assert environment["DISTILL_DATA_ROOT"] == str(tmp_path / "here" / "data")
    command: Sequence[str] = [sys.executable, "-c", "import api.client.launcher"]
    assert subprocess.run(command, env=environment, check=False).returncode == 0


def test_a_free_port_can_be_bound() -> None:
    socket.create_server(("127.0.0.1", free_port())).close()
