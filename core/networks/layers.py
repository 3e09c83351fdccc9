"""Layers that several architectures share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from core.specs.network import Norm


def norm_layer(kind: Norm, channels: int) -> nn.Module:
    """The norm of a specification, for maps of `channels` channels; every kind but `none` has learned scale and shift."""
    match kind:
        case "instance":
            return nn.GroupNorm(channels, channels)
        case "batch":
            norm = nn.BatchNorm2d(channels)
            norm.num_batches_tracked = None  # only a cumulative average would read it
            return norm
        case "none":
            return nn.Identity()


class HeConv2d(nn.Conv2d):
    """A convolution without bias whose weights start from N(0, 2 / fan out), as the IDC family has it (He et al. 2015)."""

    def __init__(self, channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> None:
        super().__init__(channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)

    @property
    def initial_std(self) -> float:
        """Standard deviation of the initial weights."""
        return math.sqrt(2.0 / (self.kernel_size[0] * self.kernel_size[1] * self.out_channels))


def flat_size(body: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Entries of what `body` computes from one (C, H, W) image: the inputs of a head that follows it."""
    was_training = body.training
    body.eval()  # a batch norm in training mode refuses a single value per channel
    out: Tensor = body(torch.empty(1, *image_shape))
    body.train(was_training)
    return out[0].numel()


class FeatureNet(nn.Module):
    """A body that computes a feature map, a neck that makes a vector of it, and one linear layer.

    Taps: `map` (N, C, H, W), `pooled1` (N, C) its mean over positions, `flat` (N, D) input of the linear layer, and `logits`
    (N, K).
    """

    taps: tuple[str, ...] = ("map", "pooled1", "flat", "logits")

    def __init__(
        self, body: nn.Module, image_shape: tuple[int, int, int], num_classes: int, *, neck: nn.Module | None = None
    ) -> None:
        """Size the linear layer for the images; without a neck the map is flattened."""
        super().__init__()
        self.body = body
        self.neck = neck or nn.Flatten()
        self.head = nn.Linear(flat_size(nn.Sequential(self.body, self.neck), image_shape), num_classes)

    def forward(self, images: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
        """Compute the features, the logits when they are asked for, and return the taps by name."""
        found = {"map": self.body(images)}
        found["flat"] = self.neck(found["map"])
        if "pooled1" in taps:
            found["pooled1"] = found["map"].mean((2, 3))
        if "logits" in taps:
            found["logits"] = self.head(found["flat"])
        return {name: found[name] for name in taps}
