"""The end of a child. Simulated: one that SIGKILL does not end, by withholding the signal; a real one hangs in the kernel."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from worker import child as module
from worker.child import Child

pytestmark = pytest.mark.unit


@pytest.fixture
def program(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "sleeper.py").write_text("import time\nwhile True: time.sleep(60)\n")
    return {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}


def test_close_ends_a_child_and_frees_its_pipes(program: dict[str, str], tmp_path: Path) -> None:
    child = Child("sleeper", [], program, tmp_path / "log")
    child.close()
    assert child.poll() == -signal.SIGKILL


def test_close_does_not_wait_for_ever(program: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child("sleeper", [], program, tmp_path / "log")
    with monkeypatch.context() as patched:
        patched.setattr(Child, "kill", lambda self: None)
        patched.setattr(module, "CLOSE_SECONDS", 0.2)
        began = time.monotonic()
        child.close()
        assert time.monotonic() - began < 5
        assert child.poll() is None
    child.close()
    assert child.poll() == -signal.SIGKILL
