"""A method: one choice for each slot of the composition."""

from __future__ import annotations

from pydantic import Field

from core.specs.augmentation import AugmentationSpec
from core.specs.base import Spec
from core.specs.models import ModelsSpec
from core.specs.network import NetworkSpec
from core.specs.objective import ObjectiveSpec, TermSpecs
from core.specs.selection import SelectionSpec
from core.specs.synthetic import HardLabelsSpec, InitSpec, LabelsSpec, OptimizerSpec, ParameterizationSpec, PixelsSpec


class MethodSpec(Spec):
    """Objective x models x parameterization x selection x terms x labels, with augmentation, init and optimizer."""

    network: NetworkSpec
    """Architecture of the matching networks."""

    objective: ObjectiveSpec
    models: ModelsSpec
    parameterization: ParameterizationSpec = PixelsSpec()
    selection: SelectionSpec
    terms: TermSpecs = ()
    labels: LabelsSpec = HardLabelsSpec()
    augmentation: AugmentationSpec
    init: InitSpec
    optimizer: OptimizerSpec
    num_iterations: int = Field(ge=0, le=1_000_000)
    """Updates of the synthetic set; 0 keeps what `init` chose, which is a coreset."""
