"""Whether the images of a data set are large enough for an architecture. Torch-free; `legality.py` applies the rules.

An architecture needs a side on which every pool leaves at least one pixel, and on which no norm that is taken image by image
sees a single one: that would make the same constant of every image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from core.catalogue import DatasetInfo
from core.errors import FieldProblem
from core.specs.job import DistillationSpec
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
from core.specs.terms import ClassCentralizationSpec


def smallest_side(network: NetworkSpec) -> int:
    """Pixels that the shorter side must have at least."""
    match network:
        case ConvNetSpec():
            return 2 if network.pooling == "none" else 2**network.depth
        case MLPSpec():
            return 1
        case LeNetSpec():
            return 16
        case AlexNetSpec():
            return 8
        case VGG11Spec():
            return 32
        case ResNet18DCSpec(downsampling="average_pool"):
            return 16 if network.norm == "instance" else 8
        case ResNet18DCSpec() | ResNet10IDCSpec() | ResNet18IDCSpec():  # strides round up
            return 9 if network.norm == "instance" else 1
        case DenseNetIDCSpec() | DenseNet121Spec():
            return 8
        case _:
            assert_never(network)


def single_pixel_batch_norm(network: NetworkSpec, info: DatasetInfo) -> bool:
    """Whether a batch norm of the network sees one pixel of each image, so that it needs two images."""
    side = max(info.height, info.width)
    match network:
        case ResNet18DCSpec(norm="batch", downsampling="average_pool") | DenseNetIDCSpec() | DenseNet121Spec():
            return side < 16
        case ResNet18DCSpec(norm="batch") | ResNet10IDCSpec(norm="batch") | ResNet18IDCSpec(norm="batch"):
            return side <= 8  # strides round up
        case _:
            return False  # the others pool behind their norms, down to one pixel at the smallest side


def effective_side(network: NetworkSpec, info: DatasetInfo) -> int:
    """The shorter side; 28 px count as 32 for networks whose first convolution pads them."""
    side = min(info.height, info.width)
    pads = isinstance(network, (ConvNetSpec, AlexNetSpec, VGG11Spec))
    return 32 if side == 28 and pads else side


def fits(network: NetworkSpec, info: DatasetInfo, pointer: str) -> FieldProblem | None:
    """The problem of a network at `pointer`, or None."""
    side, needed = effective_side(network, info), smallest_side(network)
    if side >= needed:
        return None
    if isinstance(network, ConvNetSpec) and network.pooling != "none":
        return FieldProblem(
            f"{pointer}/depth", "network_too_deep",
            f"depth {network.depth} halves a side of {side} px below one pixel; at most {side.bit_length() - 1}",
        )
    return FieldProblem(
        f"{pointer}/kind", "image_too_small",
        f"network {network_name(network)!r} needs images of at least {needed} x {needed} px; {info.name} has "
        f"{info.height} x {info.width}",
    )


def matching_network_fits(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """The matching network."""
    return fits(spec.method.network, info, "/method/network")


def evaluation_network_fits(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """The network of the evaluation."""
    return fits(spec.evaluation.network, info, "/evaluation/network")


def further_networks_fit(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """Networks of terms, and further networks of the evaluation; the first problem."""
    return next((problem for network, at in _further(spec) if (problem := fits(network, info, at)) is not None), None)


def cross_networks_differ(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """An architecture is evaluated once."""
    seen = {spec.evaluation.network}
    for i, network in enumerate(spec.evaluation.cross_networks):
        if network in seen:
            return FieldProblem(
                f"/evaluation/cross_networks/{i}", "network_repeated",
                f"cross_networks repeats {network_name(network)!r}, which evaluation.network or an earlier entry already is",
            )
        seen.add(network)
    return None


def _further(spec: DistillationSpec) -> Iterator[tuple[NetworkSpec, str]]:
    for i, term in enumerate(spec.method.terms):
        if isinstance(term, ClassCentralizationSpec):
            yield term.network, f"/method/terms/{i}/network"
    for i, network in enumerate(spec.evaluation.cross_networks):
        yield network, f"/evaluation/cross_networks/{i}"


NETWORK_RULES = (matching_network_fits, evaluation_network_fits, further_networks_fit, cross_networks_differ)
"""Every predicate of this file."""
