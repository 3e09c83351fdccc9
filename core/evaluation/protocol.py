"""An evaluation protocol as the object that trains under it."""

from __future__ import annotations

from core.data.real_set import RealSet
from core.distillation.augmentation.build import build_augmentation
from core.errors import InvalidInputError
from core.networks.build import build_network
from core.specs.evaluation import EvaluationSpec
from core.specs.network import NetworkSpec
from core.training import Schedule, Trainer


def schedule_of(spec: EvaluationSpec) -> Schedule:
    """The training part of a protocol."""
    return Schedule(
        spec.num_epochs, spec.batch_size, spec.lr_net, spec.momentum, spec.weight_decay, spec.schedule, spec.cutmix_probability
    )


def rate_for(spec: EvaluationSpec, learned: float | None) -> float | None:
    """The rate at which networks train on the distilled set, where it is not the protocol's own.

    Raises:
        InvalidInputError: the protocol asks for the learned rate and there is none.
    """
    if not spec.use_learned_rate:
        return None
    if learned is None:
        raise InvalidInputError("evaluation.use_learned_rate needs a rate that was learned with the set, and none came with it")
    return learned


def trainer_of(spec: EvaluationSpec, network: NetworkSpec, data: RealSet, num_images: int, num_runs: int) -> Trainer:
    """Trains one architecture under the protocol; compiled if so many runs on so many images pay for it."""
    return Trainer.for_runs(
        build_network(network, data.info), schedule_of(spec), build_augmentation(spec.augmentation), device=data.device,
        num_images=num_images, num_runs=num_runs,
    )
