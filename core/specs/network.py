"""Slot `network`: the architecture that matching and evaluation train.

Papers give different networks the same name; a kind therefore carries the family of code bases it comes from (`_dc`: DC,
DSA, DM, CAFE, IDM; `_idc`: IDC, DREAM, M3D, DSDM).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from core.specs.base import Spec

Norm = Literal["instance", "batch", "none"]
"""`instance` is a group norm with one group per channel and learned scale and shift."""


class ConvNetSpec(Spec):
    """ConvNet-D of the field: D blocks of 3x3 convolution, norm, activation and 2x2 pooling, then one linear layer."""

    kind: Literal["convnet"] = "convnet"
    version: Literal[1] = 1
    width: int = Field(default=128, ge=1, le=2048)
    """Channels of every block."""

    depth: int = Field(default=3, ge=1, le=6)
    """Number of blocks; each halves the side. The field's rule is max(1, round(log2(side)) - 2)."""

    norm: Norm = "instance"
    activation: Literal["relu", "leaky_relu", "sigmoid", "swish"] = "relu"
    pooling: Literal["average", "max", "none"] = "average"
    """2x2 pooling with stride 2 at the end of each block; `none` keeps the side."""


class MLPSpec(Spec):
    """Two hidden layers with ReLU, then one linear layer."""

    kind: Literal["mlp"] = "mlp"
    version: Literal[1] = 1
    width: int = Field(default=128, ge=1, le=8192)


class LeNetSpec(Spec):
    """LeNet-5 with ReLU and max pooling, as the DC family has it."""

    kind: Literal["lenet"] = "lenet"
    version: Literal[1] = 1


class AlexNetSpec(Spec):
    """AlexNet for small images, as the DC family has it: five convolutions, three pools, one linear layer."""

    kind: Literal["alexnet"] = "alexnet"
    version: Literal[1] = 1
    norm: Norm = "none"


class VGG11Spec(Spec):
    """VGG-11 with one linear layer, as the DC family has it."""

    kind: Literal["vgg11"] = "vgg11"
    version: Literal[1] = 1
    norm: Norm = "instance"


class ResNet18DCSpec(Spec):
    """ResNet-18 of the DC family: stem of 64, two basic blocks in each of four stages."""

    kind: Literal["resnet18_dc"] = "resnet18_dc"
    version: Literal[1] = 1
    norm: Norm = "instance"
    width: int = Field(default=64, ge=1, le=1024)
    """Channels of the stem and of the first stage; each later stage has twice as many."""

    downsampling: Literal["stride", "average_pool"] = "stride"
    """`average_pool` is the `_AP` variant: convolutions keep the side, a 2x2 average pool follows, and no global pool."""


class ResNet10IDCSpec(Spec):
    """ResNet-10 of the IDC family: stem of 32 on colour images, one basic block in each of four stages."""

    kind: Literal["resnet10_idc"] = "resnet10_idc"
    version: Literal[1] = 1
    norm: Norm = "batch"


class ResNet18IDCSpec(Spec):
    """ResNet-18 of the IDC family: stem of 32 on colour images, two basic blocks in each of four stages."""

    kind: Literal["resnet18_idc"] = "resnet18_idc"
    version: Literal[1] = 1
    norm: Norm = "batch"


class DenseNetIDCSpec(Spec):
    """What the IDC family prints as DenseNet-121: its blocks, growth 12, reduction 0.5."""

    kind: Literal["densenet_idc"] = "densenet_idc"
    version: Literal[1] = 1


class DenseNet121Spec(Spec):
    """DenseNet-121 proper, growth 32, with a 3x3 stem for small images."""

    kind: Literal["densenet121"] = "densenet121"
    version: Literal[1] = 1


NetworkSpec = Annotated[
    ConvNetSpec
    | MLPSpec
    | LeNetSpec
    | AlexNetSpec
    | VGG11Spec
    | ResNet18DCSpec
    | ResNet10IDCSpec
    | ResNet18IDCSpec
    | DenseNetIDCSpec
    | DenseNet121Spec,
    Field(discriminator="kind"),
]


def network_name(spec: NetworkSpec) -> str:
    """For people and for tables: the family, its size, and what is not its default; different networks have different names."""
    name: str = spec.kind
    if isinstance(spec, ConvNetSpec):
        name = f"convnet-{spec.depth} width {spec.width}"
    elif isinstance(spec, MLPSpec):
        name = f"mlp width {spec.width}"
    elif isinstance(spec, ResNet18DCSpec) and spec.width != ResNet18DCSpec().width:
        name = f"{spec.kind} width {spec.width}"
    parts = [name]
    for field, info in type(spec).model_fields.items():
        value = getattr(spec, field)
        if field not in {"kind", "version", "width", "depth"} and value != info.default:
            parts.append(f"{'no' if value == 'none' else value.replace('_', ' ')} {field}")
    return " ".join(parts)
