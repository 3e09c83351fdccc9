"""From the specification of each slot to the object that fills it. mypy fails here until a new kind has its arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.augmentation.dsa import DSA
from core.distillation.augmentation.none import Identity
from core.distillation.init.noise import NoiseInit
from core.distillation.init.random import RandomInit
from core.distillation.labels.hard import HardLabels
from core.distillation.models.fresh_random import FreshRandom
from core.distillation.objectives.mean_feature import MeanFeature
from core.distillation.optimizer import SGD
from core.distillation.parameterizations.pixels import Pixels
from core.distillation.protocols import (
    Augmentation,
    Init,
    Labels,
    Loss,
    Models,
    Optimizer,
    Parameterization,
    Part,
    Selection,
)
from core.distillation.selection.uniform import Uniform
from core.networks.build import build_network
from core.networks.network import Network
from core.specs.augmentation import AugmentationSpec, DSASpec, NoAugmentationSpec
from core.specs.job import DistillationSpec
from core.specs.models import FreshRandomSpec, ModelsSpec
from core.specs.objective import MeanFeatureSpec, ObjectiveSpec
from core.specs.selection import SelectionSpec, UniformSpec
from core.specs.synthetic import (
    HardLabelsSpec,
    InitSpec,
    LabelsSpec,
    NoiseInitSpec,
    OptimizerSpec,
    ParameterizationSpec,
    PixelsSpec,
    RandomInitSpec,
    SGDSpec,
)


@dataclass(frozen=True)
class Composition:
    """One object for each slot, ready for the engine."""

    net: Network
    losses: tuple[Loss, ...]
    models: Models
    parameterization: Parameterization
    selection: Selection
    labels: Labels
    augmentation: Augmentation
    init: Init
    optimizer: Optimizer

    def parts(self) -> dict[str, Part]:
        """Everything with state, by the name under which a checkpoint keeps it."""
        named: dict[str, Part] = {
            "parameterization": self.parameterization,
            "labels": self.labels,
            "models": self.models,
            "selection": self.selection,
            "optimizer": self.optimizer,
        }
        return named | {f"loss{i}": loss for i, loss in enumerate(self.losses)}


def build(spec: DistillationSpec, data: RealSet) -> Composition:
    """Fill every slot of a specification for a real set on its device."""
    method, seed, device = spec.method, spec.seed, data.device
    net = build_network(method.network, data.info)
    losses = (build_objective(method.objective),)
    models = build_models(method.models, net, data, seed)
    parameterization = build_parameterization(method.parameterization, spec.ipc, data)
    labels = build_labels(method.labels)
    learned = merge_parameters([parameterization, labels, models, *losses])
    deterministic = spec.resources.deterministic and device.type == "cuda"
    return Composition(
        net=net,
        losses=losses,
        models=models,
        parameterization=parameterization,
        selection=build_selection(method.selection, data, seed),
        labels=labels,
        augmentation=build_augmentation(method.augmentation, deterministic=deterministic),
        init=build_init(method.init),
        optimizer=build_optimizer(method.optimizer, learned),
    )


def build_objective(spec: ObjectiveSpec) -> Loss:
    """Slot `objective`."""
    match spec:
        case MeanFeatureSpec():
            return MeanFeature(spec)
        case _:
            assert_never(spec)


def build_models(spec: ModelsSpec, net: Network, data: RealSet, seed: int) -> Models:
    """Slot `models`."""
    match spec:
        case FreshRandomSpec():
            return FreshRandom(spec, net, seed, data.device)
        case _:
            assert_never(spec)


def build_parameterization(spec: ParameterizationSpec, ipc: int, data: RealSet) -> Parameterization:
    """Slot `parameterization`."""
    match spec:
        case PixelsSpec():
            info = data.info
            return Pixels(ipc, info.num_classes, (info.channels, info.height, info.width), data.device)
        case _:
            assert_never(spec)


def build_selection(spec: SelectionSpec, data: RealSet, seed: int) -> Selection:
    """Slot `selection`."""
    match spec:
        case UniformSpec():
            return Uniform(spec, data, seed)
        case _:
            assert_never(spec)


def build_labels(spec: LabelsSpec) -> Labels:
    """Slot `labels`."""
    match spec:
        case HardLabelsSpec():
            return HardLabels()
        case _:
            assert_never(spec)


def build_augmentation(spec: AugmentationSpec, *, deterministic: bool = False) -> Augmentation:
    """Slot `augmentation`, for matching and for evaluation alike."""
    match spec:
        case DSASpec():
            return DSA(spec, deterministic=deterministic)
        case NoAugmentationSpec():
            return Identity()
        case _:
            assert_never(spec)


def build_init(spec: InitSpec) -> Init:
    """Slot `init`."""
    match spec:
        case RandomInitSpec():
            return RandomInit()
        case NoiseInitSpec():
            return NoiseInit()
        case _:
            assert_never(spec)


def build_optimizer(spec: OptimizerSpec, learned: dict[str, list[Tensor]]) -> Optimizer:
    """Slot `optimizer`, over everything that is learned, by kind."""
    match spec:
        case SGDSpec():
            return SGD(spec, learned)
        case _:
            assert_never(spec)


def merge_parameters(parts: Sequence[Part]) -> dict[str, list[Tensor]]:
    """What several parts learn, by kind."""
    merged: dict[str, list[Tensor]] = {}
    for part in parts:
        for kind, tensors in part.parameters().items():
            merged.setdefault(kind, []).extend(tensors)
    return merged
