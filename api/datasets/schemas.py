"""A built-in data set, as a client sees it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from core.catalogue import DatasetInfo


class DatasetLinks(BaseModel):
    self: str


class DatasetView(BaseModel):
    """Facts of a real set."""

    object: Literal["dataset"] = "dataset"
    name: str
    title: str
    channels: int
    height: int = Field(description="Pixels.")
    width: int = Field(description="Pixels.")
    num_classes: int
    classes: tuple[str, ...]
    num_train: int
    num_test: int
    train_per_class: tuple[int, ...]
    test_per_class: tuple[int, ...]
    mean: tuple[float, ...] = Field(description="Per channel, of images scaled to [0, 1].")
    std: tuple[float, ...]
    mirrored: bool = Field(description="Whether a mirrored image still shows its class.")
    split_rule: str
    digest: str | None = Field(description="SHA-256 of the canonical form; null for a set that is not verified.")
    verified: bool = Field(
        description="Whether a worker can tell by the digest that it read the real set; otherwise it checks shapes and counts."
    )
    source: str
    links: DatasetLinks


def dataset_view(info: DatasetInfo) -> DatasetView:
    """Show an entry of the catalogue."""
    return DatasetView(
        **info.model_dump(), verified=info.verified, num_classes=info.num_classes, num_train=sum(info.train_per_class),
        num_test=sum(info.test_per_class), links=DatasetLinks(self=f"/v1/datasets/{info.name}"),
    )
