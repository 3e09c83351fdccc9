"""From a network specification to a `Network`."""

from __future__ import annotations

from typing import assert_never

from core.catalogue import DatasetInfo
from core.networks.convnet import ConvNet
from core.networks.network import Network
from core.specs.network import ConvNetSpec, NetworkSpec


def build_network(spec: NetworkSpec, info: DatasetInfo) -> Network:
    """Build the architecture for the images and classes of a data set."""
    shape = (info.channels, info.height, info.width)
    match spec:
        case ConvNetSpec():
            name = f"convnet-{spec.depth} width {spec.width}"
            return Network(name, lambda: ConvNet(spec, info.channels, shape[1:], info.num_classes), shape)
        case _:
            assert_never(spec)
