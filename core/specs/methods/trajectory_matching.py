"""Recipes of the trajectory-matching family: one function for each method over its table of hyper-parameters.

MTT's settings are those that its author gave to DC-Bench; those of DATM are its published configurations. Settings for MNIST,
FashionMNIST, SVHN and other sets were not published: they come from CIFAR-10's nearest row (CIFAR-100's from 50 classes on),
without whitening. A batch larger than the set is the whole set.
"""

from __future__ import annotations

from typing import NamedTuple

from core.catalogue import DatasetInfo
from core.specs.evaluation import mtt_protocol
from core.specs.experts import RealTrainingSpec
from core.specs.init import CorrectlyClassifiedInitSpec, InitSpec, RandomInitSpec
from core.specs.method import MethodSpec
from core.specs.methods.common import Resolved, dsa, field_convnet, nearest
from core.specs.models import ExpertSegmentsSpec
from core.specs.objective import TrajectorySpec
from core.specs.preprocessing import StandardiseSpec, ZCASpec
from core.specs.selection import UniformSpec
from core.specs.synthetic import HardLabelsSpec, LearnedLabelsSpec, SGDSpec

PUBLISHED_SETS = ("cifar10", "cifar100", "tiny-imagenet")
"""Sets with rows of their own; only these are whitened, where their row says so."""

HALVED = 0.5
"""TESLA's published code loses the factor 2 of its gradient with respect to the images; its rates are halved instead."""


class MTTRow(NamedTuple):
    """Settings of MTT for a set at a budget; a `batch_size` of 0 is the whole set."""

    num_steps: int
    span_epochs: int
    max_start_epoch: int
    lr_img: float
    lr_rate: float
    lr_net: float
    batch_size: int = 0
    zca: bool = False


MTT: dict[tuple[str, int], MTTRow] = {
    ("cifar10", 1): MTTRow(50, 2, 2, 1e2, 1e-7, 0.01, zca=True),
    ("cifar10", 10): MTTRow(30, 2, 20, 1e2, 1e-5, 0.001, zca=True),
    ("cifar10", 50): MTTRow(30, 2, 40, 1e3, 1e-5, 0.001),
    ("cifar100", 1): MTTRow(20, 3, 20, 1e3, 1e-5, 0.01, zca=True),
    ("cifar100", 10): MTTRow(20, 2, 20, 1e3, 1e-5, 0.01),
    ("cifar100", 50): MTTRow(80, 2, 40, 1e3, 1e-5, 0.01, 125, zca=True),
    ("tiny-imagenet", 1): MTTRow(10, 2, 10, 1e4, 1e-4, 0.01),
    ("tiny-imagenet", 10): MTTRow(20, 2, 40, 1e4, 1e-4, 0.01, 200),
    ("tiny-imagenet", 50): MTTRow(20, 2, 40, 1e4, 1e-4, 0.01, 300),
}
TESLA: dict[tuple[str, int], MTTRow] = MTT | {
    ("cifar10", 1): MTTRow(50, 2, 5, 1e3, 1e-7, 0.01),
    ("cifar100", 50): MTTRow(80, 2, 40, 1e3, 1e-5, 0.01, 125, zca=True),
}


def mtt(info: DatasetInfo, ipc: int) -> Resolved:
    """MTT: Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022, arXiv:2203.11932.

    5000 iterations on 100 experts of 50 epochs (SGD, lr 0.01, no momentum, no decay, augmented per image), from real images,
    SGD with momentum 0.5 on images and learned rate; whitened on CIFAR-10 at ipc 1 and 10 and CIFAR-100 at ipc 1 and 50.
    Evaluated as DC is, at the learned rate. Published on CIFAR-10 at ipc 10: 65.3 %, the best of all evaluations along the run.
    """
    return matched(info, nearest(MTT, info, ipc), num_iterations=5000)


def tesla(info: DatasetInfo, ipc: int) -> Resolved:
    """TESLA: Cui et al., "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory", ICML 2023, arXiv:2211.10586.

    MTT with a frozen adjoint and 10,000 iterations. Published commands exist for CIFAR-10 at ipc 1 and CIFAR-100 at ipc 50;
    other rows are MTT's. Hard labels, as its commands for these sets have them; `labels: teacher` gives those of its
    ImageNet-1K. Published on CIFAR-10 at ipc 10 (as quoted by PAD): 66.4 %.
    """
    row = nearest(TESLA, info, ipc)
    found = matched(info, row._replace(lr_img=row.lr_img * HALVED), num_iterations=10_000)
    objective = found.method.objective.model_copy(update={"gradient_mode": "frozen_adjoint"})
    return Resolved(found.method.model_copy(update={"objective": objective}), found.evaluation)


class _DATMRow(NamedTuple):
    num_steps: int
    span_epochs: int
    min_start_epoch: int
    initial_max_start_epoch: int
    max_start_epoch: int
    growth_iterations: int
    batch_size: int
    lr_img: float
    lr_rate: float
    lr_label: float
    max_loss: float = 1.0
    init: InitSpec = CorrectlyClassifiedInitSpec()


