"""What an attempt takes from database and store for its child: rows patiently, bytes only while somebody wants them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from core.catalogue import DatasetInfo, dataset_info
from core.jobs import dependencies
from core.jobs.database import Database
from core.jobs.datasets import Datasets
from core.jobs.leases import Claim
from core.jobs.models import Artifact, Checkpoint
from core.settings import Settings
from core.specs.dataset import DatasetSpec
from core.specs.ingest import IngestSpec
from core.specs.job import NeededSpec
from core.specs.report import EvaluatedUnits
from core.store import references
from core.store.objects import Objects
from core.uploads.models import UploadPart
from core.uploads.repository import parts_of
from worker.dataset_cache import DatasetCache, Held
from worker.inputs import fetch_checkpoint, fetch_dataset, fetch_pools, fetch_upload, unless_unwanted
from worker.settlement import Settlement


class Supply:
    """Finds and fetches for one claim.

    Every method raises what its fetch raises, `InfrastructureError` when patience is over, and `UnwantedError`.
    """

    def __init__(
        self, database: Database, store: Objects, settings: Settings, claim: Claim, folder: Path, settlement: Settlement,
        unwanted: Callable[[], bool],
    ) -> None:
        self._database = database
        self._store = store
        self._settings = settings
        self._claim = claim
        self._folder = folder
        self._patiently = settlement.patiently
        self._unwanted = unwanted

    def experts(self, needed: Mapping[str, NeededSpec]) -> bool:
        """Bring the pools of networks that the job needs here; False when one has to be trained first."""

        def find() -> dict[str, Artifact]:
            with self._database.read() as session:
                return dependencies.finished_pools(session, self._claim.tenant_id, needed)

        pools = self._patiently(find)
        return pools.keys() == needed.keys() and unless_unwanted(
            lambda: fetch_pools(self._database, self._store, pools, self._folder), self._unwanted
        )

    def info(self, dataset: DatasetSpec) -> DatasetInfo:
        """What is known of the data set."""
        if dataset.name:
            return dataset_info(dataset.name)

        def read() -> DatasetInfo:
            with self._database.read() as session:
                return Datasets(session, self._claim.tenant_id).info(dataset)

        return self._patiently(read)

    def dataset(self, dataset: DatasetSpec, held: Held, cache: DatasetCache) -> None:
        """Bring the canonical form of a registered set here."""

        def find() -> Sequence[Artifact]:
            with self._database.read() as session:
                return Datasets(session, self._claim.tenant_id).canonical(dataset.id)

        def fetch() -> None:
            cache.make_room(sum(file.size_bytes for file in files))
            fetch_dataset(self._store, files, held.folder)

        files = self._patiently(find)
        unless_unwanted(held.during(fetch), self._unwanted)

    def upload(self, spec: IngestSpec, target: Path) -> None:
        """Bring the files here that a data set is made of."""
        if spec.store_uri:
            unless_unwanted(
                lambda: references.fetch(spec.store_uri, self._settings, target, self._unwanted), self._unwanted
            )
            return

        def find() -> Sequence[UploadPart]:
            with self._database.read() as session:
                return parts_of(session, self._claim.tenant_id, spec.upload_id)

        parts = self._patiently(find)
        unless_unwanted(lambda: fetch_upload(self._store, spec, parts, target), self._unwanted)

    def progress(self, *, of_parent: bool) -> tuple[str, tuple[EvaluatedUnits, ...]]:
        """The file of the checkpoint to go on from, empty when there is none, and what other jobs have evaluated meanwhile.

        Args:
            of_parent: whether the checkpoint of the job for which this one works is as good as one of its own.
        """
        job_id = self._claim.lease.job_id

        def find() -> tuple[list[Checkpoint], list[EvaluatedUnits]]:
            found = [self._claim.checkpoint]
            with self._database.read() as session:
                if of_parent:
                    found.append(dependencies.checkpoint_of_parent(session, job_id))
                return [each for each in found if each is not None], dependencies.evaluated(session, job_id)

        checkpoints, evaluated = self._patiently(find)
        file = unless_unwanted(lambda: fetch_checkpoint(self._store, checkpoints, self._folder), self._unwanted)
        return file, tuple(evaluated)
