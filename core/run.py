"""The child process: `python -m core.run JOBDIR` reads `job.json` and runs the job, whatever its kind, to its artifacts.

What it says and how it ends is fixed in `core.specs.report`.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import assert_never

import torch
from pydantic import ValidationError

from core.attempt import Attempt
from core.child import ChildHooks, Lines, hold_life_line
from core.errors import (
    DatasetUnreadableError,
    DeviceFaultError,
    DeviceMemoryError,
    DistillError,
    DivergedError,
    HostMemoryError,
    InvalidInputError,
    SpecError,
)
from core.progress import Stopped
from core.run_distillation import Distillation
from core.run_experts import train_experts
from core.specs.job import DistillationSpec, ExpertsSpec, parse_job_spec
from core.specs.report import ErrorLine, ExitCode, JobFile

log = logging.getLogger(__name__)


def run(folder: Path, lines: Lines, hooks: ChildHooks) -> None:
    """Run the job of a directory.

    Raises:
        SpecError: `job.json` is missing or is not one this version understands.
        Stopped: SIGTERM came; what is worth keeping was written.
        JobFailure: the job cannot finish.
    """
    try:
        file = JobFile.model_validate_json((folder / "job.json").read_text())
        spec = parse_job_spec(file.spec)
    except (OSError, ValidationError) as error:
        raise SpecError(f"job.json cannot be used: {error}") from error
    torch.set_num_threads(max(1, file.threads))
    attempt = Attempt(folder, file, lines, hooks)
    match spec:
        case DistillationSpec():
            Distillation(attempt, spec).run()
        case ExpertsSpec():
            train_experts(attempt, spec)
        case _:
            assert_never(spec)


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
        run(Path(arguments[0]), lines, hooks)
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
