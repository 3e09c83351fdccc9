"""Seconds and memory of the objectives that differentiate a gradient, against plain implementations, at equal result.

    python -m tests.benchmarks.second_order_step --data-root DATA --out tests/benchmarks/results/second_order_step.json

Fashion-MNIST, ConvNet-3 of width 32, ipc 10. `gradient`: one iteration of DSA and of IDC at small scale against the obvious
loop, eager, one class after another with the graph of every class kept to one backward pass, interleaved in one run.
`trajectory`: the reverse sweep against the graph of all steps, by number of synthetic steps of 40 images; every measurement
has a process of its own, so that its peak memory is its own. Set OMP_NUM_THREADS to the number of free cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from core.catalogue import dataset_info
from core.data.real_set import RealSet
from core.data.sources import READERS
from core.distillation.augmentation.build import build_augmentation
from core.distillation.engine import Engine
from core.distillation.objectives.trajectory import Segment, TrainingStep, sweep, unroll
from core.distillation.randomness import rng
from core.networks.build import build_network
from core.settings import get_settings
from core.specs.job import JobRequest
from core.specs.network import ConvNetSpec
from core.specs.resolve import resolve
from tests.benchmarks.interleaved import against_plain, as_a_child, publish

STEPS = (5, 10, 20, 40)
BATCH = 40


def row_cosine(real: list[Tensor], syn: list[Tensor]) -> Tensor:
    """DC and DSA: every row of every weight tensor."""
    total = torch.zeros(())
    for a, b in zip(real, syn, strict=True):
        if a.ndim < 2:
            continue
        a, b = a.flatten(1), b.flatten(1)
        total = total + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
    return total


def absolute_of_filters(real: list[Tensor], syn: list[Tensor]) -> Tensor:
    """IDC on 28-pixel sets."""
    return torch.stack([(a - b).abs().sum() for a, b in zip(real, syn, strict=True) if a.ndim == 4]).sum()


CASES: dict[str, Callable[[list[Tensor], list[Tensor]], Tensor]] = {"dsa": row_cosine, "idc": absolute_of_filters}


def plain_gradient(engine: Engine, loss: Callable[[list[Tensor], list[Tensor]], Tensor], number: int) -> Tensor:
    """Gradient of the synthetic images, class by class."""
    step, _ = engine._prepare(number)
    net, total = step.weights.net, torch.zeros(())
    named = {name: value.detach().clone().requires_grad_() for name, value in net.named(step.weights.params).items()}
    flat = torch.cat([value.flatten() for value in named.values()])
    for label in range(engine.data.num_classes):
        one = replace(step, start=label, stop=label + 1, _augmented={}, _features={})
        gradients = []
        for side in ("real", "syn"):
            images = one.augmented(side)[0]
            logits = net(flat, {}, images, ("logits",), training=True)["logits"]
            targets = torch.full((len(images),), label)
            found = torch.autograd.grad(
                F.cross_entropy(logits, targets), list(named.values()), create_graph=side == "syn", retain_graph=True
            )
            gradients.append(list(found))
        total = total + loss(*gradients)
    total.backward()
    assert step.syn.images.grad is not None
    return step.syn.images.grad


def gradient_case(recipe: str, data_root: Path, rounds: int, iterations: int) -> dict[str, Any]:
    """Time both, in turn."""
    found = against_plain(
        recipe, _fashion_mnist(data_root), lambda engine, number: plain_gradient(engine, CASES[recipe], number),
        rounds=rounds, iterations=iterations,
    )
    return {
        "seconds": found.seconds, "ratio": found.ratio, "median_relative_difference_of_images": found.median_difference,
    }


def trajectory_case(unrolled: bool, num_steps: int, data_root: Path, rounds: int) -> dict[str, Any]:
    """Time and memory of one way through so many steps."""
    data = _fashion_mnist(data_root)
    net = build_network(ConvNetSpec(width=32), data.info)
    start, target = (net.init(rng(0, "benchmark", index)) for index in range(2))
    segment = Segment(net, start, start + 0.01 * (target - start))
    body = {"dataset": {"name": "fashion-mnist"}, "ipc": 10, "recipe": "mtt", "scale": "small"}
    augmentation = build_augmentation(resolve(JobRequest.model_validate_json(json.dumps(body))).method.augmentation)
    index = data.draw_per_class(10, rng(0, "benchmark/images")).flatten()
    images, labels = data.gather(index).requires_grad_(), data.labels[index]
    rate = torch.full((), 0.01, requires_grad=True)

    def steps(number: int) -> list[TrainingStep]:
        generator = rng(number, "benchmark/steps")
        return [
            TrainingStep(
                torch.randperm(len(images), generator=generator)[:BATCH],
                augmentation.draw(BATCH, generator, shared_operation=True),
            )
            for _ in range(num_steps)
        ]

    def run(number: int) -> Tensor:
        if unrolled:
            (gradient,) = torch.autograd.grad(unroll(segment, rate, images, labels, steps(number)), images)
            return gradient
        return sweep(segment, rate, images, labels, steps(number))[1].images

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    norm = float(run(0).norm())
    times = []
    for turn in range(rounds):
        started = time.perf_counter()
        run(1 + turn)
        times.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": round(statistics.median(times), 4), "peak_mib_above_idle": (peak - before) // 1024,
        "norm_of_gradient": norm,
    }


def _fashion_mnist(data_root: Path) -> RealSet:
    info = dataset_info("fashion-mnist")
    return RealSet(READERS[info.name](data_root), info, device=torch.device("cpu"))


def main() -> int:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=get_settings().data_dir)
    parser.add_argument("--out", type=Path, default=Path("build/second_order_step.json"))
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    as_a_child()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as executor:
        gradient = {
            recipe: executor.submit(gradient_case, recipe, options.data_root, options.rounds, 2).result() for recipe in CASES
        }
        trajectory = {
            str(count): {
                name: executor.submit(trajectory_case, name == "unrolled", count, options.data_root, 3).result()
                for name in ("sweep", "unrolled")
            }
            for count in STEPS
        }
    document = {
        "gradient": gradient, "trajectory_by_number_of_steps": trajectory, "batch_of_a_step": BATCH, "rounds": options.rounds,
        "threads": torch.get_num_threads(), "machine": platform.machine(), "torch": torch.__version__,
    }
    publish(document, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
