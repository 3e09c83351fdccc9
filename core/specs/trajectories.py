"""Expert trajectories before anything is trained: what goes with what, and how many bytes they take. Torch-free.

The predicates are applied by `legality.py`; each names both fields.
"""

from __future__ import annotations

from itertools import pairwise

from core.catalogue import DatasetInfo
from core.errors import FieldProblem, SpecError
from core.specs.experts import PoolSpec
from core.specs.init import CorrectlyClassifiedInitSpec
from core.specs.job import DistillationSpec
from core.specs.models import ExpertSegmentsSpec
from core.specs.network import (
    AlexNetSpec,
    ConvNetSpec,
    DenseNet121Spec,
    DenseNetIDCSpec,
    LeNetSpec,
    MLPSpec,
    NetworkSpec,
    ResNet10IDCSpec,
    ResNet18DCSpec,
    ResNet18IDCSpec,
    VGG11Spec,
    network_name,
)
from core.specs.objective import TrajectorySpec
from core.specs.requirements import pool_of_models, required_pools
from core.specs.synthetic import HardLabelsSpec

_VGG11 = (64, 128, 256, 256, 512, 512, 512, 512)


def trajectories_have_pieces(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """A trajectory is matched against the end of a piece, which only experts have; no other objective looks at it."""
    objective, models = spec.method.objective, spec.method.models
    if isinstance(objective, TrajectorySpec) == isinstance(models, ExpertSegmentsSpec):
        return None
    if isinstance(objective, TrajectorySpec):
        return FieldProblem(
            "/method/models", "no_trajectories",
            f"objective 'trajectory' needs models 'expert_segments'; models is {models.kind!r}",
        )
    return FieldProblem(
        "/method/models", "trajectories_unused",
        f"models 'expert_segments' serves objective 'trajectory'; objective is {objective.kind!r} (use 'pretrained_pool')",
    )


def pieces_fit_the_experts(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """The last piece of the window ends within the trajectory."""
    models = spec.method.models
    if not isinstance(models, ExpertSegmentsSpec):
        return None
    last = models.max_start_epoch - 1 + models.span_epochs
    if last <= models.training.num_epochs:
        return None
    return FieldProblem(
        "/method/models/max_start_epoch", "trajectory_too_short",
        f"max_start_epoch {models.max_start_epoch} and span_epochs {models.span_epochs} need experts of {last} epochs; "
        f"training.num_epochs is {models.training.num_epochs}",
    )


def weights_are_all_there_is(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """A trajectory holds weights; running statistics would be missing at its ends."""
    method = spec.method
    segments = isinstance(method.models, ExpertSegmentsSpec) or isinstance(method.objective, TrajectorySpec)
    if not segments or not has_batch_norm(method.network):
        return None
    return FieldProblem(
        "/method/network", "running_statistics",
        f"objective {method.objective.kind!r} on models {method.models.kind!r} follows weights alone, and network "
        f"{network_name(method.network)!r} has batch norms with running statistics; use an instance norm",
    )


def experts_are_there_to_ask(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """Soft labels, and the choice of what is labelled rightly, come from the trained networks of slot `models`."""
    method = spec.method
    if not isinstance(method.labels, HardLabelsSpec):
        pointer, name = "/method/labels", f"labels {method.labels.kind!r}"
    elif isinstance(method.init, CorrectlyClassifiedInitSpec):
        pointer, name = "/method/init", f"init {method.init.kind!r}"
    else:
        return None
    pool = pool_of_models(method.models, method.network)
    if pool is None:
        return FieldProblem(
            pointer, "no_experts",
            f"{name} asks trained networks, which models {method.models.kind!r} does not have; use 'expert_segments' or "
            "'pretrained_pool'",
        )
    if not pool.training.num_epochs:
        return FieldProblem(
            "/method/models/training/num_epochs", "nothing_trained",
            f"{name} asks trained networks; models.training.num_epochs is 0",
        )
    return None


def a_rate_is_learned(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """Networks train at the learned rate only where there is one."""
    if not spec.evaluation.use_learned_rate or isinstance(spec.method.objective, TrajectorySpec):
        return None
    return FieldProblem(
        "/evaluation/use_learned_rate", "no_learned_rate",
        f"evaluation.use_learned_rate needs objective 'trajectory', which learns a rate; objective is "
        f"{spec.method.objective.kind!r}",
    )


TRAJECTORY_RULES = (
    trajectories_have_pieces, pieces_fit_the_experts, weights_are_all_there_is, experts_are_there_to_ask, a_rate_is_learned,
)
"""Every predicate of this file."""


def has_batch_norm(network: NetworkSpec) -> bool:
    """Whether an architecture keeps running statistics."""
    return isinstance(network, (DenseNetIDCSpec, DenseNet121Spec)) or getattr(network, "norm", "none") == "batch"


def trajectory_bytes(spec: DistillationSpec, info: DatasetInfo) -> int:
    """Bytes of all expert trajectories that a job needs: experts x (epochs + 1) x weights x 4."""
    return sum(pool_bytes(pool, info) for pool in required_pools(spec))


def pool_bytes(pool: PoolSpec, info: DatasetInfo) -> int:
    """Bytes of the trajectories of one pool; 0 where none are kept."""
    if not pool.keep_snapshots:
        return 0
    return 4 * pool.num_networks * pool.num_snapshots * num_parameters(pool.network, info)


def require_room(spec: DistillationSpec, info: DatasetInfo, limit: int) -> None:
    """Refuse trajectories that are larger than the installation allows.

    Raises:
        SpecError: they are.
    """
    needed = trajectory_bytes(spec, info)
    if needed > limit:
        raise SpecError.at("/method/models", room_message(needed, limit), "trajectories_too_large")


def room_message(needed: int, limit: int) -> str:
    """Why trajectories are refused."""
    return (
        f"the expert trajectories take {needed:,} bytes (num_networks x (training.num_epochs + 1) x weights x 4), and this "
        f"installation allows {limit:,}; lower num_networks or training.num_epochs, or use a narrower network"
    )


def num_parameters(network: NetworkSpec, info: DatasetInfo) -> int:
    """Weights of an architecture without batch norm for the images and classes of a data set.

    Raises:
        ValueError: it keeps running statistics, so that no trajectory of it exists.
    """
    if has_batch_norm(network):
        raise ValueError(f"{network_name(network)} has running statistics")
    channels, sides, classes = info.channels, (info.height, info.width), info.num_classes
    scale = 2 if getattr(network, "norm", "none") == "instance" else 0
    grown = tuple(side + 4 for side in sides) if min(sides) == 28 else sides
    match network:
        case ConvNetSpec():
            halvings = 0 if network.pooling == "none" else network.depth
            body = _convolutions((channels, *[network.width] * network.depth), [3] * network.depth, scale)
            return body + _linear(network.width * _area(grown, halvings), classes)
        case MLPSpec():
            pixels = channels * sides[0] * sides[1]
            return _linear(pixels, network.width) + _linear(network.width, network.width) + _linear(network.width, classes)
        case LeNetSpec():
            first = [side if min(sides) == 28 else side - 4 for side in sides]
            rows, columns = ((side // 2 - 4) // 2 for side in first)
            body = _convolutions((channels, 6, 16), [5, 5], 0)
            return body + _linear(16 * rows * columns, 120) + _linear(120, 84) + _linear(84, classes)
        case AlexNetSpec():
            body = _convolutions((channels, 128, 192, 256, 192, 192), [5, 5, 3, 3, 3], scale)
            return body + _linear(192 * _area(grown, 3), classes)
        case VGG11Spec():
            return _convolutions((channels, *_VGG11), [3] * 8, scale) + _linear(512 * _area(grown, 5), classes)
        case ResNet18DCSpec():
            pooled = network.downsampling == "average_pool"
            ends = [side >> 3 if pooled else -(-side // 8) for side in sides]
            rows, columns = ends if pooled else (end // min(4, end) for end in ends)
            body = _residual(channels, network.width, 2, scale)
            return body + _linear(8 * network.width * rows * columns, classes)
        case ResNet10IDCSpec() | ResNet18IDCSpec():
            stem = 64 if channels == 1 else 32
            blocks = 1 if isinstance(network, ResNet10IDCSpec) else 2
            return _residual(channels, stem, blocks, scale) + _linear(8 * stem, classes)
        case DenseNetIDCSpec() | DenseNet121Spec():
            raise AssertionError("refused above")


def _linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def _convolutions(widths: tuple[int, ...], kernels: list[int], scale: int) -> int:
    """Convolutions with bias, each with a norm of `scale` numbers per channel."""
    pairs = zip(pairwise(widths), kernels, strict=True)
    return sum((before * kernel**2 + 1 + scale) * after for (before, after), kernel in pairs)


def _residual(channels: int, stem: int, blocks: int, scale: int) -> int:
    """Stem and four stages of basic blocks, convolutions without bias."""
    total, before = channels * 9 * stem + scale * stem, stem
    for stage in range(4):
        width = stem << stage
        for _ in range(blocks):
            total += (before + width) * 9 * width + 2 * scale * width
            total += 0 if before == width else before * width + scale * width
            before = width
    return total


def _area(sides: tuple[int, ...], halvings: int) -> int:
    return (sides[0] >> halvings) * (sides[1] >> halvings)
