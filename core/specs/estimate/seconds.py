"""Seconds of the phases of a job."""

from __future__ import annotations

from core.catalogue import DatasetInfo
from core.specs.estimate.costs import (
    Cost,
    Worker,
    cost_of,
    num_layers,
    num_real,
    paired_images,
    shown,
    step_images,
    trained_per_iteration,
)
from core.specs.evaluation import EvaluationSpec
from core.specs.experts import PoolSpec
from core.specs.job import DistillationSpec
from core.specs.models import DynamicBilevelSpec
from core.specs.network import NetworkSpec
from core.specs.objective import GradientSpec, TrajectorySpec
from core.specs.selection import RepresentativeSpec
from core.specs.storage import decoder_macs, images_per_class
from core.specs.terms import AdversarialContrastSpec, ClassCentralizationSpec, HistoricalPrototypesSpec, MutualInformationSpec


def iteration_seconds(spec: DistillationSpec, info: DatasetInfo, worker: Worker) -> float:
    """One iteration: the objective, its terms, the decoder, the choice of real images, and training in the loop."""
    method, cost = spec.method, cost_of(spec.method.network, info)
    images = images_per_class(method.parameterization, spec.ipc, info)
    real, syn, epoch = num_real(spec, info), images.seen * info.num_classes, images.epoch * info.num_classes
    seconds = _objective_seconds(spec, info, worker)
    seconds += worker.seconds(3 * shown(spec, info) * decoder_macs(method.parameterization, info), 0)
    if isinstance(method.selection, RepresentativeSpec):
        candidates = sum(min(n, method.selection.num_candidates or n) for n in info.train_per_class)
        seconds += worker.seconds(candidates * cost.macs, worker.passes(candidates)) / method.selection.refresh_every
    for term in method.terms:
        if isinstance(term, ClassCentralizationSpec):
            seconds += worker.seconds(2 * syn * cost_of(term.network, info).macs, 2 * worker.passes(syn))
        if isinstance(term, HistoricalPrototypesSpec):
            seconds += worker.seconds(syn * cost.macs, worker.passes(syn))
        if isinstance(term, AdversarialContrastSpec):  # a pass to the images, and a training step of the adversary
            pairs = paired_images(spec, info, term)
            seconds += worker.seconds(5 * pairs * cost.macs, 5 * worker.passes(pairs))
        if isinstance(term, MutualInformationSpec):  # scores of all pairs, to the images and to the heads
            seconds += worker.seconds(5 * num_layers(method.network) * syn * real * term.embedding_width, 1)
    if isinstance(method.objective, TrajectorySpec) and method.terms:  # features, which the objective does not need
        seconds += _features_seconds(real, syn, cost, worker)
    trained, batch_size = trained_per_iteration(spec, info)
    seconds += worker.seconds(3 * trained * cost.macs, 3 * trained / batch_size)
    models = method.models
    if isinstance(models, DynamicBilevelSpec):
        smallest = min(info.train_per_class_after(spec.dataset.held_out_fraction))
        watched = min(models.num_watched, smallest) * info.num_classes
        passes = 3 * worker.passes(epoch) + worker.passes(watched)
        seconds += models.max_epochs / 2 * worker.seconds((3 * epoch + watched) * cost.macs, passes)
    return seconds


def _objective_seconds(spec: DistillationSpec, info: DatasetInfo, worker: Worker) -> float:
    objective, cost = spec.method.objective, cost_of(spec.method.network, info)
    real = num_real(spec, info)
    syn = images_per_class(spec.method.parameterization, spec.ipc, info).seen * info.num_classes
    match objective:
        case TrajectorySpec():
            # a step is a gradient, 3 forward passes' worth, and, backwards, the same again with a derivative of twice its cost
            factor = 9 if objective.gradient_mode == "unrolled" else 12
            images = objective.num_steps * step_images(spec, info, objective)
            return worker.seconds(factor * images * cost.macs, factor * objective.num_steps)
        case GradientSpec():
            # a gradient of weights is 3 passes; differentiated again, it was measured to take 3 times as long
            return worker.seconds((3 * real + 9 * syn) * cost.macs, 3 * worker.passes(real) + 9 * worker.passes(syn))
        case _:
            return _features_seconds(real, syn, cost, worker)


def _features_seconds(real: int, syn: int, cost: Cost, worker: Worker) -> float:
    return worker.seconds((real + 2 * syn) * cost.macs, worker.passes(real) + 2 * worker.passes(syn))


def pool_seconds(pool: PoolSpec, info: DatasetInfo, worker: Worker) -> float:
    """Training of a pool of networks on the real set."""
    images = sum(info.train_per_class) * pool.training.num_epochs * pool.num_networks
    return worker.seconds(3 * images * cost_of(pool.network, info).macs, 3 * images / pool.training.batch_size)


def evaluation_seconds(spec: DistillationSpec, info: DatasetInfo, worker: Worker) -> float:
    """Training and testing of everything that the protocol asks for."""
    evaluation = spec.evaluation
    main, others = evaluation.network, evaluation.cross_networks
    decoded = images_per_class(spec.method.parameterization, spec.ipc, info).epoch * info.num_classes
    stored = spec.ipc * info.num_classes
    sets = evaluation.num_eval * (2 if evaluation.check_8bit else 1)
    seconds = sets * _network_seconds(evaluation, main, decoded, info, worker)
    baselines = evaluation.random_draws * (1 + len(evaluation.baselines))
    seconds += baselines * _network_seconds(evaluation, main, stored, info, worker)
    for network in others:
        seconds += evaluation.num_eval * _network_seconds(evaluation, network, decoded, info, worker)
        seconds += evaluation.random_draws * _network_seconds(evaluation, network, stored, info, worker)
    return seconds


def _network_seconds(evaluation: EvaluationSpec, network: NetworkSpec, images: int, info: DatasetInfo, worker: Worker) -> float:
    cost = cost_of(network, info)
    steps = evaluation.num_epochs * -(-images // evaluation.batch_size)
    test = sum(info.test_per_class)
    return worker.seconds((3 * evaluation.num_epochs * images + test) * cost.macs, 3 * steps + worker.passes(test))
