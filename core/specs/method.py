"""A method: one choice for each slot of the composition."""

from __future__ import annotations

from pydantic import Field, model_validator

from core.specs.augmentation import AugmentationSpec
from core.specs.base import Spec
from core.specs.init import InitSpec
from core.specs.models import CountedNetworksSpec, ModelsSpec
from core.specs.network import NetworkSpec
from core.specs.objective import ObjectiveSpec
from core.specs.preprocessing import PreprocessingSpec, StandardiseSpec
from core.specs.selection import SelectionSpec
from core.specs.synthetic import HardLabelsSpec, LabelsSpec, OptimizerSpec, ParameterizationSpec, PixelsSpec
from core.specs.terms import TermSpecs


class MethodSpec(Spec):
    """Objective x models x parameterization x selection x terms x labels, with augmentation, init and optimizer."""

    network: NetworkSpec
    """Architecture of the matching networks."""

    preprocessing: PreprocessingSpec = StandardiseSpec()
    """How images become what networks see: in distillation, in the training of pools, and in the evaluation."""

    objective: ObjectiveSpec
    models: ModelsSpec
    parameterization: ParameterizationSpec = PixelsSpec()
    selection: SelectionSpec
    terms: TermSpecs = ()
    labels: LabelsSpec = HardLabelsSpec()
    augmentation: AugmentationSpec
    init: InitSpec
    optimizer: OptimizerSpec
    num_iterations: int | None = Field(default=None, ge=0, le=1_000_000)
    """Updates of the synthetic set; 0 keeps what `init` chose, which is a coreset. Either this or `num_networks` is set."""

    num_networks: int | None = Field(default=None, ge=1, le=1_000_000)
    """Matching networks after which a method ends that counts them (`dynamic_bilevel`, `trained_on_synthetic`,
    `trained_on_real`), however many updates each serves."""

    @model_validator(mode="after")
    def _one_length(self) -> MethodSpec:
        if (self.num_iterations is None) == (self.num_networks is None):
            raise ValueError("exactly one of num_iterations and num_networks must be set")
        if self.num_networks is not None and not isinstance(self.models, CountedNetworksSpec):
            raise ValueError(
                "num_networks counts networks that serve one after another, as those of models 'dynamic_bilevel', "
                f"'trained_on_synthetic' and 'trained_on_real' do; models is {self.models.kind!r}"
            )
        return self

    @property
    def max_iterations(self) -> int:
        """Updates of the synthetic set, at most."""
        if self.num_iterations is not None:
            return self.num_iterations
        assert self.num_networks is not None
        assert isinstance(self.models, CountedNetworksSpec)
        return self.num_networks * self.models.most_steps_per_network
