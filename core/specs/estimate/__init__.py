"""A coarse estimate of time and memory for a composition, from its specification alone. Torch-free.

Work is counted in multiply-accumulates of the networks, forward 1, backward to the images 1, backward with weights 2, and
divided by what a kind of worker was measured to do. Wrong by a factor of two is good here: the child measures a real step
and reports that instead. For a kind of worker on which nothing was measured, `basis` says so.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from core.catalogue import DatasetInfo
from core.specs.estimate.costs import WORKERS
from core.specs.estimate.memory import peak_memory
from core.specs.estimate.seconds import evaluation_seconds, iteration_seconds, pool_seconds
from core.specs.job import DistillationSpec
from core.specs.requirements import required_pools
from core.specs.trajectories import trajectory_bytes


class PhaseEstimate(BaseModel):
    """Seconds of one phase."""

    phase: Literal["experts", "distilling", "evaluating"]
    seconds: float


class Estimate(BaseModel):
    """What a composition will take on one kind of worker: coarse."""

    worker: Literal["cpu", "gpu"]
    seconds: float = Field(description="All phases; pools of trained networks that exist already cost nothing.")
    phases: list[PhaseEstimate]
    peak_memory_bytes: int = Field(description="Resident memory of the child on a CPU, memory of the device on a GPU.")
    trajectory_bytes: int = Field(description="Files of expert trajectories that the job needs; 0 for jobs without any.")
    basis: str = Field(description="Where the speed behind the estimate comes from.")


def estimate(spec: DistillationSpec, info: DatasetInfo) -> Estimate:
    """Estimate a job on the kind of worker that its resources name."""
    kind: Literal["cpu", "gpu"] = "gpu" if spec.resources.gpus else "cpu"
    worker = WORKERS[kind]
    phases = [
        PhaseEstimate(phase="experts", seconds=sum(pool_seconds(pool, info, worker) for pool in required_pools(spec))),
        PhaseEstimate(phase="distilling", seconds=spec.method.max_iterations * iteration_seconds(spec, info, worker)),
        PhaseEstimate(phase="evaluating", seconds=evaluation_seconds(spec, info, worker)),
    ]
    for phase in phases:
        phase.seconds = round(phase.seconds, 1)
    return Estimate(
        worker=kind, seconds=round(sum(phase.seconds for phase in phases), 1), phases=phases,
        peak_memory_bytes=peak_memory(spec, info, worker), trajectory_bytes=trajectory_bytes(spec, info), basis=worker.basis,
    )


__all__ = ["Estimate", "PhaseEstimate", "estimate"]
