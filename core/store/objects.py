"""The object store behind one small interface: a local folder, S3, GCS or Azure, through obstore.

Keys are built from our own ids only (see `keys.py`), never from a user's text. A put is complete when it returns: the size
is checked by a second request, and on a local folder file and directories are flushed to the disk, because the library
renames without doing so.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store, from_url

from core.errors import ArtifactCorruptError, StoreUnavailableError
from core.settings import Settings
from core.shared_files import flush

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

CHUNK_BYTES = 8 << 20
"""One range request; a single long body would hit the client library's total time-out."""
LOCAL_PIECE_BYTES, REMOTE_PIECE_BYTES = 1 << 20, 5 << 20
"""What a stream is cut into on its way to the store, one piece at a time; S3 takes no smaller ones."""

PAGE_ENTRIES = 500


class Entry(NamedTuple):
    """An object in a listing; the time is the store's clock."""

    key: str
    modified: datetime


class Objects:
    """Bytes by key."""

    def __init__(self, store: ObjectStore, local_root: Path | None = None) -> None:
        self._store = store
        self._local_root = local_root

    def put(self, key: str, path: Path) -> None:
        """Store a file durably under a key; repeating replaces it.

        Raises:
            StoreUnavailableError: the store cannot be reached or did not keep all bytes.
        """
        with _translated(key):
            obstore.put(self._store, key, path)
            stored = obstore.head(self._store, key)["size"]
            if self._local_root is not None:
                _flush(self._local_root, key)
        if stored != path.stat().st_size:
            raise StoreUnavailableError(f"the store kept {stored} of {path.stat().st_size} bytes of {key}")

    async def put_stream(self, key: str, pieces: AsyncIterator[bytes], size_bytes: int) -> None:
        """Store what an iterator gives, as durably as `put`, without ever holding much of it.

        What the iterator raises ends the operation, passes through, and leaves no object. Cancelling leaves none either.

        Raises:
            StoreUnavailableError: the store cannot be reached or did not keep all bytes.
        """
        chunk = REMOTE_PIECE_BYTES if self._local_root is None else LOCAL_PIECE_BYTES
        try:
            with _translated(key):
                await obstore.put_async(self._store, key, pieces, chunk_size=chunk, max_concurrency=1)
                stored = (await obstore.head_async(self._store, key))["size"]
                if self._local_root is not None:
                    await asyncio.to_thread(_flush, self._local_root, key)
        except ArtifactCorruptError as error:
            raise StoreUnavailableError(f"{key} was deleted while it was stored") from error
        if stored != size_bytes:
            raise StoreUnavailableError(f"the store kept {stored} of {size_bytes} bytes of {key}")

    def fetch(self, key: str, path: Path, *, size_bytes: int, sha256: str) -> None:
        """Write an object to a file that appears complete and verified, or not at all.

        Raises:
            ArtifactCorruptError: the object is missing or its bytes differ from what the row says.
            StoreUnavailableError: the store cannot be reached.
        """
        temporary = path.with_name(f".{path.name}.{uuid4().hex}")
        hasher = hashlib.sha256()
        try:
            with temporary.open("wb") as target:
                for chunk in self.chunks(key, 0, size_bytes):
                    hasher.update(chunk)
                    target.write(chunk)
            if hasher.hexdigest() != sha256:
                raise ArtifactCorruptError(f"{key} has other bytes than its row says")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def size(self, key: str) -> int | None:
        """Size in bytes, or None when there is no such object.

        Raises:
            StoreUnavailableError: the store cannot be reached.
        """
        try:
            with _translated(key):
                return int(obstore.head(self._store, key)["size"])
        except ArtifactCorruptError:
            return None

    def chunks(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """Bytes `start` (included) to `stop` (excluded), in pieces of at most `CHUNK_BYTES`.

        Raises:
            ArtifactCorruptError: the object is missing or shorter than asked for.
            StoreUnavailableError: the store cannot be reached.
        """
        for at in range(start, stop, CHUNK_BYTES):
            length = min(CHUNK_BYTES, stop - at)
            with _translated(key):
                piece = bytes(obstore.get_range(self._store, key, start=at, length=length))
            if len(piece) != length:
                raise ArtifactCorruptError(f"{key} is shorter than its row says")
            yield piece

    def delete(self, *keys: str) -> None:
        """Delete objects; a missing one is no error.

        Raises:
            StoreUnavailableError: the store cannot be reached.
        """
        for key in keys:
            try:
                with _translated(key):
                    obstore.delete(self._store, key)
            except ArtifactCorruptError:
                continue

    def delete_below(self, prefix: str) -> None:
        """Delete every object below a prefix; of a local folder also what writes that were cut off left there, and itself.

        Raises:
            StoreUnavailableError: the store cannot be reached.
        """
        self.delete(*self.keys(prefix))
        if self._local_root is not None:
            remove_tree(self._local_root / prefix)

    def keys(self, prefix: str) -> list[str]:
        """Every key below a prefix, sorted.

        Raises:
            StoreUnavailableError: the store cannot be reached.
        """
        return sorted(entry.key for page in self.pages(prefix) for entry in page)

    def pages(self, prefix: str) -> Iterator[list[Entry]]:
        """Everything below a prefix, in pages of at most `PAGE_ENTRIES`, as the store lists it.

        Raises:
            StoreUnavailableError: the store cannot be reached.
        """
        with _translated(prefix):
            for page in obstore.list(self._store, prefix, chunk_size=PAGE_ENTRIES):
                yield [Entry(str(entry["path"]), entry["last_modified"]) for entry in page]


def open_store(settings: Settings) -> Objects:
    """The store that `DISTILL_STORE_URL` names.

    Raises:
        ValueError: the URL has a scheme that no store serves.
    """
    parts = urlsplit(settings.store)
    if parts.scheme == "file":
        root = Path(unquote(parts.path)).resolve()
        return Objects(LocalStore(root, mkdir=True), local_root=root)
    # Whoever waits for a store repeats the whole operation, and may stop waiting; the library's own default is three minutes.
    retries: RetryConfig = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}
    options: ClientConfig = {"timeout": timedelta(seconds=120), "connect_timeout": timedelta(seconds=5), "allow_http": True}
    if parts.scheme == "s3":
        given = {
            "endpoint": settings.s3_endpoint, "access_key_id": settings.s3_access_key_id,
            "secret_access_key": settings.s3_secret_access_key, "region": settings.s3_region,
        }
        config = cast("S3Config", {key: value for key, value in given.items() if value})  # the rest comes from AWS's variables
        store = S3Store(
            parts.netloc, prefix=parts.path.strip("/") or None,
            config=config, virtual_hosted_style_request=False, client_options=options, retry_config=retries,
        )
        return Objects(store)
    if parts.scheme in {"gs", "az", "abfs", "abfss"}:
        return Objects(from_url(settings.store, config=None))
    raise ValueError(f"DISTILL_STORE_URL has the scheme {parts.scheme!r}; known: file, s3, gs, az, abfs, abfss")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


@contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactCorruptError(f"{key} is not in the store") from error
    except (BaseError, OSError) as error:
        raise StoreUnavailableError(f"the object store failed on {key}") from error


def _flush(root: Path, key: str) -> None:
    """Flush a file and every folder between it and the root to the disk."""
    path = root / key
    for entry in (path, *path.parents):
        flush(entry)
        if entry == root:
            return


def remove_tree(folder: Path) -> None:
    """Remove a local folder with everything in it; a missing one is no error."""
    shutil.rmtree(folder, ignore_errors=True)
