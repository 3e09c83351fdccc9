"""LeNet, AlexNet and VGG-11 for small images, as the DC family has them (Zhao et al., arXiv:2006.05929, code).

After LeCun et al. 1998, Krizhevsky et al. 2012, and Simonyan & Zisserman, arXiv:1409.1556. A 28 px side is padded by the
first convolution so that every later size is that of 32 px (the published code asks for one channel instead of the side;
deviation chosen because only the side matters). Heads are sized for the images; the published ones fit 28 and 32 px only.
"""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from core.networks.layers import FeatureNet, flat_size, norm_layer
from core.specs.network import AlexNetSpec, Norm, VGG11Spec


def lenet(image_shape: tuple[int, int, int], num_classes: int) -> FeatureNet:
    """Two 5x5 convolutions with max pooling, then three linear layers; `flat` is the input of the last one, 84 entries."""
    body = nn.Sequential(
        nn.Conv2d(image_shape[0], 6, kernel_size=5, padding=2 if _padded(image_shape) else 0), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, kernel_size=5), nn.ReLU(), nn.MaxPool2d(2),
    )
    neck = nn.Sequential(
        nn.Flatten(), nn.Linear(flat_size(body, image_shape), 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
    )
    return FeatureNet(body, image_shape, num_classes, neck=neck)


def alexnet(spec: AlexNetSpec, image_shape: tuple[int, int, int], num_classes: int) -> FeatureNet:
    """Five convolutions with three max pools, then one linear layer."""
    padding = 4 if _padded(image_shape) else 2
    body = nn.Sequential(
        *_layer(spec.norm, image_shape[0], 128, 5, padding), nn.MaxPool2d(2),
        *_layer(spec.norm, 128, 192, 5, 2), nn.MaxPool2d(2),
        *_layer(spec.norm, 192, 256, 3, 1), *_layer(spec.norm, 256, 192, 3, 1), *_layer(spec.norm, 192, 192, 3, 1),
        nn.MaxPool2d(2),
    )
    return FeatureNet(body, image_shape, num_classes)


def vgg11(spec: VGG11Spec, image_shape: tuple[int, int, int], num_classes: int) -> FeatureNet:
    """Eight 3x3 convolutions with five max pools, then one linear layer."""
    widths = (image_shape[0], 64, 128, 256, 256, 512, 512, 512, 512)
    pooled_after = {1, 2, 4, 6, 8}
    layers: list[nn.Module] = []
    for number, (channels, width) in enumerate(pairwise(widths), start=1):
        layers += _layer(spec.norm, channels, width, 3, 3 if number == 1 and _padded(image_shape) else 1)
        if number in pooled_after:
            layers.append(nn.MaxPool2d(2))
    return FeatureNet(nn.Sequential(*layers), image_shape, num_classes)


def _padded(image_shape: tuple[int, int, int]) -> bool:
    return min(image_shape[1:]) == 28


def _layer(norm: Norm, channels: int, width: int, kernel_size: int, padding: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, kernel_size, padding=padding), norm_layer(norm, width), nn.ReLU()]
