"""ConvNet-D, the network of the field: D blocks of 3x3 convolution, norm, ReLU and 2x2 pooling, then one linear layer.

Introduced for data set distillation by Zhao et al., "Dataset Condensation with Gradient Matching", ICLR 2021,
arXiv:2006.05929, after Gidaris & Komodakis 2018. The norm called "instance" is a group norm with one group per channel
and learned scale and shift. A 28 px side is padded to 32 by the first convolution (the published code asks for one
channel instead of the side; deviation chosen because only the side matters).
Shapes: N images, C channels, H W pixels, K classes, D features.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from core.specs.network import ConvNetSpec


class Block(nn.Module):
    """Convolution, norm, ReLU, pooling: (N, C, H, W) -> (N, width, H / 2, W / 2)."""

    def __init__(self, spec: ConvNetSpec, channels: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, spec.width, kernel_size=3, padding=padding)
        self.norm = nn.GroupNorm(spec.width, spec.width) if spec.norm == "instance" else nn.Identity()
        self.pool = F.avg_pool2d if spec.pooling == "average" else F.max_pool2d

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(F.relu(self.norm(self.conv(images))), 2)


class ConvNet(nn.Module):
    """Taps: `block1`.. (N, width, h, w) after the pool, `flat` (N, D) input of the linear layer, `logits` (N, K)."""

    def __init__(self, spec: ConvNetSpec, channels: int, side: tuple[int, int], num_classes: int) -> None:
        super().__init__()
        padded = min(side) == 28
        first = Block(spec, channels, padding=3 if padded else 1)
        blocks = [first, *(Block(spec, spec.width, padding=1) for _ in range(spec.depth - 1))]
        height, width = ((s + 4 if padded else s) >> spec.depth for s in side)
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(spec.width * height * width, num_classes)

    def forward(self, images: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        """Run as far as the taps need and return them by name."""
        found: dict[str, Tensor] = {}
        for number, block in enumerate(self.blocks, start=1):
            images = block(images)
            found[f"block{number}"] = images
        found["flat"] = images.flatten(1)
        if "logits" in taps:
            found["logits"] = self.head(found["flat"])
        return {name: found[name] for name in taps}
