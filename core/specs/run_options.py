"""What every kind of job says: how it is queued and run. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, StringConstraints

from core.specs.base import Spec

Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
TagKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,63}$")]
TagValue = Annotated[str, StringConstraints(max_length=255)]


class ResourcesSpec(Spec):
    """What the job occupies while it runs."""

    gpus: int = Field(default=0, ge=0, le=1)
    """GPUs of one host; 0 runs on the CPU."""

    deterministic: bool = False
    """On CUDA, only kernels that give the same bytes at each run; slower. The CPU is always deterministic."""


class RunOptions(Spec):
    """What every kind of job says: how it is queued and run."""

    resources: ResourcesSpec = ResourcesSpec()
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of everything random in the job; the same specification and seed give the same bytes on a CPU."""

    tags: dict[TagKey, TagValue] = Field(default_factory=dict, max_length=16)
    priority: Priority = "normal"
    timeout_seconds: int = Field(default=86_400, ge=1, le=30 * 86_400)
    """Wall time of one attempt, in seconds; beyond it the job fails with `timeout`."""

    max_attempts: int = Field(default=3, ge=1, le=10)
    """Attempts that may end badly before the job fails; a drain or a store outage does not count."""

    @property
    def queue(self) -> str:
        """Name of the Celery queue whose workers have the resources."""
        return "gpu" if self.resources.gpus else "cpu"
