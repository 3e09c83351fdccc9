"""The child process: `python -m core.run JOBDIR` reads `job.json`, distils, evaluates and writes the artifacts.

It touches the job directory and the canonical data only. What it says and how it ends is fixed in `core.specs.report`.
"""

from __future__ import annotations

import logging
import os
import platform
import resource
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from core.catalogue import dataset_info
from core.child import ChildHooks, Lines, hold_life_line
from core.data.real_set import RealSet
from core.distillation import resume
from core.distillation.distil import Distilled, distil
from core.distillation.engine import Engine
from core.errors import (
    DatasetUnreadableError,
    DeviceFaultError,
    DeviceMemoryError,
    DeviceUnavailableError,
    DistillError,
    DivergedError,
    HostMemoryError,
    InvalidInputError,
    SpecError,
)
from core.evaluation.evaluate import HeldOut, evaluate
from core.progress import Record, Stopped
from core.report.outcome import Outcome, Score
from core.specs.job import DistillationSpec
from core.specs.report import CheckpointLine, ErrorLine, ExitCode, JobFile, ResultLine

log = logging.getLogger(__name__)


class Job:
    """One attempt of one job inside its directory."""

    def __init__(self, folder: Path, lines: Lines, hooks: ChildHooks) -> None:
        """Read what the supervisor wrote.

        Raises:
            SpecError: `job.json` is missing or is not one this version understands.
        """
        self.folder = folder
        self.lines = lines
        self.hooks = hooks
        try:
            self.file = JobFile.model_validate_json((folder / "job.json").read_text())
            self.spec = DistillationSpec.model_validate(self.file.spec, strict=False)
        except (OSError, ValidationError) as error:
            raise SpecError(f"job.json cannot be used: {error}") from error
        self.info = dataset_info(self.spec.dataset.name)
        self.record = Record()
        self.resumed_from = 0

    def run(self) -> None:
        """Distil, evaluate, report.

        Raises:
            Stopped: SIGTERM came; a checkpoint was written.
            JobFailure: the job cannot finish.
        """
        spec, hooks = self.spec, self.hooks
        hooks.phase("preparing", 0)
        device = choose_device(spec)
        with hooks.busy("loading data"):
            data = RealSet.load(
                Path(self.file.dataset_dir), self.info, device=device, seed=spec.seed,
                held_out_fraction=spec.dataset.held_out_fraction,
            )
        checkpoint = self._checkpoint_to_resume()
        if checkpoint is not None:
            self.record, self.resumed_from = checkpoint.record, checkpoint.step
        hooks.phase("distilling", spec.method.num_iterations)
        watch = HeldOut(spec.evaluation, data, ipc=spec.ipc, num_iterations=spec.method.num_iterations, seed=spec.seed)
        distilled = distil(
            spec, data, hooks=hooks, resume=checkpoint, record=self.record, save=self._save,
            save_seconds=self.file.checkpoint_seconds,
            watch=lambda engine, completed: watch(completed, engine.decoded, self.record, hooks),
        )
        save = partial(self._save, distilled.engine)
        try:
            save()
            scores = evaluate(
                spec.evaluation, data, distilled.images, distilled.labels, ipc=spec.ipc, seed=spec.seed,
                record=self.record, hooks=hooks, save=save, save_seconds=self.file.checkpoint_seconds,
            )
        except Stopped:
            save()
            raise
        self._report(distilled, scores, device)

    def _checkpoint_to_resume(self) -> resume.Checkpoint | None:
        if not self.file.checkpoint:
            return None
        found = resume.load(self.folder / self.file.checkpoint, science_digest=self.spec.science_digest())
        if found.code_revision != self.file.code_revision:
            found.record.warn(
                self.hooks, "code_changed",
                f"continued at iteration {found.step} by revision {self.file.code_revision}, begun by {found.code_revision}",
            )
        return found

    def _save(self, engine: Engine) -> None:
        checkpoint = resume.Checkpoint(
            engine.completed, self.spec.science_digest(), self.file.code_revision, engine.state(), self.record
        )
        path = resume.save(checkpoint, self.folder / "checkpoints")
        self.lines.write(CheckpointLine(step=engine.completed, file=path.relative_to(self.folder).as_posix()))

    def _report(self, distilled: Distilled, scores: list[Score], device: torch.device) -> None:
        from core.report.build import write_artifacts  # plotting libraries load only for those who finish

        self.hooks.phase("reporting", 0)
        started = time.monotonic()
        record = self.record
        outcome = Outcome(
            job_id=self.file.job_id,
            attempt=self.file.attempt,
            spec=self.spec,
            info=self.info,
            images=distilled.images.cpu().numpy(),
            labels=distilled.labels.cpu().numpy(),
            initial_images=distilled.initial.cpu().numpy(),
            storage=distilled.storage,
            scores=scores,
            series=record.series,
            seconds=record.seconds,
            seconds_per_iteration=record.timed_seconds / record.timed_iterations if record.timed_iterations else 0.0,
            peak_memory_bytes=peak_memory_bytes(device),
            device=device_name(device),
            dataset_digest=self.info.digest,
            code_revision=self.file.code_revision,
            versions=versions(),
            warnings=tuple(record.warnings.values()),
            resumed_from_step=self.resumed_from,
        )
        with self.hooks.busy("writing artifacts"):
            artifacts = write_artifacts(outcome, self.folder / "out")
        for artifact in artifacts:
            self.lines.write(artifact)
        record.seconds["reporting"] = time.monotonic() - started
        self.lines.write(ResultLine(summary=summary_of(outcome)))


