"""Small real sets of any shape, for tests that must not depend on one data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from core.catalogue import dataset_info
from core.data.real_set import RealSet
from core.data.sources import RawSplits


def real_set(counts: Sequence[int], shape: tuple[int, int, int], seed: int = 0) -> RealSet:
    """Random bytes: `counts` images of each class, (C, H, W) each."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (sum(counts), *shape), dtype=np.uint8)
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    channels, height, width = shape
    info = dataset_info("cifar10").model_copy(update={
        "channels": channels, "height": height, "width": width, "classes": tuple(f"class {i}" for i in range(len(counts))),
        "train_per_class": tuple(counts), "test_per_class": (0,) * len(counts),
        "mean": (0.4, 0.5, 0.3)[:channels], "std": (0.2, 0.25, 0.3)[:channels],
    })
    empty = RawSplits(images, labels, images[:0], labels[:0])
    return RealSet(empty, info, device=torch.device("cpu"))
