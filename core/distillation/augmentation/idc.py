"""The augmentation of the IDC family (IDC, DREAM, M3D, DSDM): several operations in a row.

Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022, arXiv:2205.14959, in the form of
its published code: flip, colour and cutout are applied whenever they are listed, and exactly one of the listed crop, scale and
rotate; the order is flip, colour, the drawn one, cutout. Operations and ranges are those of DSA (`operations.py`).
Deviations: draws come from a private generator; `translate`, a fourth choice of the code that no strategy of these methods
lists, is not offered.
Shapes: G groups, M images of a group, C channels, H W pixels, S stages.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.distillation.augmentation.operations import NUM_UNIFORM, apply_to_groups
from core.specs.augmentation import IDCAugmentationSpec, Operation

STAGES: tuple[tuple[Operation, ...], ...] = (("flip",), ("color",), ("crop", "scale", "rotate"), ("cutout",))
"""In order; of each stage one listed operation is applied."""


@dataclass(frozen=True)
class IDCDraw:
    """The operations and parameters of G groups; `apply` may be called on any number of batches."""

    operations: tuple[tuple[Operation, ...], ...]
    """For each stage, the operation of every group."""

    uniform: Tensor
    """(S, G, 3) float32 in [0, 1), on the CPU."""

    deterministic: bool = False

    def narrow(self, start: int, stop: int) -> IDCDraw:
        """The draw of the groups from `start` up to, not including, `stop`."""
        return IDCDraw(tuple(stage[start:stop] for stage in self.operations), self.uniform[:, start:stop], self.deterministic)

    def apply(self, images: Tensor) -> Tensor:
        """Transform (G, M, C, H, W) images; gradient flows to them."""
        for operations, uniform in zip(self.operations, self.uniform, strict=True):
            images = apply_to_groups(operations, images, uniform, deterministic=self.deterministic)
        return images


class IDCAugmentation:
    """Draws operations and parameters."""

    def __init__(self, spec: IDCAugmentationSpec, *, deterministic: bool = False) -> None:
        """Keep the stages that have something to do; `deterministic` as for DSA."""
        listed = (tuple(name for name in stage if name in spec.strategy) for stage in STAGES)
        self.stages = tuple(stage for stage in listed if stage)
        self.deterministic = deterministic

    def draw(self, groups: int, generator: torch.Generator, *, shared_operation: bool = False) -> IDCDraw:
        """Draw for `groups` groups; where a stage has a choice, an operation for each or, for network training, one for all."""
        operations = []
        for stage in self.stages:
            index = torch.randint(len(stage), (1 if shared_operation else groups,), generator=generator).tolist()
            operations.append(tuple(stage[i] for i in index) * (groups if shared_operation else 1))
        uniform = torch.rand(len(self.stages), groups, NUM_UNIFORM, generator=generator)
        return IDCDraw(tuple(operations), uniform, self.deterministic)
