"""The child process: `python -m core.run JOBDIR` reads `job.json` and runs the job, whatever its kind, to its artifacts.

What it says and how it ends is fixed in `core.specs.report`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, assert_never

import torch

from core import probe
from core.attempt import Attempt
from core.child import ChildHooks, Failure, Lines, host_memory_failure, read_job, serve
from core.child import failure_of as failure_without_torch
from core.errors import DeviceFaultError, DeviceMemoryError, SpecError
from core.run_distillation import Distillation
from core.run_experts import train_experts
from core.specs.ingest import IngestSpec
from core.specs.job import DistillationSpec, EvaluationJobSpec, ExpertsSpec, ProbeSpec
from core.specs.report import ExitCode

DEVICE_SIGNS = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error", "No CUDA GPUs are available")
"""In messages of errors of libraries on the device, which torch raises without a class of their own."""


def run(folder: Path, lines: Lines, hooks: ChildHooks) -> None:
    """Run the job of a directory.

    Raises:
        SpecError: `job.json` is missing or is not one this version understands.
        Stopped: SIGTERM came; what is worth keeping was written.
        DelegatedError: other jobs are to do the rest; what they need was written.
        JobFailure: the job cannot finish.
    """
    file, spec = read_job(folder)
    torch.set_num_threads(max(1, file.threads))
    attempt = Attempt(folder, file, lines, hooks)
    match spec:
        case DistillationSpec():
            Distillation(attempt, spec).run()
        case EvaluationJobSpec():
            Distillation(attempt, spec.distillation).evaluate_only(spec.units, spec.set_digest)
        case ExpertsSpec():
            train_experts(attempt, spec)
        case ProbeSpec():
            probe.run(folder, lines, hooks)
        case IngestSpec():
            raise SpecError("files of users are read by core.ingest.run, in a process that may do less")
        case _:
            assert_never(spec)


def failure_of(error: BaseException) -> Failure:
    """Stable code, message, exit code and detail of an error."""
    match error:
        case torch.OutOfMemoryError():
            return Failure(DeviceMemoryError.code, _first_line(error), ExitCode.DEVICE_MEMORY, _device_memory())
        case torch.AcceleratorError():
            return Failure(DeviceFaultError.code, _first_line(error), ExitCode.DEVICE_FAULT)
        case RuntimeError() if any(sign in str(error) for sign in DEVICE_SIGNS):
            return Failure(DeviceFaultError.code, _first_line(error), ExitCode.DEVICE_FAULT)
        case RuntimeError() if "can't allocate memory" in str(error):
            return host_memory_failure(_first_line(error))
        case _:
            return failure_without_torch(error)


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0]


def _device_memory() -> dict[str, Any]:
    """Largest amount of device memory held and reserved, in bytes; nothing where no device is in use."""
    if not torch.cuda.is_initialized():
        return {}
    return {
        "peak_memory_bytes": torch.cuda.max_memory_allocated(), "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
    }


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:], run, failure_of))
