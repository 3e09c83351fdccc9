"""A child process: its environment, its life line, the lines it writes, and its end.

The child runs in a session of its own. Its standard input is a pipe that only this process holds open: when the supervisor
dies, however it dies, the child sees the end of file and kills its own group.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog
from pydantic import ValidationError

from core.specs.report import Line, parse_line

log = structlog.get_logger(__name__)

CLOSE_SECONDS = 10.0
"""So long the kernel may take to end a process that was killed."""

SOURCE_ROOT = Path(__file__).resolve().parent.parent
PASSED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_HOME", "CC", "CXX",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE",  # torchvision downloads
)

# glibc keeps freed memory instead of returning it; a training step allocates the same large blocks again and again.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "67108864",
}


def environment(*, threads: int, cache: Path, devices: str, deterministic: bool) -> dict[str, str]:
    """The child's whole environment: a short list, so that no secret of the worker's reaches it.

    Args:
        threads: CPU threads of its numerical libraries.
        cache: folder for compiled code, kept between jobs.
        devices: value of `CUDA_VISIBLE_DEVICES`; empty hides every GPU.
        deterministic: whether CUDA's matrix library needs its reproducible workspace.
    """
    made = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    made |= MALLOC | {
        "PYTHONPATH": str(SOURCE_ROOT), "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": devices,
        "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads),
        # A thread that spins long at a barrier starves the one it waits for on a busy machine; one that never spins costs a
        # third on a quiet one. At 20,000 turns a quiet machine loses nothing (OpenMP's default is 300,000).
        "GOMP_SPINCOUNT": "20000",
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"), "TRITON_CACHE_DIR": str(cache / "triton"),
        "MPLCONFIGDIR": str(cache / "matplotlib"),
    }
    if deterministic:
        made["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    return made


class Child:
    """A running child. Lines are collected by a thread; everything else is called from the supervisor's."""

    def __init__(
        self, module: str, arguments: Sequence[str], env: Mapping[str, str], log_file: Path, *, within: Sequence[str] = (),
        locks: Sequence[int] = (),
    ) -> None:
        """Start it.

        Args:
            module: what is run.
            arguments: of its command line.
            env: its whole environment.
            log_file: what it writes to standard error is appended there.
            within: a command that becomes the child, for example `unshare --net`.
            locks: descriptors of locked files, which the child inherits: it holds them also when this process is killed first.
        """
        with log_file.open("ab") as errors:
            self._process = subprocess.Popen(
                [*within, sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=dict(env), start_new_session=True,
                pass_fds=locks,
            )
        self.log_file = log_file
        self.heard = time.monotonic()
        self._lines: queue.SimpleQueue[Line] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="child-lines", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id, and id of its process group."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs or while lines are still being read."""
        code = self._process.poll()
        if code is None:
            return None
        self._reader.join(timeout=5.0)
        return code

    def lines(self) -> list[Line]:
        """The lines that have come since the last call."""
        taken: list[Line] = []
        with contextlib.suppress(queue.Empty):
            while True:
                taken.append(self._lines.get_nowait())
        return taken

    def terminate(self) -> None:
        """SIGTERM to the child alone: it checkpoints and ends its own helpers."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Make sure that nothing is left of the group, and free the pipes; of one that does not die, leave both."""
        self.kill()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            return
        self._reader.join(timeout=5.0)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def log_tail(self, max_bytes: int = 2000) -> str:
        """The end of what the child wrote to standard error."""
        try:
            with self.log_file.open("rb") as source:
                source.seek(0, os.SEEK_END)
                source.seek(max(0, source.tell() - max_bytes))
                return source.read().decode(errors="replace")
        except OSError:
            return ""

    def _read(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            self.heard = time.monotonic()
            try:
                self._lines.put(parse_line(raw))
            except ValidationError:
                log.warning("unreadable_line_from_child", line=raw[:200].decode(errors="replace"))
