"""Data sets as a client sees them: the built-in ones, and those that were made of an upload."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from core.catalogue import DatasetInfo
from core.errors import DatasetRejectedError
from core.jobs.datasets import summary_of
from core.jobs.models import Job
from core.jobs.states import State
from core.specs.base import Spec
from core.specs.ingest import ConversionSpec, Format, IngestProblem, IngestSummary, SampleView

DatasetState = Literal["validating", "ready", "rejected", "failed", "cancelled"]
"""`rejected`: the files break a rule; `failed`: they could not be read for another reason, and may be registered again."""


class Source(Spec):
    """Where the files are: one of the two."""

    upload_id: str = Field(default="", max_length=64)
    """A complete upload (`POST /v1/uploads`)."""

    store_uri: str = Field(default="", max_length=1024)
    """An object below one of the prefixes that this installation allows, for example `s3://bucket/shoes.zip`."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if bool(self.upload_id) == bool(self.store_uri):
            raise ValueError("give either upload_id or store_uri")
        return self


class DatasetDescription(Spec):
    """What a data set is to be, wherever its files are."""

    name: str = Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")
    """What you call it; two data sets may have the same name."""

    format: Format
    """What the files hold."""

    conversion: ConversionSpec = ConversionSpec()


class DatasetRequest(DatasetDescription):
    """`POST /v1/datasets`: make a data set of files."""

    source: Source


class DatasetCheck(DatasetDescription):
    """`POST /v1/datasets?validate_only=true`: the same, where the files need not be anywhere yet."""

    source: Source | None = None


class DatasetValidation(BaseModel):
    """Answer to `validate_only`: nothing was kept."""

    object: Literal["dataset_validation"] = "dataset_validation"
    name: str
    format: Format
    conversion: ConversionSpec = Field(description="With every default filled in.")


class DatasetLinks(BaseModel):
    self: str
    job: str | None = Field(default=None, description="The job that reads the files.")
    preview: str | None = Field(default=None, description="A picture of samples of every class.")
    inspect: str | None = Field(default=None, description="Samples of every class, one by one.")


class DatasetFacts(BaseModel):
    """What the images are like. All of it is null until a registered set is ready."""

    channels: int | None = None
    height: int | None = Field(default=None, description="Pixels.")
    width: int | None = Field(default=None, description="Pixels.")
    num_classes: int | None = None
    classes: tuple[str, ...] | None = None
    num_train: int | None = None
    num_test: int | None = None
    train_per_class: tuple[int, ...] | None = None
    test_per_class: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = Field(default=None, description="Per channel, of images scaled to [0, 1].")
    std: tuple[float, ...] | None = None
    mirrored: bool | None = Field(default=None, description="Whether a mirrored image still shows its class.")
    split_rule: str | None = None
    digest: str | None = Field(
        default=None, description="SHA-256 of the canonical form; null for a built-in set that is not verified."
    )
    verified: bool | None = Field(
        default=None,
        description="Whether a worker can tell by the digest that it read the real set; otherwise it checks shapes and counts.",
    )
    source: str | None = None


class DatasetView(DatasetFacts):
    """A data set that jobs can name."""

    object: Literal["dataset"] = "dataset"
    id: str | None = Field(description="What a job says in `dataset.id`; null for a built-in set.")
    name: str | None = Field(description="What a job says in `dataset.name`; null for a registered set.")
    title: str
    state: DatasetState
    created_at: datetime | None = Field(default=None, description="Null for a built-in set.")
    problems: list[IngestProblem] = Field(default=[], description="Why the files were refused, or could not be read.")
    num_corrupt: int | None = Field(default=None, description="Unreadable images that were left out.")
    num_duplicates: int | None = Field(default=None, description="Images that look like an earlier one.")
    num_leaked: int | None = Field(default=None, description="Test images that look like a training image.")
    notes: list[str] = Field(default=[], description="What was done to the images, and what to know of them.")
    links: DatasetLinks


class Sample(SampleView):
    """One image, as the PNG file in base64."""

    class_name: str


class SampleList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Sample]


def _facts(info: DatasetInfo) -> dict[str, Any]:
    return info.model_dump(exclude={"name", "title"}) | {
        "verified": info.verified, "num_classes": info.num_classes, "num_train": sum(info.train_per_class),
        "num_test": sum(info.test_per_class),
    }


def builtin_view(info: DatasetInfo) -> DatasetView:
    """Show an entry of the catalogue."""
    return DatasetView(
        id=None, name=info.name, title=info.title, state="ready", **_facts(info),
        links=DatasetLinks(self=f"/v1/datasets/{info.name}"),
    )


def _state(job: Job, summary: IngestSummary | None) -> DatasetState:
    if summary is not None:
        return "ready"
    if job.state == State.FAILED:
        return "rejected" if (job.error or {}).get("code") == DatasetRejectedError.code else "failed"
    return "cancelled" if job.state == State.CANCELLED else "validating"


def registered_view(job: Job) -> DatasetView:
    """Show what an ingest job makes, or has made."""
    url, summary, error = f"/v1/datasets/{job.dataset}", summary_of(job), job.error or {}
    problems = error.get("detail", {}).get("problems") or ([error] if error else [])
    state = _state(job, summary)
    found = {} if summary is None else _facts(summary.info) | summary.model_dump(include={
        "num_corrupt", "num_duplicates", "num_leaked", "notes",
    })
    return DatasetView(
        id=job.dataset, name=None, title=job.spec["title"], state=state, created_at=job.created_at,
        problems=[IngestProblem.model_validate(each) for each in problems] if state in {"rejected", "failed"} else [], **found,
        links=DatasetLinks(
            self=url, job=f"/v1/jobs/{job.id}", preview=f"{url}/preview" if summary else None,
            inspect=f"{url}/inspect" if summary else None,
        ),
    )
