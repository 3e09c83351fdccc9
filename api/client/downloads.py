"""Resumable downloads: an interrupted one continues where it stopped, and only checked bytes get their final name."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import quote

import httpx
from tenacity import RetryCallState

from api.client.connection import Connection, Json, refusal
from api.client.errors import ClientError

_CHUNK_BYTES = 1 << 18


def download(connection: Connection, artifact: Json, folder: Path) -> Path:
    """Fetch one artifact into a folder and return its path; see `DistillClient.download`.

    Raises:
        ClientError: `digest_mismatch` when the bytes are not the ones that were promised.
    """
    target = folder / _safe_name(str(artifact["name"]))
    sha256, size = str(artifact["sha256"]), int(artifact["size_bytes"])
    if target.is_file() and target.stat().st_size == size and _sha256(target) == sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{target.name}.{sha256[:16]}.part"
    url = f"/v1/artifacts/{quote(str(artifact['id']), safe='')}/content"
    connection.retrying(_StopWhenStuck(partial, connection.max_tries))(_fetch, connection, url, partial, sha256)
    if (found := _sha256(partial)) != sha256:
        partial.unlink()
        raise ClientError(
            f"{target.name}: the bytes received have SHA-256 {found}, but {sha256} was promised; nothing was kept",
            code="digest_mismatch",
        )
    partial.replace(target)
    return target


def _fetch(connection: Connection, url: str, partial: Path, sha256: str) -> None:
    """One connection's worth of a download, appended to `partial`."""
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": f'"sha256-{sha256}"'}
    with connection.translated(), connection.http.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:  # all there already, or a leftover longer than the file
            if _range_total(response) != have:
                partial.unlink(missing_ok=True)
                raise ClientError("the partial file did not fit; starting again", code="unreachable")
            return
        if response.status_code not in {200, 206}:
            response.read()
            raise refusal(response)
        resumed = response.status_code == 206 and _range_start(response) == have
        if response.status_code == 206 and not resumed:
            partial.unlink(missing_ok=True)
            raise ClientError("the service sent another range than asked for", code="unreachable")
        with partial.open("ab" if resumed else "wb") as file:
            for chunk in response.iter_raw(_CHUNK_BYTES):
                file.write(chunk)


class _StopWhenStuck:
    """Ends a download after so many tries in a row that brought no byte."""

    def __init__(self, partial: Path, max_tries: int) -> None:
        self._partial, self._max_tries = partial, max_tries
        self._size, self._tries = -1, 0

    def __call__(self, _state: RetryCallState) -> bool:
        size = self._partial.stat().st_size if self._partial.exists() else 0
        self._tries = self._tries + 1 if size <= self._size else 1
        self._size = size
        return self._tries >= self._max_tries


def _range_start(response: httpx.Response) -> int:
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdigit() else -1


def _range_total(response: httpx.Response) -> int:
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(total) if total.isdigit() else -1


def _safe_name(name: str) -> str:
    """The name itself when it is a plain file name.

    Raises:
        ClientError: it could lead out of the folder or hide itself.
    """
    if not name or name.startswith(".") or any(c in name for c in '/\\:\0') or os.path.basename(name) != name:  # noqa: PTH119
        raise ClientError(f"refused an artifact named {name!r}: not a plain file name", code="unsafe_name")
    return name


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
