"""How good a synthetic set is: networks trained on it from scratch, tested once with the last iterate.

A unit is one network: `distilled/0`, `distilled_8bit/0`, `random/0`, and so on. Finished units stay in the record, so that a
resumed job does not repeat them. Networks of the same index start from the same weights and see the same draws, so that
the rows of the report are paired. The test split is read at the end of each unit and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.build import build_augmentation
from core.distillation.init.random import RandomInit
from core.distillation.randomness import rng
from core.networks.build import build_network
from core.progress import Hooks, Record
from core.report.outcome import Score, ScoreName
from core.specs.evaluation import EvaluationSpec
from core.training import Schedule, Trainer

LOSS_SERIES = "evaluation/train_loss"
ACCURACY_SERIES = "evaluation/train_accuracy"
HELD_OUT_SERIES = "held_out/accuracy"
CURVE_POINTS = 100


@dataclass(frozen=True)
class Unit:
    """One network to train and test."""

    name: ScoreName
    index: int

    @property
    def key(self) -> str:
        """Name in the record."""
        return f"{self.name}/{self.index}"


def units(spec: EvaluationSpec) -> list[Unit]:
    """Everything that a protocol trains, in order."""
    found = [Unit("distilled", i) for i in range(spec.num_eval)]
    if spec.check_8bit:
        found += [Unit("distilled_8bit", i) for i in range(spec.num_eval)]
    return found + [Unit("random", i) for i in range(spec.random_draws)]


def schedule_of(spec: EvaluationSpec) -> Schedule:
    """The training part of a protocol."""
    return Schedule(spec.num_epochs, spec.batch_size, spec.lr_net, spec.momentum, spec.weight_decay)


def evaluate(
    spec: EvaluationSpec,
    data: RealSet,
    images: Tensor,
    labels: Tensor,
    *,
    ipc: int,
    seed: int,
    record: Record | None = None,
    hooks: Hooks | None = None,
    save: Callable[[], None] | None = None,
    save_seconds: float = 60.0,
) -> list[Score]:
    """Run the units that the record lacks and return the scores of all.

    Args:
        spec: evaluation protocol.
        data: real set of the job.
        images: (N, C, H, W) float32, decoded synthetic images in network space.
        labels: (N,) int64.
        ipc: budget of random selection, images per class.
        seed: seed of the job.
        record: finished units and curves; a new one when absent.
        hooks: told about progress; may ask to stop.
        save: called after units, when the last call is `save_seconds` ago, and when stopping.
        save_seconds: wall time between calls of `save`.

    Raises:
        Stopped: the hooks asked for it; the unit that was running starts anew next time.
    """
    record, hooks = record if record is not None else Record(), hooks or Hooks()
    todo = units(spec)
    passes = spec.num_epochs + 1
    hooks.phase("evaluating", len(todo) * passes)
    trainer = _trainer(spec, data, len(labels), len(todo))
    saved = started = time.monotonic()
    before = record.seconds.get("evaluating", 0.0)
    try:
        for position, unit in enumerate(todo):
            if unit.key in record.units:
                continue
            record.units[unit.key] = _run(unit, position, trainer, data, images, labels, ipc, seed, record, hooks, len(todo))
            record.seconds["evaluating"] = before + time.monotonic() - started
            if save is not None and time.monotonic() - saved >= save_seconds:
                save()
                saved = time.monotonic()
    finally:
        record.seconds["evaluating"] = before + time.monotonic() - started
    return list(_scores(spec, trainer.net.name, record))


def _trainer(spec: EvaluationSpec, data: RealSet, num_images: int, num_runs: int) -> Trainer:
    net = build_network(spec.network, data.info)
    augmentation = build_augmentation(spec.augmentation)
    return Trainer.for_runs(
        net, schedule_of(spec), augmentation, device=data.device, num_images=num_images, num_runs=num_runs
    )


def _run(
    unit: Unit,
    position: int,
    trainer: Trainer,
    data: RealSet,
    images: Tensor,
    labels: Tensor,
    ipc: int,
    seed: int,
    record: Record,
    hooks: Hooks,
    num_units: int,
) -> float:
    """Train and test the network of one unit; the first one leaves its curves in the record."""
    if unit.name == "distilled_8bit":
        images = data.normalise(data.to_8bit(images))
    elif unit.name == "random":
        images, labels = random_selection(data, ipc, seed, unit.index)
    passes = trainer.schedule.num_epochs + 1
    first = unit == Unit("distilled", 0)

    def on_epoch(finished: int) -> None:
        hooks.progress(position * passes + finished, num_units * passes, message=unit.key)

    trained = trainer.train(
        images, labels, seed=seed, name="evaluation", index=unit.index, hooks=hooks, on_epoch=on_epoch,
        curve_points=CURVE_POINTS if first else 0,
    )
    for series, points in ((LOSS_SERIES, trained.loss), (ACCURACY_SERIES, trained.accuracy)):
        for at, value in points:
            record.add(hooks, series, at, value)
    with hooks.busy(f"{unit.key} test"):
        return trainer.accuracy(trained, data, data.test_images, data.test_labels)


def random_selection(data: RealSet, ipc: int, seed: int, index: int) -> tuple[Tensor, Tensor]:
    """Draw number `index` of random real images at the budget of `ipc` per class: the baseline."""
    chosen = RandomInit().choose(data, ipc, rng(seed, "baseline/random", index))
    return chosen.flatten(0, 1), torch.arange(data.num_classes, device=data.device).repeat_interleave(ipc)


def _scores(spec: EvaluationSpec, network: str, record: Record) -> Iterator[Score]:
    for name in get_args(ScoreName):
        accuracies = tuple(record.units[unit.key] for unit in units(spec) if unit.name == name)
        if accuracies:
            yield Score(name, network, accuracies, num_sets=len(accuracies) if name == "random" else 1)


class HeldOut:
    """Every so many iterations: one network on the set as it is, tested on held-out training images."""

    def __init__(self, spec: EvaluationSpec, data: RealSet, *, ipc: int, num_iterations: int, seed: int) -> None:
        self._every = spec.held_out_every_iterations
        self._data = data
        self._seed = seed
        num_runs = 1 + num_iterations // self._every if self._every else 0
        self._trainer = _trainer(spec, data, ipc * data.num_classes, num_runs) if self._every else None

    def __call__(self, completed: int, decoded: Callable[[], tuple[Tensor, Tensor]], record: Record, hooks: Hooks) -> None:
        """Look at the set after `completed` iterations, once for each such number."""
        if self._trainer is None or not completed or completed % self._every:
            return
        if any(at == completed for at, _ in record.series.get(HELD_OUT_SERIES, [])):
            return
        (images, labels), data = decoded(), self._data
        with hooks.busy("watching on held-out images"):
            trained = self._trainer.train(
                images, labels, seed=self._seed, name="held_out_watch", index=completed, hooks=hooks
            )
            value = self._trainer.accuracy(trained, data, data.held_out_images, data.held_out_labels)
        record.add(hooks, HELD_OUT_SERIES, completed, value)
