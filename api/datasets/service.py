"""Registering data sets, listing them beside the built-in ones, and reading their samples."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from api.datasets.schemas import (
    DatasetCheck,
    DatasetRequest,
    DatasetValidation,
    DatasetView,
    Sample,
    Source,
    builtin_view,
    registered_view,
)
from api.deps import Resources
from core.catalogue import CATALOGUE, DatasetInfo, dataset_info
from core.errors import ArtifactCorruptError, InvalidCursorError, NotFoundError, QuotaExceededError, UnknownDatasetError
from core.jobs.database import Database
from core.jobs.datasets import Datasets, FileDigest, info_of
from core.jobs.ids import is_id, new_id
from core.jobs.models import Artifact, Job
from core.jobs.queue import Ticket
from core.jobs.repository import Jobs
from core.jobs.states import State
from core.settings import Settings
from core.specs.dataset import DatasetSpec
from core.specs.ingest import IngestSpec, SampleView
from core.specs.run_options import PRIORITIES
from core.store.references import allowed_prefixes, reference_of
from core.uploads import quota
from core.uploads.models import UploadState
from core.uploads.repository import Uploads

_SAMPLES: TypeAdapter[list[SampleView]] = TypeAdapter(list[SampleView])
MAX_SAMPLES = 64


class Page(NamedTuple):
    """Registered sets, newest first, then the built-in ones."""

    views: list[DatasetView]
    has_more: bool


def known_info(database: Database, tenant: str, dataset: DatasetSpec) -> DatasetInfo:
    """What is known of the data set that a request names.

    Raises:
        UnknownDatasetError: there is no such data set.
        DatasetNotReadyError: its files are still being read, or were refused.
    """
    if dataset.name:
        return dataset_info(dataset.name)
    with database.read() as session:
        return Datasets(session, tenant).info(dataset)


def validation(settings: Settings, request: DatasetCheck) -> DatasetValidation:
    """What `validate_only` shows. Of the source it looks at what does not depend on the moment: uploads and quotas change.

    Raises:
        StoreUriNotAllowedError: this installation does not read from there.
    """
    if request.source is not None:
        _require_allowed(settings, request.source)
    return DatasetValidation(name=request.name, format=request.format, conversion=request.conversion)


def _require_allowed(settings: Settings, source: Source) -> None:
    if source.store_uri:
        reference_of(source.store_uri, allowed_prefixes(settings))


def register(resources: Resources, tenant: str, request: DatasetRequest) -> tuple[DatasetView, bool]:
    """Create the job that reads the files, or find the one that does; then hand a message to the sender.

    Returns:
        The data set, and whether it was registered before.

    Raises:
        NotFoundError: there is no such upload.
        ConflictError: the upload is not complete.
        StoreUriNotAllowedError: this installation does not read from there.
        QuotaExceededError: the tenant has too much in the store, or too many data sets that are being read.
    """
    settings, source = resources.settings, request.source
    _require_allowed(settings, source)
    with resources.database.write() as session:
        datasets = Datasets(session, tenant)
        file = _uploaded(session, tenant, source.upload_id) if source.upload_id else None
        before = datasets.made_of(file, request.name, request.format, request.conversion) if file else None
        if before is not None:
            if before.state == State.SUCCEEDED and before.spec["upload_id"] != source.upload_id:
                Uploads(session, tenant).release(source.upload_id)  # its file was read already, from another upload
            return registered_view(before), True
        quota.require_room(session, tenant, 0, settings)
        if datasets.num_being_read() >= settings.max_open_uploads:
            raise QuotaExceededError(f"{settings.max_open_uploads} data sets are being read already: wait until one is ready")
        spec = IngestSpec(
            dataset_id=new_id("ds"), title=request.name, format=request.format, conversion=request.conversion,
            timeout_seconds=2 * settings.ingest_limits.max_cpu_seconds, **_files_of(session, tenant, source),
        )
        job, known = datasets.create(spec)
        view, ticket = registered_view(job), _ticket(job)
    if not known:
        resources.sender.send(ticket)
    return view, known


def _uploaded(session: Session, tenant: str, upload_id: str) -> FileDigest | None:
    """The file that was uploaded; None unless all of it came. An upload that was read may have been given up or forgotten."""
    try:
        upload = Uploads(session, tenant).get(upload_id)
    except NotFoundError:
        upload = None
    if upload is not None and upload.state == UploadState.COMPLETE:
        return FileDigest(upload.sha256, upload.size_bytes)
    return Datasets(session, tenant).file_of(upload_id)


def _files_of(session: Session, tenant: str, source: Source) -> dict[str, Any]:
    """What a job is told of its files."""
    if source.store_uri:
        return {"store_uri": source.store_uri, "filename": source.store_uri.rpartition("/")[2]}
    upload = Uploads(session, tenant).completed(source.upload_id)
    return {
        "upload_id": upload.id, "filename": upload.filename, "size_bytes": upload.size_bytes, "sha256": upload.sha256,
    }


def _ticket(job: Job) -> Ticket:
    return Ticket(job.id, job.attempt, job.queue, next(name for name in PRIORITIES if name == job.priority))


def view(database: Database, tenant: str, name: str) -> DatasetView:
    """One data set, by name or id.

    Raises:
        UnknownDatasetError: there is no built-in set of this name.
        NotFoundError: this tenant has no such data set.
    """
    if is_id(name, "ds"):
        with database.read() as session:
            return registered_view(Datasets(session, tenant).get(name))
    try:
        return builtin_view(dataset_info(name))
    except UnknownDatasetError as error:
        raise UnknownDatasetError(error.message) from None  # without the pointer into a body that does not exist


def page(database: Database, tenant: str, *, limit: int, after: str | None, source: str | None) -> Page:
    """One page of all data sets, or of one source.

    Raises:
        InvalidCursorError: the cursor names no data set.
    """
    builtin = list(CATALOGUE) if source != "upload" else []
    views: list[DatasetView] = []
    if after in CATALOGUE:
        builtin = builtin[list(CATALOGUE).index(after) + 1 :]
    elif after is not None and not is_id(after, "ds"):
        raise InvalidCursorError(f"no page starts at {after!r}")
    elif source != "builtin":
        with database.read() as session:
            found = Datasets(session, tenant).page(limit=limit, after=after)
            views = [registered_view(job) for job in found.jobs]
        if found.has_more:
            return Page(views, True)
    room = limit - len(views)
    return Page(views + [builtin_view(CATALOGUE[name]) for name in builtin[:room]], len(builtin) > room)


def file_of(database: Database, tenant: str, dataset_id: str, kind: str) -> Artifact:
    """A file that the ingest job has made beside the canonical form.

    Raises:
        NotFoundError: this tenant has no such data set.
        DatasetNotReadyError: its files are still being read, or were refused.
    """
    if not is_id(dataset_id, "ds"):
        raise NotFoundError("only registered data sets can be looked at: the service does not hold the built-in ones")
    with database.read() as session:
        job = Datasets(session, tenant).get(dataset_id)
        info_of(job)
        return Jobs(session, tenant).artifacts(job.id, kind)[0]


def samples(
    resources: Resources, tenant: str, dataset_id: str, *, split: str | None, class_name: str | None, count: int
) -> list[Sample]:
    """Samples of a registered set, in the order of its classes.

    Raises:
        NotFoundError: this tenant has no such data set, or that has no such class.
        DatasetNotReadyError: its files are still being read, or were refused.
        ArtifactCorruptError: the store lost them.
    """
    row = file_of(resources.database, tenant, dataset_id, "samples")
    with resources.database.read() as session:
        classes = info_of(Datasets(session, tenant).get(dataset_id)).classes
    if class_name is not None and class_name not in classes:
        raise NotFoundError(f"the data set has no class {class_name[:64]!r}")
    body = b"".join(resources.objects.chunks(row.key, 0, row.size_bytes))
    try:
        found = _SAMPLES.validate_json(body)
    except ValueError as error:
        raise ArtifactCorruptError(f"{row.key} cannot be read") from error
    chosen = [
        Sample(**each.model_dump(), class_name=classes[each.label]) for each in found
        if split in (None, each.split) and class_name in (None, classes[each.label])
    ]
    return _spread(chosen, count)


def _spread(samples: list[Sample], count: int) -> list[Sample]:
    """At most `count` of them, the first of every class before the second of any, in their order."""
    place: dict[int, int] = {}
    ranked = []
    for position, sample in enumerate(samples):
        place[sample.label] = place.get(sample.label, -1) + 1
        ranked.append((place[sample.label], position))
    kept = sorted(position for _, position in sorted(ranked)[:count])
    return [samples[position] for position in kept]
