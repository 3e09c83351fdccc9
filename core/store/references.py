"""Files that lie in an object store already: which of them an installation lets users name, and where each lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from core.errors import InvalidInputError, StoreUnavailableError, StoreUriNotAllowedError
from core.settings import Settings
from core.store.objects import Objects, open_store


class Reference(NamedTuple):
    """An object outside the service's own store."""

    store_url: str
    """Its bucket, or the folder that it lies in."""
    key: str


def allowed_prefixes(settings: Settings) -> list[str]:
    """What `DISTILL_SOURCE_PREFIXES` lists; each ends with a slash, so that `s3://data` does not allow `s3://data-of-others`."""
    found = (prefix.strip() for prefix in settings.source_prefixes.split(","))
    return [prefix.rstrip("/") + "/" for prefix in found if prefix]


def reference_of(uri: str, prefixes: Sequence[str]) -> Reference:
    """Where an allowed URI leads.

    Raises:
        StoreUriNotAllowedError: no prefix allows it, or it says more than scheme, place and a plain path.
    """
    plain = uri.isascii() and uri.isprintable() and not any(mark in uri for mark in "?#%\\[]@")
    parts = urlsplit(uri if plain else "")
    segments = parts.path.split("/")[1:]
    if not (plain and segments and all(segment not in ("", ".", "..") for segment in segments)):
        raise StoreUriNotAllowedError("a store_uri is scheme://bucket/path/file, without a query, escapes or empty segments")
    if not any(uri.startswith(prefix) for prefix in prefixes):
        known = ", ".join(prefixes) or "none (DISTILL_SOURCE_PREFIXES)"
        raise StoreUriNotAllowedError(f"this installation reads data sets below these prefixes only: {known}")
    if parts.scheme == "file":
        path = Path(parts.path)
        return Reference(path.parent.as_uri(), path.name)
    return Reference(f"{parts.scheme}://{parts.netloc}", "/".join(segments))


def fetch(uri: str, settings: Settings, target: Path, unwanted: Callable[[], bool]) -> None:
    """Copy the object that an allowed URI names to a file, or as much of it as is wanted.

    Raises:
        StoreUriNotAllowedError: this worker does not allow it.
        InvalidInputError: there is no such object, this worker may not read it, or it is larger than uploads may be.
        StoreUnavailableError: the store cannot be reached.
    """
    reference = reference_of(uri, allowed_prefixes(settings))
    store = _opened(reference, settings)
    try:
        size = store.size(reference.key)
    except StoreUnavailableError as error:
        if isinstance(error.__cause__, (PermissionDeniedError, UnauthenticatedError)):
            raise InvalidInputError(f"this installation may not read {uri}") from error
        raise
    if not size:
        raise InvalidInputError(f"there is nothing at {uri}")
    if size > settings.max_upload_bytes:
        raise InvalidInputError(f"{uri} has {size} bytes; at most {settings.max_upload_bytes} may be read")
    with target.open("wb") as file:
        for chunk in store.chunks(reference.key, 0, size):
            if unwanted():
                return
            file.write(chunk)


def _opened(reference: Reference, settings: Settings) -> Objects:
    if reference.store_url.startswith("file:"):
        folder = Path(unquote(urlsplit(reference.store_url).path))
        if not folder.is_dir():  # opening a store would make it
            raise InvalidInputError(f"there is nothing below {reference.store_url}")
        if (folder / reference.key).resolve() != folder / reference.key:  # the library follows links out of a store
            raise InvalidInputError(f"{reference.key} is reached by a link")
    return open_store(settings.model_copy(update={"store_url": reference.store_url}))
