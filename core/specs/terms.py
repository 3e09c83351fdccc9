"""Slot `terms`: extra losses, each with a weight, added to any objective. They live in `core/distillation/terms/<kind>.py`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from core.specs.base import Spec
from core.specs.experts import RealTrainingSpec
from core.specs.network import NetworkSpec, ResNet18DCSpec


class ClassCentralizationSpec(Spec):
    """IID: squared spread of a class's synthetic features around their mean, under trained networks (CVPR 2024)."""

    kind: Literal["class_centralization"] = "class_centralization"
    version: Literal[1] = 1
    weight: float = Field(default=0.05, gt=0.0, le=1e6)
    network: NetworkSpec = ResNet18DCSpec()
    """Architecture of the trained networks; its `flat` features are used."""

    num_networks: int = Field(default=10, ge=1, le=1000)
    """Networks trained on the real set; one is drawn at each iteration. The published code trains 1000."""

    training: RealTrainingSpec = RealTrainingSpec(num_epochs=40)
    """How they are trained."""

    pool_seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of the trained networks; jobs with equal pools share them."""


class LocalCovarianceSpec(Spec):
    """IID: squared distance of channel covariances, every position of the last feature map a sample (CVPR 2024)."""

    kind: Literal["local_covariance"] = "local_covariance"
    version: Literal[1] = 1
    weight: float = Field(default=0.01, gt=0.0, le=1e6)


class HistoricalPrototypesSpec(Spec):
    """DSDM: squared distance of a class's synthetic mean from the moving average of its past means (ACM MM 2024)."""

    kind: Literal["historical_prototypes"] = "historical_prototypes"
    version: Literal[1] = 1
    weight: float = Field(default=0.2, gt=0.0, le=1e6)
    decay: float = Field(default=0.99, ge=0.0, lt=1.0)
    """Share of the old average that stays at each iteration."""

    start_iteration: int = Field(default=2001, ge=1, le=1_000_000)
    """First iteration in which the term counts; the average is kept from the beginning."""

    per_feature: bool = True
    """Divide by the number of features, as the published code does; the paper's formula does not."""


class ClassDiscriminativeSpec(Spec):
    """CAFE: real features are classified by their inner products with the synthetic class means (arXiv:2203.01531)."""

    kind: Literal["class_discriminative"] = "class_discriminative"
    version: Literal[1] = 1
    weight: float = Field(default=0.01, gt=0.0, le=1e6)
    """Factor of the cross-entropy, which is summed over all real images of the iteration."""


class ClassificationRegulariserSpec(Spec):
    """IDM: cross-entropy of the synthetic images under the matching network, weighted by its accuracy (CVPR 2023)."""

    kind: Literal["classification_regulariser"] = "classification_regulariser"
    version: Literal[1] = 1
    weight: float = Field(default=50.0, gt=0.0, le=1e6)
    """Factor of accuracy in [0, 1] times the class mean of the cross-entropy; IDM prints 0.5 for per cent, which is 50 here."""


class AdversarialContrastSpec(Spec):
    """HaBa: two hallucinations of one basis shall differ for an adversary that learns to see them alike (NeurIPS 2022)."""

    kind: Literal["adversarial_contrast"] = "adversarial_contrast"
    version: Literal[1] = 1
    weight: float = Field(default=0.1, gt=0.0, le=1e6)
    """Factor of the mean cosine of the two embeddings, scaled to [0, 1]: the set's side."""

    classification_weight: float = Field(default=1.0, ge=0.0, le=1e6)
    """Factor of the cross-entropy in the adversary's own loss."""

    contrast_weight: float = Field(default=0.1, ge=0.0, le=1e6)
    """Factor of the supervised contrastive loss in the adversary's own loss."""

    alignment_weight: float = Field(default=0.1, ge=0.0, le=1e6)
    """Factor of the mean distance (1 - cosine) / 2 in the adversary's own loss."""

    temperature: float = Field(default=0.07, gt=0.0, le=100.0)
    """Of the supervised contrastive loss."""

    num_bases: int = Field(default=0, ge=0, le=1_000_000)
    """Bases, drawn anew from all classes, of which pairs are made; 0 means all."""

    lr_net: float = Field(default=1e-3, gt=0.0, le=100.0)
    """Learning rate of the adversary, which has the architecture of slot `network` and makes one step for each iteration."""

    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)


class MutualInformationSpec(Spec):
    """MIM4DD: tell pairs of synthetic and real images of one class from all other pairs, layer by layer (NeurIPS 2023)."""

    kind: Literal["mutual_information"] = "mutual_information"
    version: Literal[1] = 1
    weight: float = Field(default=0.8, gt=0.0, le=1e6)
    """Factor of the contrastive loss, summed over layers."""

    layer_base: float = Field(default=2.0, ge=0.01, le=100.0)
    """beta: layer k of K counts beta^(k - K + 1), so that above 1 the deepest counts most."""

    temperature: float = Field(default=0.1, gt=0.0, le=100.0)
    """Divides the cosine of two embeddings."""

    embedding_width: int = Field(default=128, ge=1, le=8192)
    """Outputs of the linear head of each layer."""

    lr_head: float = Field(default=1e-3, gt=0.0, le=100.0)
    """Learning rate of the heads, under Adam."""


TermSpec = Annotated[
    ClassCentralizationSpec
    | LocalCovarianceSpec
    | HistoricalPrototypesSpec
    | ClassDiscriminativeSpec
    | ClassificationRegulariserSpec
    | AdversarialContrastSpec
    | MutualInformationSpec,
    Field(discriminator="kind"),
]
TermSpecs = Annotated[tuple[TermSpec, ...], Field(max_length=8)]
"""Extra losses, in order."""
