"""Residual networks for small images, of the two code bases of the field (after He et al., arXiv:1512.03385).

DC family (Zhao et al., arXiv:2006.05929, code): a 3x3 stem of 64 (or another width), two basic blocks in each of four stages of
64 to 512 (1 to 8 times the width), 4x4 average pool, PyTorch's default initial weights. Its variant `_AP` has a 2x2 average
pool where the plain one has a stride, and no pool at the end.

IDC family (Kim et al., arXiv:2205.14959, code): a 3x3 stem of 32 and stages of 32 to 256, global average pool, convolutions
from N(0, 2 / fan out). One-channel images take the wide branch of that code, 64 to 512 (it asks for the name of the data
set, CIFAR or not; deviation chosen so that the images decide).

The pool at the end is never larger than the map, and heads are sized for the images: 2 x 2 x 512 inputs at 64 px, as IID
patches the DC network (published code, arXiv:2404.00563).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from core.networks.layers import FeatureNet, HeConv2d, norm_layer
from core.specs.network import Norm, ResNet18DCSpec

Convolution = Callable[..., nn.Conv2d]
"""(channels, out_channels, kernel_size, stride=...) -> a convolution without bias that keeps the side at stride 1."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside the identity, or beside a 1x1 convolution where the shape changes."""

    def __init__(
        self, convolution: Convolution, norm: Norm, channels: int, width: int, *, halve: bool, pooled: bool = False
    ) -> None:
        """`halve` halves the side: by a stride of 2 or, `pooled`, by an average pool after the convolution."""
        super().__init__()
        stride = 2 if halve and not pooled else 1
        halving = nn.AvgPool2d(2) if halve and pooled else nn.Identity()
        self.body = nn.Sequential(
            convolution(channels, width, 3, stride=stride), norm_layer(norm, width), nn.ReLU(), halving,
            convolution(width, width, 3), norm_layer(norm, width),
        )
        self.shortcut = nn.Identity() if not halve and channels == width else nn.Sequential(
            convolution(channels, width, 1, stride=stride), halving, norm_layer(norm, width)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, width, H', W')."""
        return F.relu(self.body(images) + self.shortcut(images))


class AveragePool(nn.Module):
    """Average over windows of `side` pixels, or over the whole map where that is smaller or `side` is 0, then flatten."""

    def __init__(self, side: int = 0) -> None:
        super().__init__()
        self.side = side

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, D)."""
        height, width = maps.shape[-2:]
        window = (min(self.side or height, height), min(self.side or width, width))
        return F.avg_pool2d(maps, window).flatten(1)


def resnet18_dc(spec: ResNet18DCSpec, image_shape: tuple[int, int, int], num_classes: int) -> FeatureNet:
    """ResNet-18 of the DC family."""
    pooled = spec.downsampling == "average_pool"
    widths = (image_shape[0], spec.width, *(spec.width << stage for stage in range(4)))
    body = _body(_plain, spec.norm, widths, blocks=2, pooled=pooled)
    return FeatureNet(body, image_shape, num_classes, neck=nn.Flatten() if pooled else AveragePool(4))


def resnet_idc(norm: Norm, blocks: int, image_shape: tuple[int, int, int], num_classes: int) -> FeatureNet:
    """ResNet of the IDC family with `blocks` basic blocks in each stage: 1 is called ResNet-10, 2 ResNet-18."""
    stem = 64 if image_shape[0] == 1 else 32
    widths = (image_shape[0], stem, *(stem << stage for stage in range(4)))
    return FeatureNet(_body(HeConv2d, norm, widths, blocks=blocks), image_shape, num_classes, neck=AveragePool())


def _plain(channels: int, width: int, kernel_size: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)


def _body(
    convolution: Convolution, norm: Norm, widths: tuple[int, ...], *, blocks: int, pooled: bool = False
) -> nn.Sequential:
    """Stem and stages; `widths` are channels of the image, the stem, and each stage, and every stage but the first halves."""
    channels, stem = widths[:2]
    layers: list[nn.Module] = [convolution(channels, stem, 3), norm_layer(norm, stem), nn.ReLU()]
    for stage, (before, width) in enumerate(pairwise(widths[1:])):
        layers.append(BasicBlock(convolution, norm, before, width, halve=stage > 0, pooled=pooled))
        layers += [BasicBlock(convolution, norm, width, width, halve=False) for _ in range(blocks - 1)]
    return nn.Sequential(*layers)
