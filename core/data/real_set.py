"""The real set on its device: uint8 images sorted by class, normalised only when they are used.

A stratified part of the training set can be held out; distillation never sees it. Networks and losses see network space,
(x / 255 - mean) / std per channel or whitened (`preprocessing.py`), float32.
Shapes: N images, C channels, H W pixels, K classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.catalogue import DatasetInfo
from core.data import canonical
from core.data.preprocessing import preprocessing_of
from core.data.sources import RawSplits
from core.distillation.randomness import rng
from core.specs.base import digest
from core.specs.preprocessing import PreprocessingSpec, StandardiseSpec

STANDARDISE = StandardiseSpec()


class RealSet:
    """Training images for distillation, the held-out part of the training set, and the test split."""

    def __init__(
        self,
        splits: RawSplits,
        info: DatasetInfo,
        *,
        device: torch.device,
        seed: int = 0,
        held_out_fraction: float = 0.0,
        digest: str = "",
        preprocessing: PreprocessingSpec = STANDARDISE,
        fits: Path | None = None,
    ) -> None:
        """Sort, hold out and move to the device.

        Args:
            splits: uint8 images and int64 labels, in any order.
            info: shape, classes and normalisation.
            device: where the images stay.
            seed: seed of the job; chooses the held-out images.
            held_out_fraction: part of each class that is kept away, rounded down.
            digest: SHA-256 of the canonical form that was read.
            preprocessing: how images become what networks see.
            fits: folder that keeps what had to be fitted for it; None fits anew.
        """
        self.info = info
        self.digest = digest
        self.device = device
        self.num_classes = info.num_classes
        kept, held_out = _split(splits.train_labels, info.num_classes, held_out_fraction, seed)
        self.images = _images(splits.train_images, kept, device)
        """(N, C, H, W) uint8, sorted by class."""
        self.labels = torch.from_numpy(splits.train_labels[kept]).to(device)
        """(N,) int64, ascending."""
        self.counts = tuple(np.bincount(splits.train_labels[kept], minlength=info.num_classes).tolist())
        """Images of each class."""
        self.offsets = tuple(np.concatenate([[0], np.cumsum(self.counts)[:-1]]).tolist())
        """Position of the first image of each class."""
        self.held_out_images = _images(splits.train_images, held_out, device)
        self.held_out_labels = torch.from_numpy(splits.train_labels[held_out]).to(device)
        self.test_images = _images(splits.test_images, np.arange(len(splits.test_labels)), device)
        self.test_labels = torch.from_numpy(np.array(splits.test_labels)).to(device)
        self.preprocessing = preprocessing
        fitted = None if fits is None else fits / self._name_of_fit(seed, held_out_fraction)
        self.space = preprocessing_of(preprocessing, info, self.images, fitted)
        """From pixels in [0, 1] to network space and back; fitted, where it is, on `images`."""

    def _name_of_fit(self, seed: int, held_out_fraction: float) -> str:
        """Equal names mean equal bytes: the images, the device and its number of threads are the same."""
        made = {
            "preprocessing": self.preprocessing.model_dump(mode="json"), "digest": self.digest,
            "held_out": (held_out_fraction, seed) if held_out_fraction else None, "device": self.device.type,
            "threads": torch.get_num_threads(), "torch": torch.__version__,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "model": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "",
        }
        return f"{self.preprocessing.kind}-{digest(made)[:32]}.safetensors"

    @classmethod
    def load(
        cls, folder: Path, info: DatasetInfo, *, device: torch.device, seed: int = 0, held_out_fraction: float = 0.0,
        preprocessing: PreprocessingSpec = STANDARDISE,
    ) -> RealSet:
        """Read a canonical folder.

        Raises:
            DatasetUnreadableError: it is damaged, or holds other data than the catalogue says.
        """
        splits, found = canonical.read(folder)
        canonical.require_digest(info, found)
        return cls(
            splits, info, device=device, seed=seed, held_out_fraction=held_out_fraction, digest=found,
            preprocessing=preprocessing, fits=folder,
        )

    def draw_per_class(self, count: int, generator: torch.Generator) -> Tensor:
        """Positions of `count` different images of each class, (K, count) int64 on the CPU; fewer where a class has fewer."""
        count = min(count, *self.counts)
        return torch.stack([
            torch.randperm(size, generator=generator)[:count] + offset
            for size, offset in zip(self.counts, self.offsets, strict=True)
        ])

    def gather(self, index: Tensor) -> Tensor:
        """Training images by position: int64 (...) -> (..., C, H, W) float32 in network space."""
        flat = self.images.index_select(0, index.reshape(-1).to(self.device, non_blocking=True))
        return self.normalise(flat).view(*index.shape, *self.images.shape[1:])

    def normalise(self, images: Tensor) -> Tensor:
        """Uint8 (..., C, H, W) -> float32 in network space."""
        return self.space.of_bytes(images)

    def to_8bit(self, images: Tensor) -> Tensor:
        """Network space -> uint8, rounded and clamped: the inverse of `normalise` wherever that had an image."""
        pixels = self.space.inverse(images.detach()) * 255.0
        return pixels.round_().clamp_(0.0, 255.0).to(torch.uint8)


def _split(
    labels: NDArray[np.int64], num_classes: int, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions kept and held out, each sorted by class and, inside a class, by position."""
    kept: list[NDArray[np.int64]] = []
    held_out: list[NDArray[np.int64]] = []
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        count = int(len(members) * fraction)
        order = torch.randperm(len(members), generator=rng(seed, "held_out", label)).numpy()
        held_out.append(np.sort(members[order[:count]]))
        kept.append(np.sort(members[order[count:]]))
    return np.concatenate(kept), np.concatenate(held_out)


def _images(source: NDArray[np.uint8], index: NDArray[np.int64], device: torch.device) -> Tensor:
    return torch.from_numpy(source[index]).to(device)  # indexing copies, so the map itself is never written
