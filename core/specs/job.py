"""The request a client sends and the resolved specifications a worker runs, one for each kind of job."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from core.specs.base import Spec, digest
from core.specs.dataset import DatasetSpec
from core.specs.evaluation import EvaluationSpec
from core.specs.experts import PoolSpec
from core.specs.ingest import IngestSpec
from core.specs.method import MethodSpec
from core.specs.preprocessing import PreprocessingSpec
from core.specs.probe import FaultSpec, NoFaultSpec, ProbeWorkSpec
from core.specs.run_options import Priority, RunOptions, TagKey, TagValue

Scale = Literal["paper", "small"]


class DataOptions(RunOptions):
    """What every kind of job says that reads a real set."""

    dataset: DatasetSpec


class JobOptions(DataOptions):
    """The fields that request and resolved specification of a distillation share as they are."""

    kind: Literal["distillation"] = "distillation"
    ipc: int = Field(ge=1, le=10_000)
    """Images per class, counted as stored scalars: the budget is classes x ipc x channels x height x width."""

    scale: Scale = "paper"
    """`small` fits a recipe into at most 3 minutes of distillation on 2 CPU cores; `capped` lists what it changed."""


class JobRequest(JobOptions):
    """`POST /v1/jobs`: a recipe with overrides, or a whole method."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"dataset": {"name": "digits"}, "ipc": 1, "recipe": "dm", "method": {"num_iterations": 300}},
    ]})

    recipe: str = Field(default="", max_length=64)
    """Name of a recipe (`GET /v1/methods`); empty when `method` is the whole composition."""

    method: dict[str, Any] = Field(default_factory=dict)
    """Overrides of the recipe, merged deeply while `kind` is equal or absent; or the whole composition."""

    evaluation: dict[str, Any] = Field(default_factory=dict)
    """Overrides of the evaluation protocol that `protocol` names (by default the recipe's)."""


class RetryRequest(Spec):
    """`POST /v1/jobs/{id}/retry`: what the new job changes. Whatever is absent stays as it was."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"seed": 1, "method": {"num_iterations": 600}}]})

    method: dict[str, Any] = Field(default_factory=dict)
    """Merged over the resolved method, deeply while `kind` is equal or absent."""

    evaluation: dict[str, Any] = Field(default_factory=dict)
    """Merged over the resolved evaluation; over the preset's when it names another `protocol`."""

    resources: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    tags: dict[TagKey, TagValue] | None = Field(default=None, max_length=16)
    """All tags of the new job."""

    priority: Priority | None = None
    timeout_seconds: int | None = Field(default=None, ge=1, le=30 * 86_400)
    max_attempts: int | None = Field(default=None, ge=1, le=10)


class DistillationSpec(JobOptions):
    """A job with every default resolved: what the worker runs and the manifest records."""

    spec_version: Literal[1] = 1
    recipe: str = ""
    defaults_from: str = ""
    """Data set and ipc of the published row that the recipe's numbers come from, as `cifar10 ipc 10`; empty without one."""

    capped: tuple[str, ...] = ()
    """Fields that `scale: small` changed, each as `field: from -> to`."""

    method: MethodSpec
    evaluation: EvaluationSpec

    @property
    def preprocessing(self) -> PreprocessingSpec:
        """How images become what networks see."""
        return self.method.preprocessing

    def science_digest(self) -> str:
        """SHA-256 over what decides the synthetic set's bytes: checkpoints of another digest are refused."""
        part = self.model_dump(mode="json", include={"spec_version", "kind", "dataset", "ipc", "method", "seed"})
        return digest(part | {"deterministic": self.resources.deterministic})


class ExpertsSpec(DataOptions):
    """A pool of networks to be trained on the real set. Clients do not send it: the jobs that need a pool ask for it."""

    kind: Literal["experts"] = "experts"
    spec_version: Literal[1] = 1
    pool: PoolSpec

    @property
    def preprocessing(self) -> PreprocessingSpec:
        """How images become what networks see."""
        return self.pool.preprocessing

    def science_digest(self) -> str:
        """SHA-256 over what decides the networks; `seed` counts for the held-out images alone."""
        part = self.model_dump(mode="json", include={"spec_version", "kind", "dataset", "pool", "seed"})
        return digest(part | {"deterministic": self.resources.deterministic})


class EvaluationJobSpec(DataOptions):
    """Some units of the evaluation of another job, its parent, which made the set. Clients do not send it."""

    kind: Literal["evaluation"] = "evaluation"
    spec_version: Literal[1] = 1
    distillation: DistillationSpec
    """The parent's specification: data, preprocessing, protocol and seed are its."""

    units: tuple[str, ...] = Field(min_length=1)
    """Networks to train and test, as the evaluation names them: `distilled/0`."""

    set_digest: str
    """SHA-256 of the set; another one is refused."""

    @property
    def preprocessing(self) -> PreprocessingSpec:
        """How images become what networks see."""
        return self.distillation.preprocessing


class ProbeRequest(RunOptions):
    """`POST /v1/jobs` with `kind: probe`: a job without data or mathematics that takes every way a real one takes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"kind": "probe", "work": {"steps": 10}}]})

    kind: Literal["probe"]
    work: ProbeWorkSpec = ProbeWorkSpec()
    fault: FaultSpec = NoFaultSpec()
    """How the probe misbehaves; only where the installation allows it (`DISTILL_PROBE_FAULTS=1`)."""


class ProbeSpec(ProbeRequest):
    """A probe as the worker runs it."""

    spec_version: Literal[1] = 1


REQUESTS: dict[str, type[JobRequest] | type[ProbeRequest]] = {"distillation": JobRequest, "probe": ProbeRequest}
"""What a client may send, by its `kind`; without one it is a distillation."""

RequestedSpec = DistillationSpec | ProbeSpec
"""What a request resolves to."""

NeededSpec = ExpertsSpec | EvaluationJobSpec
"""What a job may ask other jobs for."""

JobSpec = Annotated[DistillationSpec | NeededSpec | IngestSpec | ProbeSpec, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)


def parse_job_spec(tree: dict[str, Any]) -> JobSpec:
    """A specification as a row or `job.json` holds it.

    Raises:
        pydantic.ValidationError: it is none that this version understands.
    """
    return _ADAPTER.validate_python(tree, strict=False)
