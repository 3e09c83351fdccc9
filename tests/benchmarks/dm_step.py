"""Seconds per DM iteration: ours against plain per-class loops, interleaved in one run, at equal numerical result.

    python -m tests.benchmarks.dm_step --data-root DATA --out results.json

Fashion-MNIST, ConvNet-3 width 32, ipc 10, 64 real images per class. Compared are
    ours       the engine, with compiled passes
    plain      one class after another, eager, with the same one-parameter-set-per-class augmentation
    published  one class after another, eager, augmenting with one parameter set per image made in Python, as in the
               published code (VICO-UoE/DatasetCondensation); its numbers are drawn alike but it is timed only
All are timed with the allocator settings that the supervisor gives a child. Set OMP_NUM_THREADS to the number of free
cores; compare ratios, not seconds of different runs. On a busy machine read the ratio of CPU seconds with one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import functional as F

from core.catalogue import dataset_info
from core.data.prepare import prepare
from core.data.real_set import RealSet
from core.distillation.build import build
from core.distillation.engine import Engine
from core.distillation.randomness import rng
from core.experts import TrainedHere
from core.progress import Record
from core.settings import get_settings
from core.specs.job import DistillationSpec, JobRequest
from core.specs.resolve import resolve
from tests.benchmarks.interleaved import as_a_child, in_turn, publish, ratio

REQUEST = {"dataset": {"name": "fashion-mnist"}, "ipc": 10, "recipe": "dm", "scale": "small"}


class PlainLoop:
    """The DM step written the obvious way: classes in a Python loop, one backward pass at the end."""

    def __init__(self, spec: DistillationSpec, data: RealSet, pixels: Tensor, augment: Callable[..., Tensor] | None) -> None:
        self.parts = build(spec, data, TrainedHere(data))
        self.data, self.spec = data, spec
        self.pixels = pixels.clone().requires_grad_()
        self.optimizer = torch.optim.SGD(
            [self.pixels], lr=spec.method.optimizer.lr_img, momentum=spec.method.optimizer.momentum
        )
        self.augment = augment
        self.number = 0

    def iterate(self) -> Tensor:
        parts, data, seed, n = self.parts, self.data, self.spec.seed, self.number
        self.number += 1
        params = parts.net.init(rng(seed, "network", n))
        index, _ = parts.selection.pick(parts.losses[0].plan().real, SimpleNamespace(number=n))
        transform = parts.augmentation.draw(data.num_classes, rng(seed, "augmentation", n))
        total = torch.zeros(())
        for label, images in enumerate(self.pixels.view(data.num_classes, -1, *self.pixels.shape[1:])):
            real = data.gather(index[label])
            if self.augment is None:
                one = transform.narrow(label, label + 1)
                real, syn = one.apply(real[None])[0], one.apply(images[None])[0]
            else:
                operation, uniform = transform.operations[label], transform.uniform[label]
                real, syn = self.augment(real, operation, uniform), self.augment(images, operation, uniform)
            with torch.no_grad():
                real_features = parts.net(params, {}, real, ("flat",))["flat"]
            syn_features = parts.net(params, {}, syn, ("flat",))["flat"]
            total = total + (real_features.mean(0) - syn_features.mean(0)).square().sum()
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        return total.detach()


def per_image(images: Tensor, operation: str, uniform: Tensor) -> Tensor:
    """DSA with parameters repeated for each image: index grids and per-image matrices, the published way of working."""
    count, _, height, width = images.shape
    u = uniform.repeat(count, 1)
    match operation:
        case "color":
            u1, u2, u3 = (u[:, i].view(-1, 1, 1, 1) for i in range(3))
            images = images + (u1 - 0.5)
            grey = images.mean(1, keepdim=True)
            images = (images - grey) * (2.0 * u2) + grey
            average = images.mean((1, 2, 3), keepdim=True)
            return (images - average) * (u3 + 0.5) + average
        case "crop":
            limit = int(height * 0.125 + 0.5)
            shift = (u[:, :2] * (2 * limit + 1)).floor().long() - limit
            n, y, x = torch.meshgrid(torch.arange(count), torch.arange(height), torch.arange(width), indexing="ij")
            y = (y + shift[:, 0].view(-1, 1, 1) + 1).clamp(0, height + 1)
            x = (x + shift[:, 1].view(-1, 1, 1) + 1).clamp(0, width + 1)
            return F.pad(images, [1, 1, 1, 1]).permute(0, 2, 3, 1).contiguous()[n, y, x].permute(0, 3, 1, 2).contiguous()
        case "cutout":
            box = int(height * 0.5 + 0.5)
            centre = (u[:, :2] * (height + 1 - box % 2)).floor().long()
            n, y, x = torch.meshgrid(torch.arange(count), torch.arange(box), torch.arange(box), indexing="ij")
            y = (y + centre[:, 0].view(-1, 1, 1) - box // 2).clamp(0, height - 1)
            x = (x + centre[:, 1].view(-1, 1, 1) - box // 2).clamp(0, width - 1)
            mask = torch.ones(count, height, width)
            mask[n, y, x] = 0
            return images * mask.unsqueeze(1)
        case "flip":
            return torch.where((u[:, 0] < 0.5).view(-1, 1, 1, 1), images.flip(3), images)
        case "scale":
            sy_sx = (u[:, :2] * (1.2 - 1 / 1.2) + 1 / 1.2).tolist()
            theta = [[[a, 0.0, 0.0], [0.0, b, 0.0]] for a, b in sy_sx]
        case _:
            angles = [(float(v) - 0.5) * 2 * 15 * math.pi / 180 for v in u[:, 0]]
            theta = [[[math.cos(a), -math.sin(a), 0.0], [math.sin(a), math.cos(a), 0.0]] for a in angles]
    grid = F.affine_grid(torch.tensor(theta), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def main() -> int:
    """Time, check, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=get_settings().data_dir)
    parser.add_argument("--out", type=Path, default=Path("build/dm_step.json"), help="JSON file with the results")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--iterations", type=int, default=4, help="iterations of each variant in a round")
    options = parser.parse_args()

    as_a_child()
    spec = resolve(JobRequest.model_validate_json(json.dumps(REQUEST)))
    info = dataset_info(spec.dataset.name)
    with tempfile.TemporaryDirectory() as scratch:
        prepare(info.name, options.data_root, Path(scratch) / info.name)
        data = RealSet.load(Path(scratch) / info.name, info, device=torch.device("cpu"))
    parts = build(spec, data, TrainedHere(data))
    engine = Engine(parts, data, seed=spec.seed, num_iterations=300, record=Record(), compiled=True)
    plain = PlainLoop(spec, data, engine.initial, None)
    published = PlainLoop(spec, data, engine.initial, per_image)

    started = time.perf_counter()
    engine.iterate()
    warm_up = time.perf_counter() - started
    plain.iterate()
    published.iterate()
    start = engine.initial
    moved = plain.pixels.detach() - start
    difference = {
        "ours": float((engine.decoded()[0] - start - moved).norm() / moved.norm()),
        "published": float((published.pixels.detach() - start - moved).norm() / moved.norm()),
    }
    runs: dict[str, Callable[[int], object]] = {
        "ours": lambda _: engine.iterate(), "plain": lambda _: plain.iterate(), "published": lambda _: published.iterate(),
    }
    times, work = in_turn(runs, rounds=options.rounds, repetitions=options.iterations)
    result = {
        "seconds_per_iteration": {name: statistics.median(values) for name, values in times.items()},
        "fastest_seconds_per_iteration": {name: min(values) for name, values in times.items()},
        "cpu_seconds_per_iteration": {name: statistics.median(values) for name, values in work.items()},
        "cpu_ratio_to_plain": ratio(work, "plain"),
        "ratio_to_plain": ratio(times, "plain"),
        "ratio_to_published": ratio(times, "published"),
        "relative_difference_of_first_update": difference,
        "warm_up_seconds": warm_up,
        "rounds": options.rounds,
        "iterations_per_round": options.iterations,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    publish(result, options.out)
    return 0 if max(difference.values()) < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