DATM: dict[tuple[str, int], _DATMRow] = {
    ("cifar10", 1): _DATMRow(80, 2, 0, 4, 4, 0, 10, 100.0, 1e-7, 5.0, max_loss=1.1),
    ("cifar10", 10): _DATMRow(80, 2, 0, 10, 20, 1000, 100, 100.0, 1e-5, 2.0),
    ("cifar10", 50): _DATMRow(80, 2, 0, 20, 40, 2000, 500, 1000.0, 1e-5, 2.0),
    ("cifar10", 500): _DATMRow(40, 2, 40, 60, 60, 0, 1000, 50.0, 1e-5, 10.0),
    ("cifar10", 1000): _DATMRow(100, 2, 40, 60, 60, 0, 1000, 50.0, 1e-5, 10.0),
    ("cifar100", 1): _DATMRow(40, 3, 0, 10, 20, 1000, 1000, 1000.0, 1e-5, 10.0),
    ("cifar100", 10): _DATMRow(80, 2, 0, 30, 50, 2000, 1000, 1000.0, 1e-5, 10.0),
    ("cifar100", 50): _DATMRow(80, 2, 20, 70, 70, 0, 1000, 1000.0, 1e-5, 10.0, init=RandomInitSpec()),
    ("cifar100", 100): _DATMRow(80, 2, 30, 70, 70, 0, 1000, 50.0, 1e-5, 10.0),
    ("tiny-imagenet", 1): _DATMRow(40, 2, 0, 15, 20, 2000, 1000, 1e4, 1e-4, 10.0),
    ("tiny-imagenet", 10): _DATMRow(40, 2, 10, 50, 50, 0, 500, 100.0, 1e-4, 10.0),
    ("tiny-imagenet", 50): _DATMRow(20, 2, 40, 70, 70, 0, 1000, 100.0, 1e-4, 10.0),
}


def datm(info: DatasetInfo, ipc: int) -> Resolved:
    """DATM: Guo et al., "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching", ICLR 2024.

    MTT with a window of start epochs that fits the ipc and grows, learned soft labels, a start from images that experts label
    rightly, and a limit to the loss; 10,000 iterations on 100 experts of 100 epochs, arXiv:2310.05773. Deviations: experts
    descend by plain SGD (published: the sharpness-aware steps of FTD); on CIFAR-100 at ipc 50 labels start from all experts
    (published: from one). Published on CIFAR-10 at ipc 10 (as quoted by PAD): 66.8 %.
    """
    row = nearest(DATM, info, ipc)
    base = MTTRow(
        row.num_steps, row.span_epochs, row.max_start_epoch, row.lr_img, row.lr_rate, 0.01, row.batch_size, zca=True
    )
    found = matched(info, base, num_iterations=10_000)
    method = found.method
    models = _experts(info, base, num_epochs=100).model_copy(update={
        "min_start_epoch": row.min_start_epoch, "initial_max_start_epoch": row.initial_max_start_epoch,
        "growth_iterations": row.growth_iterations,
    })
    update = {
        "models": models,
        "objective": method.objective.model_copy(update={"max_loss": row.max_loss}),
        "labels": LearnedLabelsSpec(),
        "init": row.init,
        "optimizer": SGDSpec(
            lr_img=row.lr_img, momentum=0.5, lr_rate=row.lr_rate, lr_label=row.lr_label, label_momentum=0.9
        ),
    }
    return Resolved(method.model_copy(update=update), found.evaluation.model_copy(update={"batch_size": 128}))


def _experts(info: DatasetInfo, row: MTTRow, *, num_epochs: int) -> ExpertSegmentsSpec:
    return ExpertSegmentsSpec(
        training=RealTrainingSpec(
            num_epochs=num_epochs, batch_size=256, lr_net=0.01, momentum=0.0, weight_decay=0.0, augmentation=dsa(info)
        ),
        span_epochs=row.span_epochs,
        max_start_epoch=row.max_start_epoch,
    )


def matched(info: DatasetInfo, row: MTTRow, *, num_iterations: int) -> Resolved:
    """MTT with the settings of a row; whitened where the row says so and the set has rows of its own."""
    network = field_convnet(info)
    method = MethodSpec(
        network=network,
        preprocessing=ZCASpec() if row.zca and info.name in PUBLISHED_SETS else StandardiseSpec(),
        objective=TrajectorySpec(num_steps=row.num_steps, batch_size=row.batch_size, lr_net=row.lr_net),
        models=_experts(info, row, num_epochs=50),
        selection=UniformSpec(),
        labels=HardLabelsSpec(),
        augmentation=dsa(info),
        init=RandomInitSpec(),
        optimizer=SGDSpec(lr_img=row.lr_img, momentum=0.5, lr_rate=row.lr_rate),
        num_iterations=num_iterations,
    )
    return Resolved(method, mtt_protocol(info, network))
