"""Slot `network`: the architecture that matching and evaluation train."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.specs.base import Spec


class ConvNetSpec(Spec):
    """ConvNet-D of the field: D blocks of 3x3 convolution, norm, ReLU and 2x2 pooling, then one linear layer."""

    kind: Literal["convnet"] = "convnet"
    version: Literal[1] = 1
    width: int = Field(default=128, ge=1, le=2048)
    """Channels of every block."""

    depth: int = Field(ge=1, le=6)
    """Number of blocks; each halves the side. The field's rule is max(1, round(log2(side)) - 2)."""

    norm: Literal["instance", "none"] = "instance"
    """`instance` is a group norm with one group per channel and learned scale and shift."""

    pooling: Literal["average", "max"] = "average"
    """2x2 pooling with stride 2 at the end of each block."""


NetworkSpec = ConvNetSpec
