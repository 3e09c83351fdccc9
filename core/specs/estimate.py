"""A coarse estimate of time and memory for a composition, from its specification alone. Torch-free.

Work is counted in multiply-accumulates of the networks, forward 1, backward to the images 1, backward with weights 2, and
divided by what a kind of worker was measured to do. Wrong by a factor of two is good here: the child measures a real step
and reports that instead. For a kind of worker on which nothing was measured, `basis` says so.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import BaseModel, Field

from core.catalogue import DatasetInfo
from core.specs.compatibility import decoded_per_class
from core.specs.evaluation import EvaluationSpec
from core.specs.experts import PoolSpec
from core.specs.job import DistillationSpec
from core.specs.models import DynamicBilevelSpec, GrowingQueueSpec, TrainedOnRealSpec, TrainedOnSyntheticSpec
from core.specs.network import ConvNetSpec, NetworkSpec
from core.specs.objective import GradientSpec, LayerwiseFeatureSpec
from core.specs.requirements import required_pools
from core.specs.selection import RepresentativeSpec
from core.specs.terms import ClassCentralizationSpec, HistoricalPrototypesSpec

GRAPH_COPIES = 3
"""Tensors of the size of a layer's output that its backward pass keeps: convolution, norm, activation."""

SECOND_ORDER_COPIES = 15
"""The same where a gradient is differentiated again: 4.4 are kept, and 9 (class by class) to 15 (batched) were measured at the
peak of the second backward pass (ConvNet-3 at 32 px, width 32 and 128)."""


class Worker(NamedTuple):
    """What a kind of worker does."""

    macs_per_second: float
    seconds_per_pass: float
    """Cost of one pass through a network that does not depend on its size."""

    graph_images: int
    """Synthetic images whose graph is kept at once."""

    base_bytes: int
    """Memory of an idle child (resident on a CPU, of the device on a GPU)."""

    basis: str


WORKERS: dict[Literal["cpu", "gpu"], Worker] = {
    "cpu": Worker(5e10, 0.004, 64, 450 * 2**20, "measured on 2 x86-64 cores: 50 to 90 G multiply-accumulates per second"),
    "gpu": Worker(5e12, 0.02, 4096, 600 * 2**20, "assumed, nothing was measured on a GPU yet"),
}
_MACS_AT_32 = {
    "mlp": 0.4e6, "lenet": 0.7e6, "alexnet": 245e6, "vgg11": 153e6, "resnet18_dc": 555e6, "resnet10_idc": 64e6,
    "resnet18_idc": 139e6, "densenet_idc": 125e6, "densenet121": 888e6,
}
"""Multiply-accumulates per image of 3 x 32 x 32 (method reference 2.2); the cost of these networks grows with the pixels."""


class Cost(NamedTuple):
    """One image through one network."""

    macs: float
    activations: float
    """Numbers that its layers put out."""


class PhaseEstimate(BaseModel):
    """Seconds of one phase."""

    phase: Literal["experts", "distilling", "evaluating"]
    seconds: float


class Estimate(BaseModel):
    """What a composition will take on one kind of worker: coarse."""

    worker: Literal["cpu", "gpu"]
    seconds: float = Field(description="All phases; pools of trained networks that exist already cost nothing.")
    phases: list[PhaseEstimate]
    peak_memory_bytes: int = Field(description="Resident memory of the child on a CPU, memory of the device on a GPU.")
    basis: str = Field(description="Where the speed behind the estimate comes from.")


def cost_of(network: NetworkSpec, info: DatasetInfo) -> Cost:
    """Multiply-accumulates and activations of one image."""
    if not isinstance(network, ConvNetSpec):
        macs = _MACS_AT_32[network.kind] * info.height * info.width / 1024
        width = getattr(network, "width", None)
        if network.kind == "resnet18_dc" and width is not None:
            macs *= (width / 64) ** 2
        return Cost(macs, macs / 300)
    pixels = float((info.height + 4) * (info.width + 4) if min(info.height, info.width) == 28 else info.height * info.width)
    channels, macs, activations = info.channels, 0.0, 0.0
    for _ in range(network.depth):
        macs += pixels * network.width * channels * 9
        activations += pixels * network.width
        channels = network.width
        pixels = pixels if network.pooling == "none" else pixels / 4
    return Cost(macs + pixels * channels * info.num_classes, activations)


def estimate(spec: DistillationSpec, info: DatasetInfo) -> Estimate:
    """Estimate a job on the kind of worker that its resources name."""
    kind: Literal["cpu", "gpu"] = "gpu" if spec.resources.gpus else "cpu"
    worker = WORKERS[kind]
    phases = [
        PhaseEstimate(phase="experts", seconds=sum(_pool_seconds(pool, info, worker) for pool in required_pools(spec))),
        PhaseEstimate(phase="distilling", seconds=spec.method.max_iterations * _iteration_seconds(spec, info, worker)),
        PhaseEstimate(phase="evaluating", seconds=_evaluation_seconds(spec, info, worker)),
    ]
    for phase in phases:
        phase.seconds = round(phase.seconds, 1)
    return Estimate(
        worker=kind, seconds=round(sum(phase.seconds for phase in phases), 1), phases=phases,
        peak_memory_bytes=_peak_memory(spec, info, worker), basis=worker.basis,
    )


