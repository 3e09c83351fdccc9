"""Networks trained on the real set before distillation begins: what they are, and which of them a job needs. Torch-free.

A pool is content-addressed: jobs that ask for the same one share it. Its key holds the digest of the data, the held-out
split, the architecture, the training recipe with its version, and the pool's own seed.
"""

from __future__ import annotations

from pydantic import Field

from core.specs.augmentation import AugmentationSpec, NoAugmentationSpec
from core.specs.base import Spec
from core.specs.network import NetworkSpec
from core.specs.preprocessing import PreprocessingSpec, StandardiseSpec


class RealTrainingSpec(Spec):
    """How a network is trained on the real set: SGD at a constant rate, cross-entropy."""

    num_epochs: int = Field(ge=0, le=10_000)
    """Passes over the real set; 0 leaves the networks as they are drawn."""

    batch_size: int = Field(default=256, ge=1, le=65_536)
    lr_net: float = Field(default=0.01, gt=0.0, le=100.0)
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=5e-4, ge=0.0, le=1.0)
    augmentation: AugmentationSpec = NoAugmentationSpec()
    cutmix_probability: float = Field(default=0.0, ge=0.0, le=1.0)
    """Chance that CutMix mixes a batch."""


class PoolSpec(Spec):
    """Networks of one architecture, trained alike on the real set from different weights."""

    network: NetworkSpec
    num_networks: int = Field(ge=1, le=1000)
    training: RealTrainingSpec
    pool_seed: int = Field(default=0, ge=0, le=2**63 - 1)
    count_forgetting: bool = False
    """Also count, for every training image, how often training forgets it."""

    keep_snapshots: bool = Field(default=False, exclude_if=lambda keep: not keep)
    """Also keep the weights before training and after each epoch: expert trajectories. A pool without them is written, and
    keyed, as if this field did not exist."""

    preprocessing: PreprocessingSpec = Field(
        default=StandardiseSpec(), exclude_if=lambda preprocessing: isinstance(preprocessing, StandardiseSpec)
    )
    """How the real images become what the networks see; a pool on standardised ones is keyed as if this field did not exist."""

    @property
    def num_snapshots(self) -> int:
        """Snapshots of each network, where they are kept."""
        return self.training.num_epochs + 1
