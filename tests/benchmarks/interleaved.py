"""What the benchmarks share: the engine beside a plain implementation of the same gradient, timed in turn in one run."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.build import build
from core.distillation.engine import Engine
from core.experts import TrainedHere
from core.progress import Record
from core.specs.job import JobRequest
from core.specs.resolve import resolve
from worker.child import MALLOC


class Times(NamedTuple):
    """Seconds of one repetition in each round, by name."""

    wall: dict[str, list[float]]
    cpu: dict[str, list[float]]


class Comparison(NamedTuple):
    """The engine's gradient of the synthetic images and the plain one, and what both took."""

    ours: Tensor
    plain: Tensor
    seconds: dict[str, float]
    """Medians over rounds, of `ours` and of `plain`."""

    ratio: float
    """Median over rounds of plain / ours."""

    @property
    def median_difference(self) -> float:
        """Median over images of the relative difference of both gradients."""
        difference = (self.ours - self.plain).flatten(1).norm(dim=1) / self.plain.flatten(1).norm(dim=1)
        return float(difference.median())


def in_turn(runs: Mapping[str, Callable[[int], object]], *, rounds: int, repetitions: int, first: int = 0) -> Times:
    """Run everything so often in every round; a run is told which repetition it is, counted from `first`."""
    times = Times({name: [] for name in runs}, {name: [] for name in runs})
    for turn in range(rounds):
        for name, run in runs.items():
            started, spent = time.perf_counter(), time.process_time()
            for i in range(repetitions):
                run(first + turn * repetitions + i)
            times.wall[name].append((time.perf_counter() - started) / repetitions)
            times.cpu[name].append((time.process_time() - spent) / repetitions)
    return times


def ratio(times: Mapping[str, list[float]], name: str) -> float:
    """Median over rounds of how much longer `name` took than `ours`."""
    return statistics.median(theirs / ours for theirs, ours in zip(times[name], times["ours"], strict=True))


def engine_gradient(engine: Engine, number: int) -> Tensor:
    """Gradient of the synthetic images of an iteration, before it is carried through the decoder."""
    step, _ = engine._gradient(number)
    for tensor in engine._learned:
        tensor.grad = None
    assert step.syn.images.grad is not None
    return step.syn.images.grad


def against_plain(
    recipe: str, data: RealSet, plain: Callable[[Engine, int], Tensor], *, rounds: int, iterations: int, **method: Any
) -> Comparison:
    """A recipe on Fashion-MNIST at ipc 10 and scale small, under fresh networks, against a plain gradient of the same step.

    Both start from the same set and see the same draws; the plain one belongs to an engine whose passes are not compiled.
    """
    method = {"models": {"kind": "fresh_random"}, "num_iterations": 300, "num_networks": None} | method
    body = {"dataset": {"name": "fashion-mnist"}, "ipc": 10, "recipe": recipe, "scale": "small", "method": method}
    spec = resolve(JobRequest.model_validate_json(json.dumps(body)))
    experts = TrainedHere(data)
    compiled, eager = (
        Engine(build(spec, data, experts), data, seed=0, num_iterations=300, record=Record(), compiled=choice)
        for choice in (True, False)
    )
    ours, theirs = engine_gradient(compiled, 0), plain(eager, 0)
    runs: dict[str, Callable[[int], object]] = {
        "ours": lambda number: engine_gradient(compiled, number), "plain": lambda number: plain(eager, number),
    }
    times = in_turn(runs, rounds=rounds, repetitions=iterations, first=1).wall
    seconds = {name: round(statistics.median(values), 5) for name, values in times.items()}
    return Comparison(ours, theirs, seconds, round(ratio(times, "plain"), 3))


def as_a_child() -> None:
    """Start this program anew under the allocator settings of a child of the service; glibc reads them at start only."""
    if MALLOC.items() - os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **MALLOC})


def publish(document: Mapping[str, Any], path: Path) -> None:
    """Write a result, and print it."""
    text = json.dumps(document, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    sys.stdout.write(text)
