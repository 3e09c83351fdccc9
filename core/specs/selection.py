"""Slot `selection`: which real images an iteration sees."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from core.specs.base import Spec


class UniformSpec(Spec):
    """Images of each class drawn uniformly, without replacement inside a batch, anew at each iteration."""

    kind: Literal["uniform"] = "uniform"
    version: Literal[1] = 1
    real_batch_per_class: int = Field(default=256, ge=1, le=100_000)
    """Real images per class and iteration; clipped to the smallest class, with a warning event."""


class RepresentativeSpec(Spec):
    """DREAM: the images nearest to the centres of feature clusters of each class, kept for some iterations (ICCV 2023)."""

    kind: Literal["representative"] = "representative"
    version: Literal[1] = 1
    real_batch_per_class: int = Field(default=128, ge=1, le=100_000)
    """Clusters, and real images, per class; clipped to the smallest class, with a warning event."""

    refresh_every: int = Field(default=10, ge=1, le=1_000_000)
    """Iterations that see the same images; then the features of the current network are clustered anew."""

    num_candidates: int = Field(default=0, ge=0, le=1_000_000)
    """Images of each class, drawn at each refresh, among which clusters are sought, at least one for each; 0 takes all."""

    weighting: Literal["equal", "cluster_size"] = "equal"
    """`equal` treats all chosen images alike, as published; `cluster_size` lets each stand for its cluster's share."""


SelectionSpec = Annotated[UniformSpec | RepresentativeSpec, Field(discriminator="kind")]
