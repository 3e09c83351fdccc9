"""How many images, and how many scalars, a parameterization stores, decodes and shows. Torch-free."""

from __future__ import annotations

from typing import NamedTuple, assert_never

from core.catalogue import DatasetInfo
from core.specs.synthetic import BasesHallucinatorsSpec, MultiFormationSpec, ParameterizationSpec, PixelsSpec


class PerClass(NamedTuple):
    """Images of each class."""

    initial: int
    """Real images that the set starts from."""

    decoded: int
    """All that decoding yields."""

    seen: int
    """What an iteration of a class-wise loss sees."""

    variants: int = 1
    """Decoded images that stand for one another: an epoch of training on the set shows one of so many, drawn anew."""

    @property
    def epoch(self) -> int:
        """What an epoch of training on the set shows."""
        return self.decoded // self.variants


def images_per_class(spec: ParameterizationSpec, ipc: int, info: DatasetInfo) -> PerClass:
    """Count what a parameterization does with the budget of `ipc` images per class."""
    match spec:
        case PixelsSpec():
            return PerClass(ipc, ipc, ipc)
        case MultiFormationSpec():
            decoded = ipc * spec.factor ** (2 if spec.axes == "both" else 1)
            return PerClass(decoded, decoded, min(decoded, spec.max_per_class or decoded))
        case BasesHallucinatorsSpec():
            bases, variants = bases_per_class(spec, ipc, info), spec.num_hallucinators
            return PerClass(bases, bases * variants, bases * (spec.hallucinators_per_basis or variants), variants)
        case _:
            assert_never(spec)


def decoded_per_class(spec: ParameterizationSpec, ipc: int, info: DatasetInfo) -> int:
    """Images per class that decoding yields."""
    return images_per_class(spec, ipc, info).decoded


def hallucinator_scalars(spec: BasesHallucinatorsSpec, info: DatasetInfo) -> int:
    """Scalars of one hallucinator: 5568 for images of 3 x 32 x 32, 5514 for bases of one channel there."""
    hidden, channels = hidden_channels(spec, info), basis_channels(spec, info)
    encoder, decoder = hidden * (9 * channels + 1), info.channels * (9 * hidden + 1)
    return encoder + 2 * hidden * (info.height - 2) * (info.width - 2) + decoder


def basis_channels(spec: BasesHallucinatorsSpec, info: DatasetInfo) -> int:
    """Channels of a basis."""
    return 1 if spec.basis_channels == "one" else info.channels


def hidden_channels(spec: BasesHallucinatorsSpec, info: DatasetInfo) -> int:
    """Channels inside a hallucinator."""
    return spec.hidden_channels or info.channels


def bases_per_class(spec: BasesHallucinatorsSpec, ipc: int, info: DatasetInfo) -> int:
    """As asked for; else as many as fit the budget beside the hallucinators, and at least one, which may exceed it.

    With five hallucinators that gives the 1, 9 and 49 of the published table at ipc 1, 10 and 50 of CIFAR-10.
    """
    if spec.num_bases_per_class:
        return spec.num_bases_per_class
    left = info.num_classes * ipc * info.scalars_per_image - spec.num_hallucinators * hallucinator_scalars(spec, info)
    return max(1, left // (info.num_classes * basis_channels(spec, info) * info.height * info.width))


def decoder_entries(spec: ParameterizationSpec, info: DatasetInfo) -> int:
    """Numbers that the decoder's graph keeps for each image, beside the image itself."""
    if not isinstance(spec, BasesHallucinatorsSpec):
        return 0
    basis = basis_channels(spec, info) * info.height * info.width
    return basis + 3 * hidden_channels(spec, info) * (info.height - 2) * (info.width - 2)


def decoder_macs(spec: ParameterizationSpec, info: DatasetInfo) -> int:
    """Multiply-accumulates of decoding one image; 0 where that costs next to nothing."""
    if not isinstance(spec, BasesHallucinatorsSpec):
        return 0
    channels = hidden_channels(spec, info) * (basis_channels(spec, info) + info.channels)
    return 9 * channels * (info.height - 2) * (info.width - 2)
