"""Slot `preprocessing`: how images become what networks see. Its implementation is `core/data/preprocessing.py`.

A distilled set is valid with the preprocessing it was made in, and with no other.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from core.specs.base import Spec


class StandardiseSpec(Spec):
    """(x - mean) / std for each channel, with the constants of the catalogue."""

    kind: Literal["standardise"] = "standardise"
    version: Literal[1] = 1


class ZCASpec(Spec):
    """Whitening as MTT and its successors have it: of all pixels of an image together, fitted on the training images."""

    kind: Literal["zca"] = "zca"
    version: Literal[1] = 1
    epsilon: float = Field(default=0.1, gt=0.0, le=1e3)
    """Added to every eigenvalue of the covariance of pixels in [0, 1]."""


PreprocessingSpec = Annotated[StandardiseSpec | ZCASpec, Field(discriminator="kind")]
