"""Slot `dataset`: which real set a job distils, and how much of its training part is held out."""

from __future__ import annotations

from pydantic import Field

from core.specs.base import Spec


class NamedDatasetSpec(Spec):
    """A built-in set, by its name in the catalogue."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Name of a built-in set, for example `fashion-mnist`; `GET /v1/datasets` lists them."""

    held_out_fraction: float = Field(default=0.0, ge=0.0, le=0.5)
    """Fraction of every class of the training set that is kept away from distillation, for choosing and watching."""


DatasetSpec = NamedDatasetSpec
