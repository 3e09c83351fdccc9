"""What a finished job knows about itself: the one input of every file in this room."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.catalogue import DatasetInfo
from core.specs.job import DistillationSpec

ScoreName = Literal["distilled", "distilled_8bit", "random", "mosaic", "herding", "k_center", "forgetting"]


TRAINED_ON: dict[ScoreName, str] = {
    "distilled": "the distilled set, float32",
    "distilled_8bit": "the distilled set, clamped to the 8-bit files",
    "random": "random real images of full size, ipc of each class, drawn anew for each network",
    "mosaic": "random real images, packed and decoded as this set's parameterization does, drawn anew for each network",
    "herding": "real images of full size, ipc of each class, whose mean feature follows that of the class (herding)",
    "k_center": "real images of full size, ipc of each class, that lie far from one another in feature space (k-center)",
    "forgetting": "real images of full size, ipc of each class, that training on the whole set forgets most often",
}
"""What the networks behind a score were trained on."""


@dataclass(frozen=True)
class Score:
    """Test accuracies of independently initialised networks trained on one kind of set."""

    name: ScoreName
    network: str
    """Name of the architecture, for example `convnet-3 width 32`."""

    accuracies: tuple[float, ...]
    """Fractions in [0, 1], one for each network."""

    num_sets: int = 1
    """Different sets behind the accuracies: 1 for the distilled set and for coresets, the number of draws for what is drawn."""

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """Sample standard deviation; 0 for a single network."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0

    @property
    def n(self) -> int:
        """Number of networks."""
        return len(self.accuracies)


@dataclass(frozen=True)
class Whitened:
    """What a whitened set needs to be used and to be seen. D = C H W."""

    mean: NDArray[np.float32]
    """(D,) of pixels in [0, 1]."""

    matrix: NDArray[np.float32]
    """(D, D): (x - mean) @ matrix is network space."""

    pixels: NDArray[np.uint8]
    """(N, C, H, W) the images of the set, unwhitened, rounded and clamped."""

    initial_pixels: NDArray[np.uint8]
    """The same of what the set started from."""


@dataclass(frozen=True)
class Outcome:
    """Everything the artifacts are made from. Arrays are on the CPU."""

    job_id: str
    attempt: int
    spec: DistillationSpec
    info: DatasetInfo
    images: NDArray[np.float32]
    """(N, C, H, W) decoded synthetic images in network space, sorted by class."""

    labels: NDArray[np.int64]
    """(N,) class indices."""

    initial_images: NDArray[np.float32]
    """(N / variants, C, H, W) what the set started from, in network space."""

    storage: Mapping[str, int]
    """Stored scalars by kind, for example `{"pixels": 7840}`."""

    scores: Sequence[Score]
    series: Mapping[str, Sequence[tuple[int, float]]]
    """Curves by metric name, as (step, value)."""

    seconds: Mapping[str, float]
    """Wall time of each phase."""

    seconds_per_iteration: float
    peak_memory_bytes: int
    device: str
    dataset_digest: str
    """SHA-256 of the canonical form that was read."""

    code_revision: str
    versions: Mapping[str, str]
    warnings: Sequence[str] = field(default_factory=tuple)
    first_step: Mapping[str, float] = field(default_factory=dict)
    """What one step took before the loop began: `seconds`, `peak_memory_bytes`, `chunk_images`; empty without a loop."""

    resumed_from_step: int = 0
    factors: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """What is stored, where the decoded images do not say it better, by name: bases and hallucinators; else empty."""

    variants: int = 1
    """Images, side by side, that stand for one another: an epoch of the evaluation shows one of so many."""

    soft_labels: NDArray[np.float32] | None = None
    """(N, K) what a network is asked to answer, where labels are learned or a teacher's; rows add up to 1."""

    whitened: Whitened | None = None
    """Where network space is whitened; standardised otherwise, with the constants of `info`."""

    learned_rate: float | None = None
    """Learning rate of the networks that was learned with the set, where its objective learns one."""
