"""From a network specification to a `Network`. mypy fails here until a new kind has its arm."""

from __future__ import annotations

from functools import partial
from typing import assert_never

from torch import nn

from core.catalogue import DatasetInfo
from core.networks.convnet import ConvNet
from core.networks.densenet import densenet
from core.networks.mlp import MLP
from core.networks.network import Network
from core.networks.plain import alexnet, lenet, vgg11
from core.networks.resnet import resnet18_dc, resnet_idc
from core.specs.network import (
    AlexNetSpec,
    ConvNetSpec,
    DenseNet121Spec,
    DenseNetIDCSpec,
    LeNetSpec,
    MLPSpec,
    NetworkSpec,
    ResNet10IDCSpec,
    ResNet18DCSpec,
    ResNet18IDCSpec,
    VGG11Spec,
    network_name,
)


def build_network(spec: NetworkSpec, info: DatasetInfo) -> Network:
    """Build the architecture for the images and classes of a data set; `core.specs.legality` says whether they fit it."""
    shape = (info.channels, info.height, info.width)
    return Network(network_name(spec), partial(build_module, spec, shape, info.num_classes), shape)


def build_module(spec: NetworkSpec, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """The module alone, on the default device; its `forward(images, taps)` returns the taps by name."""
    match spec:
        case ConvNetSpec():
            return ConvNet(spec, image_shape, num_classes)
        case MLPSpec():
            return MLP(spec, image_shape, num_classes)
        case LeNetSpec():
            return lenet(image_shape, num_classes)
        case AlexNetSpec():
            return alexnet(spec, image_shape, num_classes)
        case VGG11Spec():
            return vgg11(spec, image_shape, num_classes)
        case ResNet18DCSpec():
            return resnet18_dc(spec, image_shape, num_classes)
        case ResNet10IDCSpec():
            return resnet_idc(spec.norm, 1, image_shape, num_classes)
        case ResNet18IDCSpec():
            return resnet_idc(spec.norm, 2, image_shape, num_classes)
        case DenseNetIDCSpec():
            return densenet(12, image_shape, num_classes)
        case DenseNet121Spec():
            return densenet(32, image_shape, num_classes)
        case _:
            assert_never(spec)
