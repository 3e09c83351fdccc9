"""DenseNet with bottlenecks and compression for small images (Huang et al., arXiv:1608.06993), as the IDC family trains it.

A 3x3 stem of twice the growth, dense blocks of 6, 12, 24 and 16 layers, between them a 1x1 convolution that halves the
channels and a 2x2 average pool, batch norm throughout, global average pool. Growth 12 is what IDC, DREAM, M3D and DSDM
print as DenseNet-121 (published code, arXiv:2205.14959); growth 32 is that network proper, with a stem for small images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.networks.layers import FeatureNet, norm_layer
from core.networks.resnet import AveragePool

BLOCKS = (6, 12, 24, 16)
BOTTLENECK = 4
"""Channels between the two convolutions of a layer, in units of the growth."""


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1 convolution, norm, ReLU, 3x3 convolution; the result stands before its own input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        inner = BOTTLENECK * growth
        self.body = nn.Sequential(
            norm_layer("batch", channels), nn.ReLU(), nn.Conv2d(channels, inner, 1, bias=False),
            norm_layer("batch", inner), nn.ReLU(), nn.Conv2d(inner, growth, 3, padding=1, bias=False),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + growth, H, W)."""
        return torch.cat([self.body(maps), maps], 1)


def densenet(growth: int, image_shape: tuple[int, int, int], num_classes: int) -> FeatureNet:
    """The network with 121 layers for a growth."""
    channels = 2 * growth
    layers: list[nn.Module] = [nn.Conv2d(image_shape[0], channels, 3, padding=1, bias=False)]
    for number, count in enumerate(BLOCKS, start=1):
        layers += [DenseLayer(channels + i * growth, growth) for i in range(count)]
        channels += count * growth
        layers += [norm_layer("batch", channels), nn.ReLU()]
        if number < len(BLOCKS):
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return FeatureNet(nn.Sequential(*layers), image_shape, num_classes, neck=AveragePool())
