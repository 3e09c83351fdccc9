"""K-means of classes: ours against scikit-learn, interleaved in one run, with the inertia that each reaches.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.clustering --data-root DATA --out results.json

Fashion-MNIST, `flat` features of a ConvNet-3 with random weights, of width 32 (512 features) and 128 (2048), 500 and 6000
images of each of ten classes, 128 clusters of each class. Compared are
    ours        `core.distillation.clustering`: projected k-means++ and 10 exact steps of Lloyd
    random      the same steps from random seeds
    kmeans      scikit-learn's KMeans, one start from k-means++, 10 steps
    minibatch   scikit-learn's MiniBatchKMeans, one start, batches of 1024
A class is one repetition; ratios are medians over classes. Inertia, the sum of squared distances to the nearest centre, is
computed alike for all, in float64. Read CPU seconds with one thread; wall time means little on a busy machine.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import sklearn
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans
from torch import Tensor

from core.catalogue import dataset_info
from core.data.prepare import prepare
from core.data.real_set import RealSet
from core.distillation.clustering import NUM_STEPS, SEEDING_DIMENSIONS, k_means, spread_out
from core.distillation.embedding import Embedding, members
from core.distillation.randomness import rng
from core.networks.build import build_network
from core.networks.network import Forward
from core.settings import get_settings
from core.specs.network import ConvNetSpec
from tests.benchmarks.interleaved import publish

NUM_CLUSTERS = 128
SIZES = (500, 6000)
WIDTHS = (32, 128)
Method = Callable[[Tensor, int], Tensor]


def ours(points: Tensor, seed: int) -> Tensor:
    generator = rng(seed, "ours")
    directions = torch.randn(points.shape[1], SEEDING_DIMENSIONS, generator=generator)
    seeds = spread_out((points @ directions)[None], NUM_CLUSTERS, generator)
    return k_means(points[None], seeds)[0][0]


def random_seeds(points: Tensor, seed: int) -> Tensor:
    seeds = torch.randperm(len(points), generator=rng(seed, "random"))[None, :NUM_CLUSTERS]
    return k_means(points[None], seeds)[0][0]


def kmeans(points: Tensor, seed: int) -> Tensor:
    found = KMeans(NUM_CLUSTERS, n_init=1, max_iter=NUM_STEPS, tol=0.0, random_state=seed).fit(points.numpy())
    return torch.from_numpy(found.cluster_centers_)


def minibatch(points: Tensor, seed: int) -> Tensor:
    found = MiniBatchKMeans(NUM_CLUSTERS, n_init=1, batch_size=1024, random_state=seed).fit(points.numpy())
    return torch.from_numpy(found.cluster_centers_)


METHODS: dict[str, Method] = {"ours": ours, "random": random_seeds, "kmeans": kmeans, "minibatch": minibatch}


def inertia(points: Tensor, centres: Tensor) -> float:
    return float(torch.cdist(points.double(), centres.double()).square().min(1).values.sum())


def compare(data: RealSet, width: int, size: int) -> dict[str, object]:
    """All methods on each class in turn."""
    net = build_network(ConvNetSpec(width=width), data.info)
    embedding = Embedding(Forward.on(data.device, net, compile_passes=False), net.init(rng(0, "network")), {}, data)
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    reached: dict[str, list[float]] = {name: [] for name in METHODS}
    for label, positions in enumerate(members(data)):
        points = embedding.features(positions[:size])
        for name, method in METHODS.items():
            started = time.process_time()
            centres = method(points, label)
            seconds[name].append(time.process_time() - started)
            reached[name].append(inertia(points, centres))
    others = [name for name in METHODS if name != "ours"]

    def ratios(values: dict[str, list[float]]) -> dict[str, float]:
        return {name: statistics.median(a / b for a, b in zip(values[name], values["ours"], strict=True)) for name in others}

    return {
        "images_per_class": size,
        "features": points.shape[1],
        "cpu_seconds_per_class": {name: statistics.median(values) for name, values in seconds.items()},
        "cpu_ratio_to_ours": ratios(seconds),
        "inertia_ratio_to_ours": ratios(reached),
    }


def main() -> int:
    """Time, compare, print, write; fails where scikit-learn reaches an inertia more than 2 % lower."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=get_settings().data_dir)
    parser.add_argument("--out", type=Path, default=Path("build/clustering.json"), help="JSON file with the results")
    options = parser.parse_args()
    info = dataset_info("fashion-mnist")
    with tempfile.TemporaryDirectory() as scratch:
        prepare(info.name, options.data_root, Path(scratch) / info.name)
        data = RealSet.load(Path(scratch) / info.name, info, device=torch.device("cpu"))
    for method in METHODS.values():
        method(torch.randn(200, 512), 0)  # first calls load libraries
    rows = [compare(data, width, size) for width in WIDTHS for size in SIZES]
    result = {
        "clusters": NUM_CLUSTERS, "classes": data.num_classes, "rows": rows, "threads": torch.get_num_threads(),
        "machine": platform.machine(), "torch": torch.__version__, "scikit_learn": sklearn.__version__,
    }
    publish(result, options.out)
    return 0 if all(row["inertia_ratio_to_ours"]["kmeans"] > 0.98 for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
