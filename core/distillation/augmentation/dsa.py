"""DSA: differentiable siamese augmentation, one operation per call.

Zhao & Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021, arXiv:2102.08259, as the published
code of DC, DM, CAFE and IDM has it: one of the listed operations (`operations.py`) for each group, uniformly. Deviation:
draws come from a private generator instead of the clock.
Shapes: G groups, M images of a group, C channels, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.distillation.augmentation.operations import NUM_UNIFORM, apply_to_groups
from core.specs.augmentation import DSASpec, Operation


@dataclass(frozen=True)
class DSADraw:
    """The operations and parameters of G groups; `apply` may be called on any number of batches."""

    operations: tuple[Operation, ...]
    """One for each group."""

    uniform: Tensor
    """(G, 3) float32 in [0, 1), on the CPU; each operation reads what it needs."""

    deterministic: bool = False

    def narrow(self, start: int, stop: int) -> DSADraw:
        """The draw of the groups from `start` up to, not including, `stop`."""
        return DSADraw(self.operations[start:stop], self.uniform[start:stop], self.deterministic)

    def apply(self, images: Tensor) -> Tensor:
        """Transform (G, M, C, H, W) images; gradient flows to them."""
        return apply_to_groups(self.operations, images, self.uniform, deterministic=self.deterministic)


class DSA:
    """Draws operations and parameters."""

    def __init__(self, spec: DSASpec, *, deterministic: bool = False) -> None:
        """Keep the strategy; `deterministic` samples through matrices, whose backward pass has no race on CUDA."""
        self.strategy = spec.strategy
        self.deterministic = deterministic

    def draw(self, groups: int, generator: torch.Generator, *, shared_operation: bool = False) -> DSADraw:
        """Draw for `groups` groups, with one operation for each or, for network training, one for all."""
        index = torch.randint(len(self.strategy), (1 if shared_operation else groups,), generator=generator).tolist()
        operations = tuple(self.strategy[i] for i in index) * (groups if shared_operation else 1)
        return DSADraw(operations, torch.rand(groups, NUM_UNIFORM, generator=generator), self.deterministic)