def _seconds(worker: Worker, macs: float, passes: float) -> float:
    return macs / worker.macs_per_second + passes * worker.seconds_per_pass


def _passes(worker: Worker, images: float) -> float:
    return max(1.0, images / worker.graph_images)


def _num_real(spec: DistillationSpec, info: DatasetInfo) -> int:
    """Real images of an iteration."""
    smallest = min(info.train_per_class_after(spec.dataset.held_out_fraction))
    return min(spec.method.selection.real_batch_per_class, smallest) * info.num_classes


def _iteration_seconds(spec: DistillationSpec, info: DatasetInfo, worker: Worker) -> float:
    method, cost = spec.method, cost_of(spec.method.network, info)
    smallest = min(info.train_per_class_after(spec.dataset.held_out_fraction))
    real = _num_real(spec, info)
    syn = decoded_per_class(method.parameterization, spec.ipc) * info.num_classes
    # a gradient of weights is 3 passes; differentiated again, it was measured to take 3 times as long as one that is not
    per_real, per_syn = (3, 9) if isinstance(method.objective, GradientSpec) else (1, 2)
    passes = per_real * _passes(worker, real) + per_syn * _passes(worker, syn)
    seconds = _seconds(worker, (per_real * real + per_syn * syn) * cost.macs, passes)
    if isinstance(method.selection, RepresentativeSpec):
        candidates = sum(min(n, method.selection.num_candidates or n) for n in info.train_per_class)
        seconds += _seconds(worker, candidates * cost.macs, _passes(worker, candidates)) / method.selection.refresh_every
    for term in method.terms:
        if isinstance(term, ClassCentralizationSpec):
            seconds += _seconds(worker, 2 * syn * cost_of(term.network, info).macs, 2 * _passes(worker, syn))
        if isinstance(term, HistoricalPrototypesSpec):
            seconds += _seconds(worker, syn * cost.macs, _passes(worker, syn))
    models = method.models
    images, batch_size = _trained_per_iteration(spec, info)
    seconds += _seconds(worker, 3 * images * cost.macs, 3 * images / batch_size)
    if isinstance(models, DynamicBilevelSpec):
        epochs = models.max_epochs / 2
        watched = min(models.num_watched, smallest) * info.num_classes
        passes = 3 * _passes(worker, syn) + _passes(worker, watched)
        seconds += epochs * _seconds(worker, (3 * syn + watched) * cost.macs, passes)
    return seconds


def _trained_per_iteration(spec: DistillationSpec, info: DatasetInfo) -> tuple[float, int]:
    """Images on which matching networks are trained for each iteration, and the size of a batch of them."""
    models = spec.method.models
    match models:
        case GrowingQueueSpec():
            return models.num_trained * models.num_steps * models.batch_size, models.batch_size
        case TrainedOnSyntheticSpec():
            syn = decoded_per_class(spec.method.parameterization, spec.ipc) * info.num_classes
            between = (models.steps_per_network - 1) / models.steps_per_network
            return between * models.num_epochs * syn, min(models.batch_size, syn)
        case TrainedOnRealSpec():
            total = sum(info.train_per_class_after(spec.dataset.held_out_fraction))
            before, between = models.training.num_epochs * total, (models.steps_per_network - 1) * models.num_images
            return (before + between) / models.steps_per_network, models.training.batch_size
        case _:
            return 0, 1


def _pool_seconds(pool: PoolSpec, info: DatasetInfo, worker: Worker) -> float:
    images = sum(info.train_per_class) * pool.training.num_epochs * pool.num_networks
    return _seconds(worker, 3 * images * cost_of(pool.network, info).macs, 3 * images / pool.training.batch_size)


def _evaluation_seconds(spec: DistillationSpec, info: DatasetInfo, worker: Worker) -> float:
    evaluation = spec.evaluation
    main, others = evaluation.network, evaluation.cross_networks
    decoded = decoded_per_class(spec.method.parameterization, spec.ipc) * info.num_classes
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
    return _seconds(worker, (3 * evaluation.num_epochs * images + test) * cost.macs, 3 * steps + _passes(worker, test))


def _peak_memory(spec: DistillationSpec, info: DatasetInfo, worker: Worker) -> int:
    cost = cost_of(spec.method.network, info)
    syn = decoded_per_class(spec.method.parameterization, spec.ipc) * info.num_classes
    data = (sum(info.train_per_class) + sum(info.test_per_class)) * info.scalars_per_image
    objective = spec.method.objective
    copies = SECOND_ORDER_COPIES if isinstance(objective, GradientSpec) else GRAPH_COPIES
    graph = 4 * copies * cost.activations * min(syn, worker.graph_images)
    if isinstance(objective, LayerwiseFeatureSpec) and spec.method.max_iterations:
        graph += 4 * cost.activations * _num_real(spec, info)  # the layers of the real images, which the loss looks at together
    networks = [spec.evaluation.network, *spec.evaluation.cross_networks]
    decoded = min(syn, spec.evaluation.batch_size)
    training = max(4 * GRAPH_COPIES * cost_of(network, info).activations * decoded for network in networks)
    images, batch_size = _trained_per_iteration(spec, info)
    in_loop = 4 * GRAPH_COPIES * cost.activations * min(images, batch_size)
    return int(worker.base_bytes + data + 20 * syn * info.scalars_per_image + max(graph, training, in_loop))
