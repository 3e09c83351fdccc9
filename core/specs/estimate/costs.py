"""What kinds of workers do, what one image costs in a network, and how many images an iteration has."""

from __future__ import annotations

from typing import Literal, NamedTuple

from core.catalogue import DatasetInfo
from core.specs.job import DistillationSpec
from core.specs.models import GrowingQueueSpec, TrainedOnRealSpec, TrainedOnSyntheticSpec
from core.specs.network import ConvNetSpec, NetworkSpec
from core.specs.objective import TrajectorySpec
from core.specs.storage import images_per_class
from core.specs.terms import AdversarialContrastSpec


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

    def seconds(self, macs: float, passes: float) -> float:
        """Time of so many multiply-accumulates in so many passes."""
        return macs / self.macs_per_second + passes * self.seconds_per_pass

    def passes(self, images: float) -> float:
        """Passes in which so many images go through a network."""
        return max(1.0, images / self.graph_images)


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


def num_layers(network: NetworkSpec) -> int:
    """Layers that are contrasted."""
    return network.depth if isinstance(network, ConvNetSpec) else 1


def num_real(spec: DistillationSpec, info: DatasetInfo) -> int:
    """Real images of an iteration of a class-wise loss."""
    smallest = min(info.train_per_class_after(spec.dataset.held_out_fraction))
    return min(spec.method.selection.real_batch_per_class, smallest) * info.num_classes


def paired_images(spec: DistillationSpec, info: DatasetInfo, term: AdversarialContrastSpec) -> int:
    """Images whose pairs the adversary compares."""
    bases = images_per_class(spec.method.parameterization, spec.ipc, info).initial * info.num_classes
    return 2 * min(term.num_bases or bases, bases)


def shown(spec: DistillationSpec, info: DatasetInfo) -> int:
    """Synthetic images of an iteration: those of the objective, and pairs."""
    counts = images_per_class(spec.method.parameterization, spec.ipc, info)
    seen = counts.decoded if isinstance(spec.method.objective, TrajectorySpec) else counts.seen
    pairs = (paired_images(spec, info, term) for term in spec.method.terms if isinstance(term, AdversarialContrastSpec))
    return seen * info.num_classes + sum(pairs)


def step_images(spec: DistillationSpec, info: DatasetInfo, objective: TrajectorySpec) -> int:
    """Synthetic images of one training step of a trajectory."""
    epoch = images_per_class(spec.method.parameterization, spec.ipc, info).epoch * info.num_classes
    return min(objective.batch_size or epoch, epoch)


def trained_per_iteration(spec: DistillationSpec, info: DatasetInfo) -> tuple[float, int]:
    """Images on which matching networks are trained for each iteration, and the size of a batch of them."""
    models = spec.method.models
    match models:
        case GrowingQueueSpec():
            return models.num_trained * models.num_steps * models.batch_size, models.batch_size
        case TrainedOnSyntheticSpec():
            syn = images_per_class(spec.method.parameterization, spec.ipc, info).epoch * info.num_classes
            between = (models.steps_per_network - 1) / models.steps_per_network
            return between * models.num_epochs * syn, min(models.batch_size, syn)
        case TrainedOnRealSpec():
            total = sum(info.train_per_class_after(spec.dataset.held_out_fraction))
            before, between = models.training.num_epochs * total, (models.steps_per_network - 1) * models.num_images
            return (before + between) / models.steps_per_network, models.training.batch_size
        case _:
            return 0, 1
