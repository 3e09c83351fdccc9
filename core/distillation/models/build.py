"""From a specification of the slot `models` to the object that fills it. mypy fails here until a new kind has its arm."""

from __future__ import annotations

from typing import assert_never

from core.data.real_set import RealSet
from core.distillation.augmentation.build import build_augmentation
from core.distillation.models.dynamic_bilevel import DynamicBilevel
from core.distillation.models.expert_segments import ExpertSegments
from core.distillation.models.fresh_random import FreshRandom
from core.distillation.models.growing_queue import GrowingQueue
from core.distillation.models.pretrained_pool import PretrainedPool
from core.distillation.models.renewed import Renewed
from core.distillation.models.trained_on_real import TrainingOnReal
from core.distillation.models.trained_on_synthetic import TrainingOnSynthetic
from core.distillation.protocols import Augmentation, Models
from core.experts import Pool
from core.networks.network import Network
from core.specs.method import MethodSpec
from core.specs.models import (
    DynamicBilevelSpec,
    ExpertSegmentsSpec,
    FreshRandomSpec,
    GrowingQueueSpec,
    PretrainedPoolSpec,
    TrainedOnRealSpec,
    TrainedOnSyntheticSpec,
)


def build_models(
    method: MethodSpec, net: Network, data: RealSet, augmentation: Augmentation, seed: int, pool: Pool | None, num_images: int,
) -> Models:
    """Slot `models`.

    Args:
        method: the composition.
        net: its network.
        data: real set.
        augmentation: that of matching.
        seed: seed of the job.
        pool: trained networks, for kinds that draw from some.
        num_images: images of an epoch of training on the synthetic set.
    """
    spec = method.models
    match spec:
        case FreshRandomSpec():
            return FreshRandom(spec, net, seed, data.device)
        case PretrainedPoolSpec():
            assert pool is not None, "this kind has a pool"
            return PretrainedPool(pool, seed)
        case GrowingQueueSpec():
            return GrowingQueue(spec, net, data, seed, method.max_iterations)
        case DynamicBilevelSpec():
            return DynamicBilevel(spec, net, data, augmentation, seed)
        case TrainedOnSyntheticSpec():
            on_synthetic = TrainingOnSynthetic(
                spec, net, augmentation, seed, device=data.device, num_iterations=method.max_iterations, num_images=num_images,
            )
            return Renewed(net, on_synthetic, spec.steps_per_network)
        case TrainedOnRealSpec():
            own = build_augmentation(spec.training.augmentation)
            on_real = TrainingOnReal(spec, net, data, own, seed, num_iterations=method.max_iterations)
            return Renewed(net, on_real, spec.steps_per_network)
        case ExpertSegmentsSpec():
            assert pool is not None, "this kind has a pool"
            return ExpertSegments(spec, pool, seed)
        case _:
            assert_never(spec)
