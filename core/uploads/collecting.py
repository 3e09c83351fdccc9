"""Deleting the bytes of an upload that has ended: the sweeper does it, and the API at once when one is cancelled."""

from __future__ import annotations

from core.jobs.database import Database
from core.store.keys import upload_prefix
from core.store.objects import Objects
from core.uploads import sweeping


def collect(database: Database, store: Objects, upload_id: str) -> None:
    """Bytes first: the rows of the parts are how a repetition finds what an interruption left.

    Raises:
        InfrastructureError: a server is away; what was done so far is done.
    """
    store.delete_below(upload_prefix(upload_id))
    with database.write() as session:
        sweeping.forget_parts(session, upload_id)
