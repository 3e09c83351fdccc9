"""From the specification of each slot to the object that fills it. mypy fails here until a new kind has its arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.augmentation.build import build_augmentation
from core.distillation.init.forgetting import ForgettingInit
from core.distillation.init.greedy import GreedyInit
from core.distillation.init.herding import herd
from core.distillation.init.k_center import spread
from core.distillation.init.k_means import KMeansInit
from core.distillation.init.noise import NoiseInit
from core.distillation.init.random import RandomInit
from core.distillation.labels.hard import HardLabels
from core.distillation.models.dynamic_bilevel import DynamicBilevel
from core.distillation.models.fresh_random import FreshRandom
from core.distillation.models.growing_queue import GrowingQueue
from core.distillation.models.pretrained_pool import PretrainedPool
from core.distillation.models.renewed import Renewed
from core.distillation.models.trained_on_real import TrainingOnReal
from core.distillation.models.trained_on_synthetic import TrainingOnSynthetic
from core.distillation.objectives.gaussian import Gaussian
from core.distillation.objectives.gradient import Gradient
from core.distillation.objectives.layerwise_feature import LayerwiseFeature
from core.distillation.objectives.mean_feature import MeanFeature
from core.distillation.objectives.rkhs import RKHS
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
from core.experts import Experts
from core.networks.build import build_network
from core.networks.network import Network
from core.specs.experts import PoolSpec
from core.specs.init import (
    ForgettingInitSpec,
    HerdingInitSpec,
    InitSpec,
    KCenterInitSpec,
    KMeansInitSpec,
    NoiseInitSpec,
    RandomInitSpec,
)
from core.specs.job import DistillationSpec
from core.specs.method import MethodSpec
from core.specs.models import (
    DynamicBilevelSpec,
    FreshRandomSpec,
    GrowingQueueSpec,
    PretrainedPoolSpec,
    TrainedOnRealSpec,
    TrainedOnSyntheticSpec,
)
from core.specs.network import NetworkSpec
from core.specs.objective import (
    GaussianSpec,
    GradientSpec,
    LayerwiseFeatureSpec,
    MeanFeatureSpec,
    ObjectiveSpec,
    RKHSSpec,
)
from core.specs.requirements import pool_of_init, pool_of_models, pool_of_term
from core.specs.selection import RepresentativeSpec, SelectionSpec, UniformSpec
from core.specs.synthetic import (
    BasesHallucinatorsSpec,
    HardLabelsSpec,
    LabelsSpec,
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
    """
    method, seed, device = spec.method, spec.seed, data.device
    net = build_network(method.network, data.info)
    deterministic = spec.resources.deterministic and device.type == "cuda"
    augmentation = build_augmentation(method.augmentation, deterministic=deterministic)
    losses = (build_objective(method.objective, net), *(build_term(term, net, data, seed, experts) for term in method.terms))
    parameterization = build_parameterization(method.parameterization, spec.ipc, data, seed)
    num_virtual = parameterization.num_virtual_per_class * data.num_classes
    models = build_models(method, net, data, augmentation, seed, experts, num_virtual)
    labels = build_labels(method.labels)
    learned = merge_parameters([parameterization, labels, models, *losses])
    return Composition(
        net=net,
        losses=losses,
        models=models,
        parameterization=parameterization,
        selection=build_selection(method.selection, data, seed),
        labels=labels,
        augmentation=augmentation,
        init=build_init(method.init, method.network, experts),
        optimizer=build_optimizer(method.optimizer, learned),
    )


def build_objective(spec: ObjectiveSpec, net: Network) -> Loss:
    """Slot `objective`."""
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


def build_models(
    method: MethodSpec, net: Network, data: RealSet, augmentation: Augmentation, seed: int, experts: Experts,
    num_virtual: int,
) -> Models:
    """Slot `models`, for a synthetic set of `num_virtual` decoded images."""
    spec = method.models
    match spec:
        case FreshRandomSpec():
            return FreshRandom(spec, net, seed, data.device)
        case PretrainedPoolSpec():
            return PretrainedPool(experts.pool(_needed(pool_of_models(spec, method.network))), seed)
        case GrowingQueueSpec():
            return GrowingQueue(spec, net, data, seed, method.max_iterations)
        case DynamicBilevelSpec():
            return DynamicBilevel(spec, net, data, augmentation, seed)
        case TrainedOnSyntheticSpec():
            on_synthetic = TrainingOnSynthetic(
                spec, net, augmentation, seed, device=data.device, num_iterations=method.max_iterations,
                num_virtual=num_virtual,
            )
            return Renewed(net, on_synthetic, spec.steps_per_network)
        case TrainedOnRealSpec():
            own = build_augmentation(spec.training.augmentation)
            on_real = TrainingOnReal(spec, net, data, own, seed, num_iterations=method.max_iterations)
            return Renewed(net, on_real, spec.steps_per_network)
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


def build_labels(spec: LabelsSpec) -> Labels:
    """Slot `labels`."""
    match spec:
        case HardLabelsSpec():
            return HardLabels()
        case _:
            assert_never(spec)


def build_init(spec: InitSpec, network: NetworkSpec, experts: Experts) -> Init:
    """Slot `init`, and the coresets among the baselines of an evaluation; `network` is the architecture that embeds."""
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
        case _:
            assert_never(spec)


def build_optimizer(spec: OptimizerSpec, learned: dict[str, list[Tensor]]) -> Optimizer:
    """Slot `optimizer`, over everything that is learned, by kind."""
    match spec:
        case SGDSpec():
            return SGD(spec, learned)
        case _:
            assert_never(spec)


def _needed(pool: PoolSpec | None) -> PoolSpec:
    assert pool is not None, "this kind needs a pool"
    return pool


def merge_parameters(parts: Sequence[Part]) -> dict[str, list[Tensor]]:
    """What several parts learn, by kind."""
    merged: dict[str, list[Tensor]] = {}
    for part in parts:
        for kind, tensors in part.parameters().items():
            merged.setdefault(kind, []).extend(tensors)
    return merged
