"""From pixels in [0, 1] to network space and back: by constants of each channel, or by whitening all pixels together.

ZCA as the published code of MTT has it (Cazenavette et al., CVPR 2022, arXiv:2203.11932): with mu and S the mean and the
covariance (over N - 1) of the training images in [0, 1], flattened, and S = U diag(s) U^T,

    z = (x - mu) W,   W = U diag(1 / sqrt(s + epsilon)) U^T,   x = z W^-1 + mu,   W^-1 = U diag(sqrt(s + epsilon)) U^T

Deviation: fitted and decomposed in float64, once for a data set on a host (published: float32, in every run anew).
Shapes: N images, C channels, H W pixels, D = C H W.
"""

from __future__ import annotations

import contextlib
import logging
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, assert_never
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.catalogue import DatasetInfo
from core.shared_files import flush, hold
from core.specs.preprocessing import PreprocessingSpec, StandardiseSpec, ZCASpec

log = logging.getLogger(__name__)

_FITTED = ("mean", "matrix", "unwhiten")
BLOCK_IMAGES = 1024
"""Images that are flattened in float64 at once."""


class Preprocessing(Protocol):
    """Images are (..., C, H, W) float32; gradient flows."""

    grey: Tensor
    """(C, 1, 1): what stands, in network space, for pixels that an image does not have."""

    def of_bytes(self, images: Tensor) -> Tensor:
        """Uint8 -> network space."""
        ...

    def forward(self, images: Tensor) -> Tensor:
        """[0, 1] -> network space."""
        ...

    def inverse(self, images: Tensor) -> Tensor:
        """Network space -> [0, 1], or beyond where no image was."""
        ...


def preprocessing_of(spec: PreprocessingSpec, info: DatasetInfo, images: Tensor, fitted: Path | None = None) -> Preprocessing:
    """The preprocessing of a specification, on the device of the (N, C, H, W) uint8 training images.

    Whatever has to be fitted is read from the file `fitted`, which belongs to just these images, or is left there.
    """
    match spec:
        case StandardiseSpec():
            return Standardisation(info, images.device)
        case ZCASpec():
            return Whitening(images, spec.epsilon) if fitted is None else _kept_whitening(images, spec.epsilon, fitted)
        case _:
            assert_never(spec)


class Standardisation:
    """(x - mean) / std for each channel; mid-grey fills."""

    def __init__(self, info: DatasetInfo, device: torch.device) -> None:
        self._mean, self._std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (info.mean, info.std))
        self._scale, self._shift = 1.0 / (255.0 * self._std), -self._mean / self._std
        self.grey = (0.5 - self._mean) / self._std

    def of_bytes(self, images: Tensor) -> Tensor:
        """Uint8 -> network space."""
        return images.to(torch.float32).mul_(self._scale).add_(self._shift)

    def forward(self, images: Tensor) -> Tensor:
        """(x - mean) / std."""
        return (images - self._mean) / self._std

    def inverse(self, images: Tensor) -> Tensor:
        """X std + mean."""
        return images * self._std + self._mean


class Whitening:
    """ZCA; the mean image, which is 0, fills."""

    mean: Tensor
    """(D,) float32."""

    matrix: Tensor
    """(D, D) float32, W."""

    unwhiten: Tensor
    """(D, D) float32, the inverse of W."""

    def __init__(self, images: Tensor, epsilon: float, fit: Mapping[str, Tensor] | None = None) -> None:
        """Fit on (N, C, H, W) uint8 images, on their device; or take a `fit` to them, as `arrays` gave it."""
        self.grey = torch.zeros(images.shape[1], 1, 1, device=images.device)
        self.mean, self.matrix, self.unwhiten = (
            self._fit(images, epsilon) if fit is None else (fit[name].to(images.device) for name in _FITTED)
        )

    @property
    def arrays(self) -> dict[str, Tensor]:
        """What was fitted, by name."""
        return {name: getattr(self, name) for name in _FITTED}

    @staticmethod
    def _fit(images: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        count, size = len(images), images[0].numel()
        total = torch.zeros(size, dtype=torch.float64, device=images.device)
        for block in images.split(BLOCK_IMAGES):
            total += _flat(block).sum(0)
        mean = total / count
        covariance = torch.zeros(size, size, dtype=torch.float64, device=images.device)
        for block in images.split(BLOCK_IMAGES):
            centred = _flat(block) - mean
            covariance.addmm_(centred.T, centred)
        values, vectors = torch.linalg.eigh(covariance / max(1, count - 1))
        roots = (values.clamp(min=0.0) + epsilon).sqrt()
        matrix, unwhiten = (vectors / roots) @ vectors.T, (vectors * roots) @ vectors.T
        return mean.to(torch.float32), matrix.to(torch.float32), unwhiten.to(torch.float32)

    def of_bytes(self, images: Tensor) -> Tensor:
        """Uint8 -> network space."""
        return self.forward(images.to(torch.float32) / 255.0)

    def forward(self, images: Tensor) -> Tensor:
        """(x - mu) W."""
        return ((images.flatten(-3) - self.mean) @ self.matrix).view(images.shape)

    def inverse(self, images: Tensor) -> Tensor:
        """Z W^-1 + mu."""
        return (images.flatten(-3) @ self.unwhiten + self.mean).view(images.shape)


def _kept_whitening(images: Tensor, epsilon: float, file: Path) -> Whitening:
    """The fit of another job on the same images, or a new one that the next job finds."""
    found = _found_whitening(images, epsilon, file)
    if found is not None:
        return found
    made = Whitening(images, epsilon)
    temporary = file.with_name(f".{file.name}.{uuid4().hex}")
    try:
        save_file({name: array.cpu() for name, array in made.arrays.items()}, temporary)
        flush(temporary)
        temporary.rename(file)  # of two jobs at once either may win: they have fitted the same
        flush(file.parent)
    except (SafetensorError, OSError) as error:  # the fit is in hand
        log.warning("%s is not kept: %s", file.name, error)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return made


def _found_whitening(images: Tensor, epsilon: float, file: Path) -> Whitening | None:
    """The fit in a file, which is marked as used now, and held until the fit is gone: its tensors lie in the mapped file."""
    try:
        descriptor = hold(file)
    except OSError:  # it is not there, or is just being removed
        return None
    try:
        found = Whitening(images, epsilon, load_file(file))
    except (SafetensorError, KeyError, OSError) as error:  # a disk that was full, or lost power
        os.close(descriptor)
        log.warning("%s is damaged and made anew: %s", file.name, error)
        return None
    weakref.finalize(found, os.close, descriptor)
    with contextlib.suppress(OSError):
        os.utime(file)
    return found


def _flat(images: Tensor) -> Tensor:
    return images.flatten(1).to(torch.float64) / 255.0
