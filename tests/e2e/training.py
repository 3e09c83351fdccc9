"""An independent judge: a small network written here, trained on what a user downloads, tested on real digits."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import nn

from core.catalogue import CATALOGUE
from core.data.sources import READERS, RawSplits

Samples = tuple[torch.Tensor, torch.Tensor]


def real() -> RawSplits:
    """The digits as the service reads them."""
    return READERS["digits"](Path())


def random_digits(seed: int) -> Samples:
    """One real image of each class, drawn at random."""
    splits, rng = real(), np.random.default_rng(seed)
    chosen = [int(rng.choice(np.flatnonzero(splits.train_labels == label))) for label in range(10)]
    return torch.from_numpy(splits.train_images[chosen]).float(), torch.arange(10)


def from_parquet(path: Path) -> Samples:
    """Images (N, 1, 8, 8) in 0..255 and labels, read with pyarrow and Pillow alone."""
    table = pq.read_table(path).to_pydict()
    images = [np.asarray(Image.open(io.BytesIO(item["bytes"]))) for item in table["image"]]
    return torch.from_numpy(np.stack(images))[:, None].float(), torch.tensor(table["label"])


def accuracy_on_digits(samples: Samples | Path, networks: int = 3, steps: int = 300) -> float:
    """Mean test accuracy of freshly initialised networks trained on the samples with random one-pixel shifts."""
    images, labels = from_parquet(samples) if isinstance(samples, Path) else samples
    info, splits = CATALOGUE["digits"], real()

    def normalise(x: torch.Tensor) -> torch.Tensor:
        return (x / 255 - info.mean[0]) / info.std[0]

    x, test = normalise(images), normalise(torch.from_numpy(np.array(splits.test_images)).float())
    accuracies = []
    for seed in range(networks):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(1, 64, 3, padding=1), nn.GroupNorm(64, 64), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(1024, 10)
        )
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        for _ in range(steps):
            shift = tuple(int(v) for v in torch.randint(-1, 2, (2,)))
            loss = nn.functional.cross_entropy(net(torch.roll(x, shift, (2, 3))), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            hits = net(test).argmax(1) == torch.from_numpy(splits.test_labels)
        accuracies.append(hits.float().mean().item())
    return sum(accuracies) / len(accuracies)
