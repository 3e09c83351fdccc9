"""Recipes and JSON Schemas, as a client sees them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from api.jobs.schemas import Budget
from core.specs.job import DistillationSpec
from core.specs.published import PublishedRow, published
from core.specs.recipes import Recipe


class Published(BaseModel):
    """A published accuracy, as a fraction; `std` and `n` are 0 where the paper gives none."""

    dataset: str
    ipc: int
    mean: float
    std: float
    n: int
    paper: str
    table: str
    protocol: str
    network: str = Field(description="What was trained on the set: `convnet-3`, or the kind of a network specification.")
    variant: str = Field(description="What the paper left out of the method for this row; empty for the method itself.")
    note: str = Field(description="What to know before comparing with it.")


class MethodLinks(BaseModel):
    self: str


class MethodView(BaseModel):
    """A published method by its usual abbreviation."""

    object: Literal["method"] = "method"
    name: str
    title: str
    paper: str
    links: MethodLinks


class MethodDetail(MethodView):
    """A method with its specification for one data set and ipc, and what its paper reports."""

    spec: DistillationSpec = Field(description="What a job that names only recipe, data set and ipc resolves to.")
    budget: Budget
    published: list[Published]


class SchemaLink(BaseModel):
    object: Literal["schema"] = "schema"
    name: str
    links: MethodLinks


def method_view(recipe: Recipe) -> MethodView:
    """Show an entry of the table of recipes."""
    return MethodView(
        name=recipe.name, title=recipe.title, paper=recipe.paper, links=MethodLinks(self=f"/v1/methods/{recipe.name}")
    )


def published_rows(recipe: str) -> list[Published]:
    """Published rows of one recipe."""
    return [_published(row) for row in published() if row.recipe == recipe]


def _published(row: PublishedRow) -> Published:
    values = row._asdict()
    del values["recipe"]
    return Published(**values)
