"""What every recipe shares: its result, its matching network, and the lookup in a table of hyper-parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from core.catalogue import DatasetInfo, convnet_depth
from core.specs.augmentation import OPERATIONS, DSASpec
from core.specs.evaluation import EvaluationSpec
from core.specs.init import KMeansInitSpec
from core.specs.method import MethodSpec
from core.specs.network import ConvNetSpec
from core.specs.selection import RepresentativeSpec

Row = TypeVar("Row")


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


def representative(base: Resolved, clusters: int = 128) -> Resolved:
    """DREAM on any method: cluster medoids of each class as real images, anew every 10 steps, and as the start."""
    selection = RepresentativeSpec(real_batch_per_class=clusters, refresh_every=10)
    method = base.method.model_copy(update={"selection": selection, "init": KMeansInitSpec()})
    return Resolved(method, base.evaluation)


def nearest(table: Mapping[tuple[str, int], Row], info: DatasetInfo, ipc: int) -> Row:
    """The published row for a data set and ipc; without one, that of the nearest ipc (by ratio) of the nearest set.

    A set that the table does not have takes CIFAR-100's rows from 50 classes on, where there are any, else CIFAR-10's.
    """
    names = {name for name, _ in table}
    fallback = "cifar100" if info.num_classes >= 50 and "cifar100" in names else "cifar10"
    name = info.name if info.name in names else fallback
    return min(((key[1], row) for key, row in table.items() if key[0] == name), key=lambda r: abs(math.log(r[0] / ipc)))[1]
