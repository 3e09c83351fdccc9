"""The process that reads a user's files: what it can reach, and what it is told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.servers import free_port
from worker.child import Child
from worker.sandbox import environment, without_network

pytestmark = pytest.mark.unit

CONNECT = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5)"


def test_it_has_no_network_where_the_worker_says_so() -> None:
    """Not even its own host: the same program connects outside."""
    with socket.create_server(("127.0.0.1", free_port())) as server:
        port = str(server.getsockname()[1])
        assert subprocess.run([sys.executable, "-c", CONNECT, port], check=False).returncode == 0
        inside = subprocess.run([*without_network(), sys.executable, "-c", CONNECT, port], check=False, capture_output=True)
    assert (inside.returncode != 0) == bool(without_network()), inside.stderr


def test_it_is_told_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISTILL_S3_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "https_proxy", "HOME"):
        monkeypatch.setenv(name, "secret")
    made = environment(tmp_path, threads=1)
    assert "secret" not in made.values()
    assert made["TMPDIR"] == made["HOME"] == str(tmp_path)


def test_it_ends_with_the_worker_as_every_child_does(tmp_path: Path) -> None:
    """`unshare` becomes the child: the process that is killed, and whose end is waited for, is the one that reads."""
    child = Child(
        "core.probe", [str(tmp_path / "nothing")], environment(tmp_path, threads=1), tmp_path / "log", within=without_network()
    )
    try:
        command = Path(f"/proc/{child.pid}/cmdline")
        for _ in range(1000):
            if child.poll() is not None or b"core.probe" in command.read_bytes():
                break
        assert os.getpgid(child.pid) == child.pid
    finally:
        child.kill()
        child.close()
    assert child.poll() is not None
