"""What a probe does: steps of a stated length without any mathematics, to see whether an installation works. Torch-free.

A probe takes the way of every job (specification, queue, lease, child, checkpoints, metrics, one artifact). Its `fault` makes
the child misbehave in one stated way; an installation takes such probes only with `DISTILL_PROBE_FAULTS=1`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from core.specs.base import Spec


class NoFaultSpec(Spec):
    """The probe does what it says."""

    kind: Literal["none"] = "none"


class _Fault(Spec):
    """When a probe misbehaves."""

    step: int = Field(default=0, ge=0)
    """Steps that are done when it begins."""

    attempts: int = Field(default=1, ge=1)
    """Attempts that misbehave, from the first on; later ones do not."""


class ExitFaultSpec(_Fault):
    """The child ends with an exit code, without a word about why."""

    kind: Literal["exit"] = "exit"
    code: int = Field(ge=0, le=255)


class SignalFaultSpec(_Fault):
    """The child is ended by a signal, as by the kernel."""

    kind: Literal["signal"] = "signal"
    signal: Literal["SIGKILL", "SIGSEGV", "SIGABRT"]


class HangFaultSpec(_Fault):
    """The child says and does nothing any more, and SIGTERM does not end it."""

    kind: Literal["hang"] = "hang"


class DeafFaultSpec(_Fault):
    """The child goes on, and ignores SIGTERM."""

    kind: Literal["deaf"] = "deaf"


class MemoryFaultSpec(_Fault):
    """The child takes memory until the machine, or a limit of its own, gives no more."""

    kind: Literal["memory"] = "memory"
    limit_bytes: int = Field(default=1 << 30, ge=1 << 20, le=1 << 40)
    """Address space that the child allows itself first."""


class DiskFaultSpec(_Fault):
    """The child writes into the job directory until the disk, or its own limit, takes no more."""

    kind: Literal["disk"] = "disk"
    limit_bytes: int = Field(default=1 << 30, ge=1, le=1 << 40)
    """What the child writes at most."""


FaultSpec = Annotated[
    NoFaultSpec | ExitFaultSpec | SignalFaultSpec | HangFaultSpec | DeafFaultSpec | MemoryFaultSpec | DiskFaultSpec,
    Field(discriminator="kind"),
]


class ProbeWorkSpec(Spec):
    """The work of a probe."""

    steps: int = Field(default=10, ge=1, le=1_000_000)
    seconds_per_step: float = Field(default=0.1, ge=0.0, le=3600.0)
    checkpoint_steps: int = Field(default=10, ge=1, le=1_000_000)
    """Steps between checkpoints."""

    artifact_bytes: int = Field(default=1024, ge=0, le=1 << 30)
    """Size of `probe.bin`, whose bytes the seed decides."""
