"""Slot `init`: where the synthetic set starts from. With 0 iterations this is the result: a coreset."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from core.specs.base import Spec
from core.specs.experts import RealTrainingSpec


class RandomInitSpec(Spec):
    """Real images drawn uniformly within each class, without replacement. With 0 iterations: random selection."""

    kind: Literal["random"] = "random"
    version: Literal[1] = 1


class NoiseInitSpec(Spec):
    """Independent N(0, 1) pixels in network space."""

    kind: Literal["noise"] = "noise"
    version: Literal[1] = 1


class _EmbeddedInitSpec(Spec):
    """Selection in the feature space of one network of the matching architecture, trained on the real set."""

    training: RealTrainingSpec = RealTrainingSpec(num_epochs=50)
    """How the embedding network is trained; 0 epochs embed with a network as it is drawn."""

    pool_seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of the embedding network; jobs with equal ones share it."""


class HerdingInitSpec(_EmbeddedInitSpec):
    """Greedy choice that keeps the mean feature of the chosen images on the mean of their class (Welling 2009)."""

    kind: Literal["herding"] = "herding"
    version: Literal[1] = 1


class KCenterInitSpec(_EmbeddedInitSpec):
    """Greedy choice of the image farthest from all chosen ones, from the one nearest to the class mean on."""

    kind: Literal["k_center"] = "k_center"
    version: Literal[1] = 1


class ForgettingInitSpec(_EmbeddedInitSpec):
    """Images that training on the real set forgets most often; the never learned count as such (arXiv:1812.05159)."""

    kind: Literal["forgetting"] = "forgetting"
    version: Literal[1] = 1


class KMeansInitSpec(_EmbeddedInitSpec):
    """DREAM: the image nearest to each centre of a class's feature clusters; by default under an untrained network."""

    kind: Literal["k_means"] = "k_means"
    version: Literal[1] = 1
    training: RealTrainingSpec = RealTrainingSpec(num_epochs=0)


class CorrectlyClassifiedInitSpec(Spec):
    """DATM: real images that trained networks of slot `models` label rightly, in a random order of each class."""

    kind: Literal["correctly_classified"] = "correctly_classified"
    version: Literal[1] = 1


InitSpec = Annotated[
    RandomInitSpec
    | NoiseInitSpec
    | HerdingInitSpec
    | KCenterInitSpec
    | ForgettingInitSpec
    | KMeansInitSpec
    | CorrectlyClassifiedInitSpec,
    Field(discriminator="kind"),
]
EmbeddedInitSpec = HerdingInitSpec | KCenterInitSpec | ForgettingInitSpec | KMeansInitSpec
