"""The child of a probe: `python -m core.probe JOBDIR` takes steps of a stated length and leaves one file. No torch.

Each step hashes the state before it, and the file is made from the last state: its bytes say that every step was taken once,
in order, however often the probe was interrupted.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import assert_never

from pydantic import BaseModel, ConfigDict, ValidationError

from core.child import ChildHooks, Lines, failure_of, read_job, serve
from core.errors import SpecError
from core.progress import Stopped
from core.specs.job import ProbeSpec
from core.specs.probe import (
    DeafFaultSpec,
    DiskFaultSpec,
    ExitFaultSpec,
    FaultSpec,
    HangFaultSpec,
    MemoryFaultSpec,
    NoFaultSpec,
    SignalFaultSpec,
)
from core.specs.report import ArtifactLine, CheckpointLine, JobFile, ResultLine

ARTIFACT = "probe.bin"
CHUNK_BYTES = 1 << 20
KEEP = 2
"""Checkpoints left in the folder: the newest may still be on its way to the store."""


class Progress(BaseModel):
    """What a checkpoint holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    state: str
    """Hash chain over the steps taken, in hex."""

    def advanced(self) -> Progress:
        """One step further."""
        return Progress(step=self.step + 1, state=hashlib.sha256(f"{self.state} {self.step + 1}".encode()).hexdigest())


def run(folder: Path, lines: Lines, hooks: ChildHooks) -> None:
    """Take the steps, from the checkpoint on where there is one, and write the artifact.

    Raises:
        SpecError: `job.json` is missing, or is not of a probe.
        Stopped: SIGTERM came; a checkpoint was written.
    """
    file, spec = read_job(folder)
    if not isinstance(spec, ProbeSpec):
        raise SpecError(f"core.probe runs probes, not jobs of kind {spec.kind!r}")
    at = first = _begin(folder, file, spec)
    work = spec.work
    hooks.phase("probing", work.steps)
    while at.step < work.steps:
        _misbehave(spec.fault, at.step, file.attempt, folder)
        if hooks.wait(work.seconds_per_step):
            _save(folder, at, lines)
            raise Stopped
        at = at.advanced()
        hooks.progress(at.step, work.steps, work.seconds_per_step)
        hooks.metric("probe/value", at.step, int(at.state[:8], 16) / 0xFFFFFFFF)
        if at.step % work.checkpoint_steps == 0:
            _save(folder, at, lines)
    _misbehave(spec.fault, at.step, file.attempt, folder)
    hooks.phase("reporting", 0)
    path = folder / "out" / ARTIFACT
    path.parent.mkdir(exist_ok=True)
    sha256 = write_bytes(path, at.state, work.artifact_bytes)
    file_name = path.relative_to(folder).as_posix()
    lines.write(ArtifactLine(kind="probe", name=ARTIFACT, file=file_name, media_type="application/octet-stream"))
    lines.write(ResultLine(summary={"steps": at.step, "state": at.state, "sha256": sha256, "resumed_from_step": first.step}))


def last_state(spec: ProbeSpec) -> str:
    """The state after every step: what an undisturbed probe ends with."""
    at = _fresh(spec)
    while at.step < spec.work.steps:
        at = at.advanced()
    return at.state


def write_bytes(path: Path, state: str, count: int) -> str:
    """Write `count` bytes that a state decides; their SHA-256, in hex."""
    digest = hashlib.sha256()
    with path.open("wb") as target:
        for start in range(0, count, CHUNK_BYTES):
            chunk = hashlib.shake_128(f"{state} {start}".encode()).digest(min(CHUNK_BYTES, count - start))
            digest.update(chunk)
            target.write(chunk)
    return digest.hexdigest()


def _fresh(spec: ProbeSpec) -> Progress:
    return Progress(step=0, state=hashlib.sha256(str(spec.seed).encode()).hexdigest())


def _begin(folder: Path, file: JobFile, spec: ProbeSpec) -> Progress:
    if not file.checkpoint:
        return _fresh(spec)
    try:
        return Progress.model_validate_json((folder / file.checkpoint).read_text())
    except ValidationError as error:
        raise SpecError(f"the checkpoint is not one of a probe: {error}") from error


def _save(folder: Path, at: Progress, lines: Lines) -> None:
    """A file that appears under its name only when all of it is on the disk."""
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    path = checkpoints / f"probe-{at.step:07d}.json"
    temporary = path.with_suffix(".partial")
    with temporary.open("w") as target:
        target.write(json.dumps(at.model_dump()))
        target.flush()
        os.fsync(target.fileno())
    temporary.replace(path)
    lines.write(CheckpointLine(step=at.step, file=path.relative_to(folder).as_posix()))
    for old in sorted(checkpoints.glob("probe-*.json"))[:-KEEP]:
        old.unlink()


def _misbehave(fault: FaultSpec, step: int, attempt: int, folder: Path) -> None:
    """Do what the specification asks for, when its step and attempt have come."""
    if isinstance(fault, NoFaultSpec) or attempt > fault.attempts or step != fault.step:
        return
    match fault:
        case ExitFaultSpec():
            os._exit(fault.code)
        case SignalFaultSpec():
            os.kill(os.getpid(), signal.Signals[fault.signal])
        case HangFaultSpec():
            while True:
                time.sleep(3600)
        case DeafFaultSpec():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case MemoryFaultSpec():
            _take_memory(fault.limit_bytes)
        case DiskFaultSpec():
            _take_disk(folder / "filling", fault.limit_bytes)
        case _:
            assert_never(fault)


def _take_memory(limit_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    taken = []
    while True:
        taken.append(b"x" * CHUNK_BYTES)  # zeros would only be promised by the kernel, not taken


def _take_disk(path: Path, limit_bytes: int) -> None:
    with path.open("wb", buffering=0) as target:
        for _ in range(0, limit_bytes, CHUNK_BYTES):
            target.write(bytes(CHUNK_BYTES))


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:], run, failure_of))
