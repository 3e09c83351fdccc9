"""Slot `dataset`: which real set a job distils, and how much of its training part is held out."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from core.specs.base import Spec


class DatasetSpec(Spec):
    """A built-in set by its name, or one of the user's own by its id."""

    name: str = Field(default="", max_length=64, pattern=r"^([a-z0-9][a-z0-9-]*)?$", exclude_if=lambda name: not name)
    """Name of a built-in set, for example `fashion-mnist`; `GET /v1/datasets` lists them."""

    id: str = Field(default="", pattern=r"^(ds_[0-9a-f]{32})?$", exclude_if=lambda dataset_id: not dataset_id)
    """Id of a set that was made of an upload, as `POST /v1/datasets` gave it."""

    held_out_fraction: float = Field(default=0.0, ge=0.0, le=0.5)
    """Fraction of every class of the training set that is kept away from distillation, for choosing and watching."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if bool(self.name) == bool(self.id):
            raise ValueError("give either the name of a built-in data set or the id of a registered one")
        return self

    @property
    def key(self) -> str:
        """The name or the id: what the data set is called where there is room for one word."""
        return self.name or self.id
