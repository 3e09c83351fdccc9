"""Distil a set in this process: the call behind the child, behind tests and behind benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.build import build
from core.distillation.engine import Engine
from core.distillation.probe import probe
from core.distillation.resume import Checkpoint
from core.experts import Experts
from core.progress import Hooks, Record, Stopped
from core.specs.job import DistillationSpec


@dataclass(frozen=True)
class Distilled:
    """A synthetic set in network space, on the device of the real set, sorted by class."""

    images: Tensor
    """(N, C, H, W) float32, decoded."""

    labels: Tensor
    """(N,) int64, or (N, K) float32 that add up to 1."""

    classes: Tensor
    """(N,) int64, ascending."""

    initial: Tensor
    """(n, C, H, W) float32: what the set started from."""

    storage: dict[str, int]
    """Stored scalars by kind. A learned rate is none of them: it says how to train on the set, as a protocol's rate does."""

    factors: dict[str, Tensor]
    """What is stored, where the decoded images do not say it better (`Parameterization.export`); else empty."""

    learned_rate: float | None
    """Learning rate that was learned with the set, where its objective learns one."""

    record: Record
    engine: Engine


def distil(
    spec: DistillationSpec,
    data: RealSet,
    experts: Experts,
    *,
    hooks: Hooks | None = None,
    resume: Checkpoint | None = None,
    record: Record | None = None,
    save: Callable[[Engine], None] | None = None,
    save_seconds: float = 60.0,
    watch: Callable[[Engine, int], None] | None = None,
    compiled: bool | None = None,
) -> Distilled:
    """Run all iterations of a specification.

    Args:
        spec: resolved specification.
        data: its real set, with the same seed and held-out fraction.
        experts: answers for the pools of trained networks that the specification needs.
        hooks: told about progress; may ask to stop.
        resume: where to continue; the result has the same bytes as that of an uninterrupted run.
        record: where curves and times go; that of `resume`, or a new one, when absent.
        save: writes a checkpoint of the engine.
        save_seconds: wall time between checkpoints.
        watch: called with the engine and the number of completed iterations, before each iteration and at the end.
        compiled: force or forbid compilation; None decides by the length of the run.

    Raises:
        DivergedError: a loss or gradient was not finite.
        DeviceMemoryError: a step does not fit the device, however it is cut.
        HostMemoryError: a step does not fit the host, however it is cut.
        Stopped: the hooks asked for it; a checkpoint was written.
    """
    hooks = hooks or Hooks()
    record = record if record is not None else resume.record if resume is not None else Record()
    composition = build(spec, data, experts)
    num_iterations = spec.method.max_iterations
    engine = Engine(
        composition, data, seed=spec.seed, num_iterations=num_iterations, num_networks=spec.method.num_networks,
        record=record, compiled=compiled,
    )
    clipped = composition.selection.warning()
    if clipped and num_iterations:
        record.warn(hooks, "real_batch_clipped", clipped)
    if resume is not None:
        engine.load(resume.step, resume.state)
    if not engine.finished:
        with hooks.busy("trying one step"):
            first = probe(engine)
        record.first_step = {name: float(value) for name, value in first._asdict().items()}
        hooks.progress(*engine.position(), first.seconds)
    before = record.seconds.get("distilling", 0.0)
    started = time.monotonic()

    def keep_time() -> None:
        record.seconds["distilling"] = before + time.monotonic() - started

    def checkpoint() -> None:
        keep_time()
        if save is not None:
            save(engine)

    def look(completed: int) -> None:
        if watch is not None:
            watch(engine, completed)

    try:
        engine.run(num_iterations, hooks, save=checkpoint, save_seconds=save_seconds, before_iteration=look)
        look(engine.completed)
    except Stopped:
        checkpoint()
        raise
    keep_time()
    images, labels = engine.decoded()
    classes = torch.arange(data.num_classes, device=data.device).repeat_interleave(len(images) // data.num_classes)
    rate = engine.learned_rate()
    storage = composition.parameterization.storage() | composition.labels.storage()
    factors = composition.parameterization.export()
    return Distilled(images, labels, classes, engine.initial, storage, factors, rate, record, engine)