def summary_of(outcome: Outcome) -> dict[str, Any]:
    """What a list of jobs shows of a finished one."""
    return {
        "scores": [
            {
                "name": s.name, "mean": s.mean, "std": s.std if s.n > 1 else None, "n": s.n, "num_sets": s.num_sets,
                "network": s.network,
            }
            for s in outcome.scores
        ],
        "storage": dict(outcome.storage),
        "num_images": len(outcome.labels),
        "seconds": dict(outcome.seconds),
        "seconds_per_iteration": outcome.seconds_per_iteration,
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "device": outcome.device,
        "resumed_from_step": outcome.resumed_from_step,
    }


def choose_device(spec: DistillationSpec) -> torch.device:
    """The device that the specification's resources name.

    Raises:
        DeviceUnavailableError: a GPU is asked for and there is none.
    """
    if not spec.resources.gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceUnavailableError("the job asks for a GPU (resources.gpus is 1) and this worker has none")
    if spec.resources.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    return torch.device("cuda", 0)


def device_name(device: torch.device) -> str:
    """For people: model of the GPU, or CPU and number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def peak_memory_bytes(device: torch.device) -> int:
    """Largest amount of memory held so far: of the device on CUDA, resident memory of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}
    return found | {"distill-service": version("distill-service")}


def failure_of(error: BaseException) -> tuple[str, str, ExitCode]:
    """Stable code, message and exit code of an error."""
    match error:
        case SpecError():
            return error.code, error.message, ExitCode.BAD_SPEC
        case DatasetUnreadableError() | InvalidInputError():
            return error.code, error.message, ExitCode.BAD_DATA
        case DivergedError():
            return error.code, error.message, ExitCode.DIVERGED
        case DistillError():
            return error.code, error.message, ExitCode.INTERNAL
        case torch.OutOfMemoryError():
            return DeviceMemoryError.code, str(error).split("\n")[0], ExitCode.DEVICE_MEMORY
        case torch.AcceleratorError():
            return DeviceFaultError.code, str(error).split("\n")[0], ExitCode.DEVICE_FAULT
        case MemoryError():
            return HostMemoryError.code, "the host has no memory left", ExitCode.INTERNAL
        case RuntimeError() if "can't allocate memory" in str(error):
            return HostMemoryError.code, str(error).split("\n")[0], ExitCode.INTERNAL
        case _:
            return "internal", f"{type(error).__name__}: {error}", ExitCode.INTERNAL


def main(arguments: list[str]) -> int:
    """Run one job directory; return the exit code."""
    lines = Lines()
    hold_life_line()
    hooks = ChildHooks(lines)
    hooks.listen()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        if len(arguments) != 1:
            raise SpecError("usage: python -m core.run JOBDIR")
        job = Job(Path(arguments[0]), lines, hooks)
        torch.set_num_threads(max(1, job.file.threads))
        job.run()
    except Stopped:
        return int(ExitCode.STOPPED)
    except Exception as error:
        log.exception("job_failed")
        code, message, exit_code = failure_of(error)
        lines.write(ErrorLine(code=code, message=message))
        return int(exit_code)
    return int(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
