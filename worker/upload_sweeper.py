"""The sweeper's part for uploads: ends those that nobody needs, and collects their bytes and rows.

Safe at any moment, twice, and side by side with itself. An upload ends in a transaction that locks its row, so that nothing can
be registered on bytes that are about to go; then its bytes go, then the rows of its parts. Objects that no row names are read
and compared as in `worker.sweeper`, and those of uploads that have no row at all are never touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import structlog

from core.errors import StoreUnavailableError
from core.jobs.database import Database, now
from core.settings import Settings
from core.store.keys import UPLOADS, upload_of, upload_prefix
from core.store.objects import Entry, Objects
from core.uploads import sweeping
from core.uploads.collecting import collect

log = structlog.get_logger(__name__)


class Swept(NamedTuple):
    """How many there were of each."""

    ended: int
    collected: int
    orphans: int
    forgotten: int
    strange: int


class UploadSweeper:
    """One sweep at a time."""

    def __init__(self, database: Database, store: Objects, settings: Settings) -> None:
        self._database = database
        self._store = store
        self._settings = settings

    def sweep(self) -> Swept:
        """Collect everything that is due.

        Raises:
            InfrastructureError: a server is away; what was done so far is done.
        """
        with self._database.write() as session:
            ended = sweeping.expire(session)
        with self._database.write() as session:
            ended += sweeping.end_unneeded(session)
        collected = self._collect_ended()
        orphans, strange = self._collect_orphans()
        return Swept(ended, collected, orphans, self._forget(), strange)

    def _collect_ended(self) -> int:
        with self._database.read() as session:
            upload_ids = sweeping.uncollected(session)
        collected = 0
        for upload_id in upload_ids:
            try:
                collect(self._database, self._store, upload_id)
            except StoreUnavailableError as error:  # perhaps only this one's: the others are not to wait for it
                log.warning("upload_not_collected", upload_id=upload_id, error=error.message)
                continue
            collected += 1
        return collected

    def _collect_orphans(self) -> tuple[int, int]:
        """Delete old objects that no row names; how many, and how many belong to no upload that is known."""
        collected = strange = 0
        for page in self._store.pages(UPLOADS):
            orphans, unknown = self._orphans(page)
            self._store.delete(*orphans)
            collected, strange = collected + len(orphans), strange + unknown
        return collected, strange

    def _orphans(self, page: Sequence[Entry]) -> tuple[list[str], int]:
        written = {entry.key: upload_id for entry in page if (upload_id := upload_of(entry.key)) is not None}
        with self._database.read() as session:
            oldest = now(session) - timedelta(seconds=self._settings.orphan_seconds)
            known = sweeping.known(session, set(written.values()))
            named = sweeping.named(session, known, written.keys())
        orphans = [
            entry.key for entry in page
            if written.get(entry.key) in known and entry.modified <= oldest and entry.key not in named
        ]
        return orphans, sum(upload_id not in known for upload_id in written.values())

    def _forget(self) -> int:
        """Uploads that ended long ago go, with what a write that was cut off may have left of them."""
        with self._database.read() as session:
            upload_ids = sweeping.forgettable(session, self._settings.idempotency_seconds)
        for upload_id in upload_ids:
            self._store.delete_below(upload_prefix(upload_id))
        with self._database.write() as session:
            sweeping.forget(session, upload_ids)
        return len(upload_ids)
