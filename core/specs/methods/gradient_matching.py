"""Recipes of the gradient-matching family: one function for each method over its table of hyper-parameters.

DC's code steps once for all classes, with momentum; IDC's steps class by class, which the joint step without momentum at twice
the rate equals (`SWEEP`). What no paper or code says about a set or an ipc comes from the nearest row.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from core.catalogue import DatasetInfo
from core.specs.augmentation import IDCAugmentationSpec, NoAugmentationSpec, Operation
from core.specs.evaluation import dc_protocol, dm_protocol, idc_protocol
from core.specs.experts import RealTrainingSpec
from core.specs.init import InitSpec, NoiseInitSpec, RandomInitSpec
from core.specs.method import MethodSpec
from core.specs.methods.common import Resolved, field_convnet, nearest, packed, rate_side, representative
from core.specs.methods.common import dsa as siamese
from core.specs.methods.distribution_matching import SWEEP
from core.specs.models import TrainedOnRealSpec, TrainedOnSyntheticSpec
from core.specs.objective import GradientSpec
from core.specs.selection import UniformSpec
from core.specs.synthetic import SGDSpec


class _DCRow(NamedTuple):
    steps: int
    """Matching steps of a network."""

    epochs: int
    """Epochs on the synthetic set between two of them."""


DC: dict[tuple[str, int], _DCRow] = {
    ("cifar10", 1): _DCRow(1, 1),  # the epoch is never reached
    ("cifar10", 10): _DCRow(10, 50),
    ("cifar10", 20): _DCRow(20, 25),
    ("cifar10", 30): _DCRow(30, 20),
    ("cifar10", 40): _DCRow(40, 15),
    ("cifar10", 50): _DCRow(50, 10),
}
"""Of every set: the code chooses by ipc alone, and has no other ipc."""

DCC = DC | {("cifar10", 1): _DCRow(10, 5)}


def dc(info: DatasetInfo, ipc: int) -> Resolved:
    """DC: Zhao et al., "Dataset Condensation with Gradient Matching", ICLR 2021, arXiv:2006.05929, from the published code.

    1000 networks, 256 real images per class, SGD(lr 0.1, with an MLP 0.01; momentum 0.5), from noise, no augmentation; networks
    are trained at lr 0.01 on the synthetic set. Evaluated for 300 epochs without augmentation. Published on CIFAR-10 at ipc 10:
    44.9 +- 0.5 %. Deviation: on MNIST the published evaluation augments (crops, scales and rotates) and takes 1000 epochs.
    """
    network, row = field_convnet(info), nearest(DC, info, ipc)
    method = MethodSpec(
        network=network,
        objective=GradientSpec(),
        models=TrainedOnSyntheticSpec(steps_per_network=row.steps, num_epochs=row.epochs),
        selection=UniformSpec(real_batch_per_class=256),
        augmentation=NoAugmentationSpec(),
        init=NoiseInitSpec(),
        optimizer=SGDSpec(lr_img=0.1, momentum=0.5),
        num_networks=1000,
    )
    return Resolved(method, dc_protocol(info, network))


def dsa(info: DatasetInfo, ipc: int) -> Resolved:
    """DSA: Zhao & Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021, arXiv:2102.08259.

    DC with siamese augmentation in matching, network training and evaluation (1000 epochs), from real images. Published on
    CIFAR-10 at ipc 10: 52.1 +- 0.5 %.
    """
    return _augmented(dc(info, ipc), info, RandomInitSpec())


def dcc(info: DatasetInfo, ipc: int) -> Resolved:
    """DCC: Lee et al., "Dataset Condensation with Contrastive Signals", ICML 2022, arXiv:2202.02916, from the published code.

    DC with the class gradients summed before they are compared, from network 250 or from step 10 of a network on; from real
    images; at ipc 1 ten steps per network. Published on CIFAR-10 at ipc 10: 49.4 %. Deviation: CIFAR-100 has its own
    normalisation here (published: that of CIFAR-10).
    """
    base, row = dc(info, ipc), nearest(DCC, info, ipc)
    method = base.method.model_copy(update={
        "objective": GradientSpec(grouping="summed", summed_from_network=250, summed_from_step=10),
        "models": TrainedOnSyntheticSpec(steps_per_network=row.steps, num_epochs=row.epochs),
        "init": RandomInitSpec(),
    })
    return Resolved(method, base.evaluation)


def dsac(info: DatasetInfo, ipc: int) -> Resolved:
    """DSAC: DCC with siamese augmentation of each class, evaluated as DSA is. Published on CIFAR-10 at ipc 10: 54.5 %."""
    return _augmented(dcc(info, ipc), info, RandomInitSpec())


class _IDCRow(NamedTuple):
    distance: Literal["squared", "absolute"]
    lr_img: float
    """Printed rate, for ipc 10 on the code's base side."""

    num_images: int
    """Real images of network training after each matching step."""


