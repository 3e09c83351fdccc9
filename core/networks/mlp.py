"""Two hidden layers with ReLU, then one linear layer, as the DC family has it (Zhao et al., arXiv:2006.05929, code).

Shapes: N images, C channels, H W pixels, K classes, D features.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from core.specs.network import MLPSpec


class MLP(nn.Module):
    """Taps: `flat` (N, width) input of the last layer, `logits` (N, K). There is no feature map."""

    taps: tuple[str, ...] = ("flat", "logits")

    def __init__(self, spec: MLPSpec, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(image_shape), spec.width), nn.ReLU(),
            nn.Linear(spec.width, spec.width), nn.ReLU(),
        )
        self.head = nn.Linear(spec.width, num_classes)

    def forward(self, images: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        """Compute the taps and return them by name."""
        found = {"flat": self.body(images)}
        if "logits" in taps:
            found["logits"] = self.head(found["flat"])
        return {name: found[name] for name in taps}
