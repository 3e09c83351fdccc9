"""ConvNet-D, the network of the field: D blocks of 3x3 convolution, norm, activation and 2x2 pooling, then one linear layer.

Introduced for data set distillation by Zhao et al., "Dataset Condensation with Gradient Matching", ICLR 2021,
arXiv:2006.05929, after Gidaris & Komodakis 2018. The norm called "instance" is a group norm with one group per channel
and learned scale and shift. A 28 px side is padded to 32 by the first convolution (the published code asks for one
channel instead of the side; deviation chosen because only the side matters).
Shapes: N images, C channels, H W pixels, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from core.networks.layers import norm_layer
from core.specs.network import ConvNetSpec

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "leaky_relu": lambda x: F.leaky_relu(x, 0.01), "sigmoid": F.sigmoid, "swish": F.silu,
}
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "average": lambda x: F.avg_pool2d(x, 2), "max": lambda x: F.max_pool2d(x, 2), "none": lambda x: x,
}


class Block(nn.Module):
    """Convolution, norm, activation, pooling: (N, C, H, W) -> (N, width, H / 2, W / 2), and what the pool saw."""

    def __init__(self, spec: ConvNetSpec, channels: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, spec.width, kernel_size=3, padding=padding)
        self.norm = norm_layer(spec.norm, spec.width)
        self.activation = ACTIVATIONS[spec.activation]
        self.pool = POOLS[spec.pooling]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        activation = self.activation(self.norm(self.conv(images)))
        return self.pool(activation), activation


class ConvNet(nn.Module):
    """Taps: `activation1`.. (N, width, H, W) before the pool of a block, `block1`.. after it, `pooled1`.. (N, width) the mean
    over its positions, and the common three.

    `map` is the last block, `flat` (N, D) the same as a vector, `logits` (N, K).
    """

    def __init__(self, spec: ConvNetSpec, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, *side = image_shape
        padded = min(side) == 28
        first = Block(spec, channels, padding=3 if padded else 1)
        blocks = [first, *(Block(spec, spec.width, padding=1) for _ in range(spec.depth - 1))]
        halvings = 0 if spec.pooling == "none" else spec.depth
        height, width = ((s + 4 if padded else s) >> halvings for s in side)
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(spec.width * height * width, num_classes)
        numbers = range(1, spec.depth + 1)
        names = (f"{name}{i}" for i in numbers for name in ("activation", "block", "pooled"))
        self.taps = (*names, "map", "flat", "logits")

    def forward(self, images: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        """Compute all features, the logits when they are asked for, and return the taps by name."""
        found: dict[str, Tensor] = {}
        for number, block in enumerate(self.blocks, start=1):
            images, found[f"activation{number}"] = block(images)
            found[f"block{number}"] = images
            if f"pooled{number}" in taps:
                found[f"pooled{number}"] = images.mean((2, 3))
        found["map"], found["flat"] = images, images.flatten(1)
        if "logits" in taps:
            found["logits"] = self.head(found["flat"])
        return {name: found[name] for name in taps}