IDC: dict[tuple[str, int], _IDCRow] = {
    ("mnist", 10): _IDCRow("absolute", 1e-4, 500),
    ("fashion-mnist", 10): _IDCRow("absolute", 1e-4, 500),
    ("svhn", 10): _IDCRow("squared", 5e-3, 500),
    ("cifar10", 10): _IDCRow("squared", 5e-3, 2000),
    ("cifar100", 10): _IDCRow("squared", 5e-3, 2000),
    ("tiny-imagenet", 10): _IDCRow("squared", 5e-3, 1000),  # this and the next from DREAM's code
    ("tiny-imagenet", 50): _IDCRow("squared", 1e-6, 1000),
}


def idc(info: DatasetInfo, ipc: int) -> Resolved:
    """IDC: Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022, arXiv:2205.14959.

    As its code runs: 2000 networks of 100 steps, trained on real images with CutMix, gradients of the filters alone, 64 real
    images per class, pixels in [0, 1], packed 2 x 2, printed rate x ipc / 10 x (side / base)^2 with momentum 0.5 (class by
    class). On MNIST without CutMix and cutout. Published on CIFAR-10 at ipc 10: 67.5 %. Deviations: starts from random real
    images (published: the first of each class); each step draws its real images anew (published: in shuffled epochs of each
    class); clamps after every step (published: when a network begins).
    """
    return _idc(info, ipc, training_batch=64)


def _idc(info: DatasetInfo, ipc: int, *, training_batch: int) -> Resolved:
    row, network, mnist = nearest(IDC, info, ipc), field_convnet(info), info.name == "mnist"
    rate = row.lr_img * ipc / 10 * (min(info.height, info.width) / rate_side(info)) ** 2
    strategy: tuple[Operation, ...] = ("color", "crop") if mnist else ("color", "crop", "cutout")
    training = RealTrainingSpec(
        num_epochs=0, batch_size=training_batch, augmentation=IDCAugmentationSpec(strategy=("color", "crop")),
        cutmix_probability=0.0 if mnist else 0.5,
    )
    method = MethodSpec(
        network=network,
        objective=GradientSpec(distance=row.distance, parameters="convolutions"),
        models=TrainedOnRealSpec(steps_per_network=100, num_images=row.num_images, training=training),
        parameterization=packed(info, space="unit", shrink="nearest", max_per_class=128),
        selection=UniformSpec(real_batch_per_class=64),
        augmentation=IDCAugmentationSpec(strategy=strategy),
        init=RandomInitSpec(),
        optimizer=SGDSpec(lr_img=rate * SWEEP, momentum=0.0),
        num_networks=2000,
    )
    return Resolved(method, idc_protocol(info, network))


def dream(info: DatasetInfo, ipc: int) -> Resolved:
    """DREAM: Liu et al., "Efficient Dataset Distillation by Representative Matching", ICCV 2023, arXiv:2302.14416, on IDC.

    128 cluster medoids per class (TinyImageNet: 64), refreshed every 10 steps, also where the set starts from; networks are
    trained on batches of the same size. Published on CIFAR-10 at ipc 10: 69.4 %.
    """
    clusters = 64 if info.name == "tiny-imagenet" else 128
    return representative(_idc(info, ipc, training_batch=clusters), clusters)


def dc_dream(info: DatasetInfo, ipc: int) -> Resolved:
    """DREAM's representative selection on DC. The paper's supplement claims DC's accuracy after a fifth of the iterations."""
    return representative(dc(info, ipc))


def dsa_dream(info: DatasetInfo, ipc: int) -> Resolved:
    """DREAM's representative selection on DSA. The paper's supplement claims DSA's accuracy after a tenth of the iterations."""
    return representative(dsa(info, ipc))


def _augmented(base: Resolved, info: DatasetInfo, init: InitSpec) -> Resolved:
    method = base.method.model_copy(update={"augmentation": siamese(info), "init": init})
    return Resolved(method, dm_protocol(info, method.network))
