"""From the specification of each slot to the object that fills it. mypy fails here until a new kind has its arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, assert_never

import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.augmentation.build import build_augmentation
from core.distillation.init.correctly_classified import CorrectlyClassifiedInit
from core.distillation.init.forgetting import ForgettingInit
from core.distillation.init.greedy import GreedyInit
from core.distillation.init.herding import herd
from core.distillation.init.k_center import spread
from core.distillation.init.k_means import KMeansInit
from core.distillation.init.noise import NoiseInit
from core.distillation.init.random import RandomInit
from core.distillation.labels.build import build_labels
from core.distillation.models.build import build_models
from core.distillation.objectives.gaussian import Gaussian
from core.distillation.objectives.gradient import Gradient
from core.distillation.objectives.layerwise_feature import LayerwiseFeature
from core.distillation.objectives.mean_feature import MeanFeature
from core.distillation.objectives.rkhs import RKHS
from core.distillation.objectives.trajectory import Trajectory
from core.distillation.optimizer import SGD
from core.distillation.parameterizations.bases_hallucinators import BasesHallucinators
from core.distillation.parameterizations.multi_formation import MultiFormation
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
from core.distillation.selection.representative import Representative
from core.distillation.selection.uniform import Uniform
from core.distillation.terms.adversarial_contrast import AdversarialContrast
from core.distillation.terms.class_centralization import ClassCentralization
from core.distillation.terms.class_discriminative import ClassDiscriminative
from core.distillation.terms.classification_regulariser import ClassificationRegulariser
from core.distillation.terms.historical_prototypes import HistoricalPrototypes
from core.distillation.terms.local_covariance import LocalCovariance
from core.distillation.terms.mutual_information import MutualInformation
from core.experts import Experts, Pool
from core.networks.build import build_network
from core.networks.network import Network
from core.specs.experts import PoolSpec
from core.specs.init import (
    CorrectlyClassifiedInitSpec,
    ForgettingInitSpec,
    HerdingInitSpec,
    InitSpec,
    KCenterInitSpec,
    KMeansInitSpec,
    NoiseInitSpec,
    RandomInitSpec,
)
from core.specs.job import DistillationSpec
from core.specs.network import NetworkSpec
from core.specs.objective import (
    GaussianSpec,
    GradientSpec,
    LayerwiseFeatureSpec,
    MeanFeatureSpec,
    ObjectiveSpec,
    RKHSSpec,
    TrajectorySpec,
)
from core.specs.requirements import pool_of_init, pool_of_models, pool_of_term
from core.specs.selection import RepresentativeSpec, SelectionSpec, UniformSpec
from core.specs.synthetic import (
    BasesHallucinatorsSpec,
    MultiFormationSpec,
    OptimizerSpec,
    ParameterizationSpec,
    PixelsSpec,
    SGDSpec,
)
from core.specs.terms import (
    AdversarialContrastSpec,
    ClassCentralizationSpec,
    ClassDiscriminativeSpec,
    ClassificationRegulariserSpec,
    HistoricalPrototypesSpec,
    LocalCovarianceSpec,
    MutualInformationSpec,
    TermSpec,
)

T = TypeVar("T", Pool, PoolSpec)


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


def build(spec: DistillationSpec, data: RealSet, experts: Experts) -> Composition:
    """Fill every slot of a specification for a real set on its device.

    Args:
        spec: resolved specification.
        data: its real set.
        experts: answers for the pools that the specification needs.

    Raises:
        ValueError: the real set is preprocessed in another way than the specification says.
    """
    method, seed, device = spec.method, spec.seed, data.device
    if method.preprocessing != data.preprocessing:
        raise ValueError(f"method.preprocessing is {method.preprocessing!r}, the real set has {data.preprocessing!r}")
    net = build_network(method.network, data.info)
    deterministic = spec.resources.deterministic and device.type == "cuda"
    augmentation = build_augmentation(method.augmentation, deterministic=deterministic)
    parameterization = build_parameterization(method.parameterization, spec.ipc, data, seed)
    num_virtual = parameterization.num_virtual_per_class * data.num_classes
    num_images = num_virtual // parameterization.num_variants
    terms = (build_term(term, net, data, seed, experts) for term in method.terms)
    losses = (build_objective(method.objective, net, device, num_images), *terms)
    trained = pool_of_models(method.models, method.network)
    pool = None if trained is None else experts.pool(trained)
    models = build_models(method, net, data, augmentation, seed, pool, num_images)
    labels = build_labels(method.labels, pool, num_virtual)
    learned = merge_parameters([parameterization, labels, models, *losses])
    return Composition(
        net=net,
        losses=losses,
        models=models,
        parameterization=parameterization,
        selection=build_selection(method.selection, data, seed),
        labels=labels,
        augmentation=augmentation,
        init=build_init(method.init, method.network, experts, pool),
        optimizer=build_optimizer(method.optimizer, learned),
    )


def build_objective(spec: ObjectiveSpec, net: Network, device: torch.device, num_images: int) -> Loss:
    """Slot `objective`, for a synthetic set of which an epoch of training shows so many images."""
    match spec:
        case MeanFeatureSpec():
            return MeanFeature(spec)
        case LayerwiseFeatureSpec():
            return LayerwiseFeature(spec, net)
        case RKHSSpec():
            return RKHS(spec)
        case GaussianSpec():
            return Gaussian(spec)
        case GradientSpec():
            return Gradient(spec, net)
        case TrajectorySpec():
            return Trajectory(spec, device, num_images)
        case _:
            assert_never(spec)


def build_term(spec: TermSpec, net: Network, data: RealSet, seed: int, experts: Experts) -> Loss:
    """One of the slot `terms`."""
    match spec:
        case ClassCentralizationSpec():
            return ClassCentralization(spec, experts.pool(_needed(pool_of_term(spec))), seed)
        case LocalCovarianceSpec():
            return LocalCovariance(spec)
        case HistoricalPrototypesSpec():
            return HistoricalPrototypes(spec)
        case ClassDiscriminativeSpec():
            return ClassDiscriminative(spec)
        case ClassificationRegulariserSpec():
            return ClassificationRegulariser(spec)
        case AdversarialContrastSpec():
            return AdversarialContrast(spec, net, seed, data.device)
        case MutualInformationSpec():
            return MutualInformation(spec, net, seed, data.device)
        case _:
            assert_never(spec)


def build_parameterization(spec: ParameterizationSpec, ipc: int, data: RealSet, seed: int) -> Parameterization:
    """Slot `parameterization`."""
    match spec:
        case PixelsSpec():
            return Pixels(spec, ipc, data)
        case MultiFormationSpec():
            return MultiFormation(spec, ipc, data)
        case BasesHallucinatorsSpec():
            return BasesHallucinators(spec, ipc, data, seed)
        case _:
            assert_never(spec)


def build_selection(spec: SelectionSpec, data: RealSet, seed: int) -> Selection:
    """Slot `selection`."""
    match spec:
        case UniformSpec():
            return Uniform(spec, data, seed)
        case RepresentativeSpec():
            return Representative(spec, data, seed)
        case _:
            assert_never(spec)


def build_init(spec: InitSpec, network: NetworkSpec, experts: Experts, pool: Pool | None = None) -> Init:
    """Slot `init`, and the coresets among the baselines of an evaluation.

    Args:
        spec: what is wanted.
        network: the architecture that embeds.
        experts: answers for the pools of embedding networks.
        pool: that of slot `models`, where it has one.
    """
    match spec:
        case RandomInitSpec():
            return RandomInit()
        case NoiseInitSpec():
            return NoiseInit()
        case HerdingInitSpec():
            return GreedyInit(experts.pool(_needed(pool_of_init(spec, network))), herd)
        case KCenterInitSpec():
            return GreedyInit(experts.pool(_needed(pool_of_init(spec, network))), spread)
        case ForgettingInitSpec():
            return ForgettingInit(experts.pool(_needed(pool_of_init(spec, network))))
        case KMeansInitSpec():
            return KMeansInit(experts.pool(_needed(pool_of_init(spec, network))))
        case CorrectlyClassifiedInitSpec():
            return CorrectlyClassifiedInit(_needed(pool))
        case _:
            assert_never(spec)


def build_optimizer(spec: OptimizerSpec, learned: dict[str, list[Tensor]]) -> Optimizer:
    """Slot `optimizer`, over everything that is learned, by kind."""
    match spec:
        case SGDSpec():
            return SGD(spec, learned)
        case _:
            assert_never(spec)


def _needed(pool: T | None) -> T:
    assert pool is not None, "this kind needs a pool"
    return pool


def merge_parameters(parts: Sequence[Part]) -> dict[str, list[Tensor]]:
    """What several parts learn, by kind."""
    merged: dict[str, list[Tensor]] = {}
    for part in parts:
        for kind, tensors in part.parameters().items():
            merged.setdefault(kind, []).extend(tensors)
    return merged
