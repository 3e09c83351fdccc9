"""What a child says: JSON lines on its standard output, and its exit code.

The supervisor parses each line with `parse_line`; anything else on standard output is an error of ours. Numbers are
finite or null, so that a diverged loss never makes invalid JSON.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from core.catalogue import DatasetInfo
from core.specs.ingest import IngestLimits

Phase = Literal["preparing", "training", "distilling", "evaluating", "reporting", "probing"]
"""`training`: of networks on the real set; `evaluating` trains on synthetic ones; `probing`: the steps of a probe."""

CHECKPOINT_FILE = "resume.safetensors"
"""Name in a job directory of the checkpoint to continue from."""

EXPERTS_DIR = "experts"
"""Folder in a job directory of the pools that the job needs, each as `<content key>.safetensors`."""

DATASET_MANIFEST = "manifest.json"
"""Name in the folder of a canonical set; a set without it is not complete."""

DATASET_FILES = (DATASET_MANIFEST, "train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy")
"""Everything in the folder of a canonical set."""


class ExitCode(IntEnum):
    """Why a child ended (service contract 3.5)."""

    OK = 0
    BAD_SPEC = 64
    BAD_DATA = 65
    INTERNAL = 70
    DEVICE_MEMORY = 71
    DEVICE_FAULT = 72
    DIVERGED = 73
    STOPPED = 75
    """Stopped on request, with a checkpoint."""
    WAITING = 76
    """Other jobs are to do what a `UnitsLine` names, from the checkpoint that was written; then this one goes on."""


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="forbid")


class PhaseLine(_Line):
    """A phase begins."""

    type: Literal["phase"] = "phase"
    phase: Phase
    total_steps: int = Field(ge=0)


class ProgressLine(_Line):
    """`step` of `total_steps` of the phase are done."""

    type: Literal["progress"] = "progress"
    phase: Phase
    step: int = Field(ge=0)
    total_steps: int = Field(ge=0)
    seconds_per_step: float | None = None
    message: str = ""


class MetricLine(_Line):
    """One point of one series; a non-finite value is sent as null."""

    type: Literal["metric"] = "metric"
    name: str = Field(pattern=r"^[a-z0-9_]+(/[a-z0-9_]+)*$", max_length=128)
    step: int = Field(ge=0)
    value: float | None


class CheckpointLine(_Line):
    """A checkpoint was renamed into place; `file` is relative to the job directory."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int = Field(ge=0)
    file: str


class ArtifactLine(_Line):
    """An output file is complete; `file` is relative to the job directory."""

    type: Literal["artifact"] = "artifact"
    kind: str
    name: str
    file: str
    media_type: str


class UnitsLine(_Line):
    """Units of the evaluation that other jobs are to train."""

    type: Literal["units"] = "units"
    units: tuple[str, ...] = Field(min_length=1)
    set_digest: str
    """SHA-256 of the set that they are about."""


class WarningLine(_Line):
    """Something the user should know that does not stop the job."""

    type: Literal["warning"] = "warning"
    code: str
    message: str


class ErrorLine(_Line):
    """The job cannot finish; the exit code follows. `code` is one of `core.errors`."""

    type: Literal["error"] = "error"
    code: str
    message: str
    detail: dict[str, Any] = Field(default_factory=dict)


class ResultLine(_Line):
    """The summary that goes into the job's `result`."""

    type: Literal["result"] = "result"
    summary: dict[str, Any]


Line = Annotated[
    PhaseLine | ProgressLine | MetricLine | CheckpointLine | ArtifactLine | UnitsLine | WarningLine | ErrorLine | ResultLine,
    Field(discriminator="type"),
]
_ADAPTER: TypeAdapter[Line] = TypeAdapter(Line)


def parse_line(text: str | bytes) -> Line:
    """Parse one line.

    Raises:
        pydantic.ValidationError: the line is not one of ours.
    """
    return _ADAPTER.validate_json(text)


class EvaluatedUnits(BaseModel):
    """What a job of kind `evaluation` found out; its summary, and a part of its parent's `job.json`."""

    model_config = ConfigDict(frozen=True)

    set_digest: str
    """SHA-256 of the set that was evaluated; its maker takes the numbers for no other."""

    units: dict[str, float]
    """Test accuracy by unit."""

    series: dict[str, list[tuple[int, float]]] = Field(default_factory=dict)
    """Training curves, where the unit that leaves them was among those."""

    seconds: float = 0.0


class JobFile(BaseModel):
    """`job.json` in a job directory: all that a child is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_id: str
    attempt: int
    spec: dict[str, Any]
    """A `JobSpec`, as JSON."""

    dataset_dir: str = ""
    """Folder of the canonical real set; empty where the job reads none."""

    dataset: DatasetInfo | None = None
    """What is known of that set."""

    limits: IngestLimits = IngestLimits()
    """What files may be, where the job reads those of a user."""

    checkpoint: str = ""
    """Checkpoint to continue from, relative to the job directory; empty starts anew."""

    threads: int = 1
    checkpoint_seconds: float = 60.0
    units_per_job: int = 0
    """An evaluation with more units left than this is given to other jobs; 0: never."""

    evaluated: tuple[EvaluatedUnits, ...] = ()
    """What other jobs have evaluated for this one."""

    max_trajectory_bytes: int = 64 << 30
    """Expert trajectories larger than this are not made."""

    code_revision: str = "unknown"
