"""How good a synthetic set is: networks trained on it from scratch, tested once with the last iterate.

A unit is one network: `distilled/0`, `distilled_8bit/0`, `random/0`, and so on; for a further architecture its name stands in
between. Finished units stay in the record, so that a resumed job does not repeat them. Networks of the same architecture
and index start from the same weights and see the same draws, so that the rows of the report are paired. The test split is
read at the end of each unit and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.protocols import Parameterization
from core.evaluation.protocol import rate_for, schedule_of, trainer_of
from core.evaluation.sets import Sets
from core.experts import Experts
from core.progress import Hooks, Record
from core.report.outcome import Score, ScoreName
from core.specs.evaluation import EvaluationSpec
from core.specs.network import NetworkSpec, network_name
from core.training import Trainer

LOSS_SERIES = "evaluation/train_loss"
ACCURACY_SERIES = "evaluation/train_accuracy"
CURVE_POINTS = 100


@dataclass(frozen=True)
class Unit:
    """One network to train and test."""

    name: ScoreName
    index: int
    network: NetworkSpec
    further: bool = False
    """Whether the architecture is one of the `cross_networks`."""

    @property
    def key(self) -> str:
        """Name in the record."""
        place = f"{network_name(self.network)}/" if self.further else ""
        return f"{self.name}/{place}{self.index}"


def units(spec: EvaluationSpec) -> list[Unit]:
    """Everything that a protocol trains, in order: the set, its baselines, and both on further architectures."""
    counts: dict[ScoreName, int] = {"distilled": spec.num_eval}
    if spec.check_8bit:
        counts["distilled_8bit"] = spec.num_eval
    counts |= dict.fromkeys(("random", *spec.baselines), spec.random_draws)
    found = [Unit(name, i, spec.network) for name, count in counts.items() for i in range(count)]
    for network in spec.cross_networks:
        found += [Unit("distilled", i, network, further=True) for i in range(spec.num_eval)]
        found += [Unit("random", i, network, further=True) for i in range(spec.random_draws)]
    return found


def evaluate(
    spec: EvaluationSpec,
    data: RealSet,
    images: Tensor,
    labels: Tensor,
    *,
    ipc: int,
    seed: int,
    experts: Experts,
    parameterization: Parameterization,
    learned_rate: float | None = None,
    record: Record | None = None,
    hooks: Hooks | None = None,
    save: Callable[[], None] | None = None,
    save_seconds: float = 60.0,
    only: Collection[str] | None = None,
) -> list[Score]:
    """Run the units that the record lacks and return the scores of all.

    Args:
        spec: evaluation protocol.
        data: real set of the job.
        images: (N, C, H, W) float32, decoded synthetic images in network space.
        labels: (N,) int64, or (N, K) float32 that add up to 1.
        ipc: budget of random selection and of coresets, images per class.
        seed: seed of the job.
        experts: answers for the pools of the coresets among the baselines.
        parameterization: packs the baseline `mosaic`, and knows which of the synthetic images stand for one another.
        learned_rate: learning rate that was learned with the set, for protocols that ask for it.
        record: finished units and curves; a new one when absent.
        hooks: told about progress; may ask to stop.
        save: called after units, when the last call is `save_seconds` ago, and when stopping.
        save_seconds: wall time between calls of `save`.
        only: keys of the units that are wanted; all of them when absent.

    Raises:
        InvalidInputError: a pool that a baseline needs is missing, or the protocol asks for a learned rate and there is none.
        Stopped: the hooks asked for it; the unit that was running starts anew next time.
    """
    record, hooks = record if record is not None else Record(), hooks or Hooks()
    sets = Sets(
        spec, data, (images, labels), ipc=ipc, seed=seed, experts=experts, parameterization=parameterization, hooks=hooks
    )
    num_images = len(labels) // parameterization.num_variants
    runner = _Runner(spec, data, sets, seed, record, hooks, num_images=num_images, rate=rate_for(spec, learned_rate))
    wanted = [unit for unit in runner.units if only is None or unit.key in only]
    hooks.phase("evaluating", len(runner.units) * runner.passes)
    saved = started = time.monotonic()
    before = record.seconds.get("evaluating", 0.0)
    try:
        for position, unit in enumerate(runner.units):
            if unit.key in record.units or unit not in wanted:
                continue
            record.units[unit.key] = runner.accuracy(unit, position)
            record.seconds["evaluating"] = before + time.monotonic() - started
            if save is not None and time.monotonic() - saved >= save_seconds:
                save()
                saved = time.monotonic()
    finally:
        record.seconds["evaluating"] = before + time.monotonic() - started
    return list(_scores(wanted, record))


class _Runner:
    """Trains and tests one unit after another; units of an architecture share a trainer."""

    def __init__(
        self, spec: EvaluationSpec, data: RealSet, sets: Sets, seed: int, record: Record, hooks: Hooks, *, num_images: int,
        rate: float | None,
    ) -> None:
        self.units = units(spec)
        self.passes = schedule_of(spec).num_passes
        self._spec, self._data, self._sets, self._seed = spec, data, sets, seed
        self._record, self._hooks = record, hooks
        self._num_images = num_images
        self._rate = rate
        self._trainers: dict[NetworkSpec, Trainer] = {}

    def accuracy(self, unit: Unit, position: int) -> float:
        """Test accuracy of one unit; the first one leaves its curves in the record."""
        data, hooks = self._data, self._hooks
        trainer = self._trainer(unit.network)
        images, labels = self._sets.of(unit.name, unit.index)
        variants = self._sets.variants(unit.name)

        def on_epoch(finished: int) -> None:
            done = position * self.passes + finished
            hooks.progress(done, len(self.units) * self.passes, message=unit.key)

        trained = trainer.train(
            images, labels, seed=self._seed, name="evaluation", index=unit.index, hooks=hooks, on_epoch=on_epoch,
            curve_points=CURVE_POINTS if position == 0 else 0, variants=variants,
            lr_net=self._rate if unit.name in {"distilled", "distilled_8bit"} else None,
        )
        for series, points in ((LOSS_SERIES, trained.loss), (ACCURACY_SERIES, trained.accuracy)):
            for at, value in points:
                self._record.add(hooks, series, at, value)
        with hooks.busy(f"{unit.key} test"):
            return trainer.accuracy(trained, data, data.test_images, data.test_labels)

    def _trainer(self, network: NetworkSpec) -> Trainer:
        if network not in self._trainers:
            runs = sum(unit.network == network for unit in self.units)
            self._trainers[network] = trainer_of(self._spec, network, self._data, self._num_images, runs)
        return self._trainers[network]


def _scores(found: Sequence[Unit], record: Record) -> Iterator[Score]:
    """One score for each kind of set and architecture, in the order of the units."""
    for (name, network), group in groupby(found, key=lambda unit: (unit.name, unit.network)):
        accuracies = tuple(record.units[unit.key] for unit in group)
        drawn = name in {"random", "mosaic"}
        yield Score(name, network_name(network), accuracies, num_sets=len(accuracies) if drawn else 1)
