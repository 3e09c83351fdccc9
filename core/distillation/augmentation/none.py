"""No augmentation: images as they are."""

from __future__ import annotations

import torch
from torch import Tensor


class Identity:
    """Both the augmentation and its draw."""

    def draw(self, groups: int, generator: torch.Generator, *, shared_operation: bool = False) -> Identity:
        """Nothing is drawn."""
        return self

    def narrow(self, start: int, stop: int) -> Identity:
        """The same for every group."""
        return self

    def apply(self, images: Tensor) -> Tensor:
        """The images themselves."""
        return images
