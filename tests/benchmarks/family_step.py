"""Seconds per gradient of each objective: the engine against a plain per-class loop, interleaved in one run, at equal result.

    python -m tests.benchmarks.family_step --data-root DATA --out tests/benchmarks/results/family_step.json

Fashion-MNIST, ConvNet-3 of width 32, ipc 10, 64 real images per class, the recipes at small scale. The plain loop is the
obvious one: eager, one class after another, covariances as full matrices, distances by `cdist`, the graph of every class
kept to one backward pass. Both start from the same set and see the same draws. Gradients of a few packed images differ more
than by rounding: their flat backgrounds sit on a kink of ReLU, which compiled code rounds to the other side. Set
OMP_NUM_THREADS to the number of free cores.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from core.catalogue import dataset_info
from core.data.prepare import prepare
from core.data.real_set import RealSet
from core.distillation.engine import Engine
from core.networks.network import Tensors
from core.settings import get_settings
from tests.benchmarks.interleaved import against_plain, as_a_child, publish

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
LAYERS = (("activation1", 0.1), ("activation2", 0.1), ("activation3", 1.0), ("flat", 2.0))


def mean_feature(real: Tensors, syn: Tensors) -> Tensor:
    """DM."""
    return (real["flat"].mean(0) - syn["flat"].mean(0)).square().sum()


def layerwise_feature(real: Tensors, syn: Tensors) -> Tensor:
    """CAFE's alignment."""
    parts = [weight * (real[tap].mean(0) - syn[tap].mean(0)).square().sum() for tap, weight in LAYERS]
    return torch.stack(parts).sum()


def rkhs(real: Tensors, syn: Tensors) -> Tensor:
    """M3D."""
    joined = torch.cat([syn["flat"], real["flat"]])
    squared = torch.cdist(joined, joined).square()
    count, m = len(joined), len(syn["flat"])
    spread = squared.detach().sum() / (count * count - count)
    kernel = torch.stack([torch.exp(-squared / (spread * q)) for q in BANDWIDTHS]).sum(0)
    return kernel[:m, :m].mean() - 2 * kernel[:m, m:].mean() + kernel[m:, m:].mean()


def gaussian(real: Tensors, syn: Tensors) -> Tensor:
    """DSDM's prototype and covariance."""
    difference = torch.cov(real["flat"].T) - torch.cov(syn["flat"].T)
    return mean_feature(real, syn) + 50.0 * difference.square().sum() / real["flat"].shape[1]


CASES: dict[str, tuple[str, Callable[[Tensors, Tensors], Tensor]]] = {
    "mean_feature": ("dm", mean_feature),
    "layerwise_feature": ("cafe", layerwise_feature),
    "rkhs": ("m3d", rkhs),
    "gaussian": ("dsdm", gaussian),
}


def plain_gradient(engine: Engine, loss: Callable[[Tensors, Tensors], Tensor], number: int) -> Tensor:
    """Gradient of the synthetic images before they are carried through the decoder."""
    step, _ = engine._prepare(number)
    taps, net, weights = step.plan.taps, engine.parts.net, step.weights
    total = torch.zeros(())
    for label in range(engine.data.num_classes):
        one = replace(step, start=label, stop=label + 1, _augmented={}, _features={})
        with torch.no_grad():
            real = net(weights.params, {}, one.augmented("real")[0], taps, training=True)
        syn = net(weights.params, {}, one.augmented("syn")[0], taps, training=True)
        total = total + loss(real, syn)
    total.backward()
    assert step.syn.images.grad is not None
    return step.syn.images.grad


def measure(case: str, data: RealSet, rounds: int, iterations: int) -> dict[str, object]:
    """Time both, in turn."""
    recipe, loss = CASES[case]
    found = against_plain(
        recipe, data, lambda engine, number: plain_gradient(engine, loss, number), rounds=rounds, iterations=iterations,
        terms=[],
    )
    return {
        "recipe": recipe, "synthetic_images": len(found.ours), "seconds": found.seconds, "ratio": found.ratio,
        "relative_difference_of_gradient": float((found.ours - found.plain).norm() / found.plain.norm()),
        "median_of_images": found.median_difference,
    }


def main() -> int:
    """Measure every objective."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=get_settings().data_dir)
    parser.add_argument("--out", type=Path, default=Path("build/family_step.json"))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--iterations", type=int, default=3)
    options = parser.parse_args()
    as_a_child()
    info = dataset_info("fashion-mnist")
    with tempfile.TemporaryDirectory() as scratch:
        prepare(info.name, options.data_root, Path(scratch) / info.name)
        data = RealSet.load(Path(scratch) / info.name, info, device=torch.device("cpu"))
    found = {case: measure(case, data, options.rounds, options.iterations) for case in CASES}
    document = {
        "objectives": found, "rounds": options.rounds, "iterations_per_round": options.iterations,
        "threads": torch.get_num_threads(), "machine": platform.machine(), "torch": torch.__version__,
    }
    publish(document, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
