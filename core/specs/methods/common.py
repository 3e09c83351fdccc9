"""What every recipe shares: its result, its matching network, and the lookup in a table of hyper-parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TypeVar

from core.catalogue import DatasetInfo, convnet_depth
from core.specs.augmentation import OPERATIONS, DSASpec
from core.specs.evaluation import EvaluationSpec
from core.specs.init import KMeansInitSpec
from core.specs.method import MethodSpec
from core.specs.network import ConvNetSpec
from core.specs.selection import RepresentativeSpec
from core.specs.synthetic import MultiFormationSpec, PixelSpace

Row = TypeVar("Row")
Published = tuple[str, int]
"""Data set and ipc of a published row."""


class Resolved(NamedTuple):
    """What a recipe returns: the method, its evaluation protocol, and what `small` lowered."""

    method: MethodSpec
    evaluation: EvaluationSpec
    capped: tuple[str, ...] = ()


def field_convnet(info: DatasetInfo) -> ConvNetSpec:
    """ConvNet of width 128 with the field's depth for the image side."""
    return ConvNetSpec(width=128, depth=convnet_depth(min(info.height, info.width)))


def dsa(info: DatasetInfo) -> DSASpec:
    """All six operations; without `flip` where a mirrored image shows another class."""
    return DSASpec(strategy=tuple(op for op in OPERATIONS if op != "flip" or info.mirrored))


def packed(
    info: DatasetInfo, *, space: PixelSpace, shrink: Literal["mean", "nearest"], max_per_class: int = 0
) -> MultiFormationSpec:
    """Two cells along each axis; of a spectrogram, two along time, as the code of IDC and the paper of DSDM have it."""
    axes: Literal["both", "time"] = "time" if info.time_axis else "both"
    return MultiFormationSpec(factor=2, axes=axes, space=space, shrink=shrink, max_per_class=max_per_class)


def rate_side(info: DatasetInfo) -> int:
    """The side in pixels for which IDC, and DSDM on its code, state a rate; it grows with the square of a larger side."""
    if info.time_axis:
        return 64
    return 28 if info.name == "mnist" else 32


def representative(base: Resolved, clusters: int = 128) -> Resolved:
    """DREAM on any method: cluster medoids of each class as real images, anew every 10 steps, and as the start."""
    selection = RepresentativeSpec(real_batch_per_class=clusters, refresh_every=10)
    method = base.method.model_copy(update={"selection": selection, "init": KMeansInitSpec()})
    return Resolved(method, base.evaluation)


def nearest(table: Mapping[Published, Row], info: DatasetInfo, ipc: int) -> Row:
    """The published row for a data set and ipc; without one, that of the nearest ipc (by ratio) of the nearest set."""
    return table[nearest_key(table, info, ipc)]


def nearest_key(published: Iterable[Published], info: DatasetInfo, ipc: int) -> Published:
    """The data set and ipc of that row.

    A set that has no row takes CIFAR-100's from 50 classes on, where there are any, else CIFAR-10's, else those that are left.
    """
    keys = list(published)
    names = sorted({name for name, _ in keys})
    known = (info.name, "cifar100" if info.num_classes >= 50 else "cifar10", "cifar10", *names)
    name = next(name for name in known if name in names)
    return min((key for key in keys if key[0] == name), key=lambda key: abs(math.log(key[1] / ipc)))
