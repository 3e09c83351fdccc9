"""Resumable uploads: a file goes in parts, several at a time, and an interrupted one continues with the parts that are missing.

The file itself says which upload is its: same SHA-256, same size. Nothing is kept on this side.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from urllib.parse import quote

from tenacity import RetryCallState, sleep_using_event, stop_after_attempt

from api.client.connection import Connection, Json, object_of
from api.client.errors import ClientError

Progress = Callable[[int, int], None]
"""Hears how many bytes are done, of how many."""

_CHUNK_BYTES = 1 << 18
_HASH_BYTES = 8 << 20


def unheard(_done: int, _total: int) -> None:
    """A progress that nobody is interested in."""


def upload(
    connection: Connection, path: Path, *, filename: str, on_hashing: Progress, on_progress: Progress, parallel: int
) -> Json:
    """Send a file and return the complete upload; see `DistillClient.upload`.

    Raises:
        ClientError: refused, not answered, or `file_changed`.
    """
    before = _look(path)
    sha256 = _digest(path, before.st_size, on_hashing)
    body = {"filename": filename or path.name, "size_bytes": before.st_size, "sha256": sha256}
    found = connection.retrying()(_find_or_begin, connection, body)
    url = f"/v1/uploads/{quote(str(found['id']), safe='')}"
    if found["state"] == "complete":
        on_progress(before.st_size, before.st_size)
        return connection.request("GET", url)
    sending = _Sending(connection, path, connection.request("GET", url))
    digests = sending.run(parallel, on_progress)
    after = _look(path)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise _changed(path)
    parts = [{"n": number, "sha256": digest.hex()} for number, digest in sorted(digests.items())]
    return connection.request("POST", f"{url}/complete", body={"parts": parts})


def _look(path: Path) -> os.stat_result:
    try:
        found = path.stat()
    except OSError as error:
        raise ClientError(f"cannot read {path}: {error.strerror}", code="unreadable_file") from None
    if not path.is_file() or not found.st_size:
        raise ClientError(f"{path} is {'empty' if path.is_file() else 'not a file'}", code="unreadable_file")
    return found


def _digest(path: Path, size: int, on_hashing: Progress) -> str:
    hasher, done = hashlib.sha256(), 0
    for chunk in _read(path, 0, size, _HASH_BYTES):
        hasher.update(chunk)
        done += len(chunk)
        on_hashing(done, size)
    return hasher.hexdigest()


def _find_or_begin(connection: Connection, body: Json) -> Json:
    """The newest upload of the same bytes that can be used, a complete one before an open one; else a new one.

    Where the answer to a creation is lost, a repetition of all of this finds what was created.
    """
    listed = list(connection.pages("/v1/uploads", {"state": ["open", "complete"]}, None))
    same = [
        each for each in listed
        if (each["sha256"], each["size_bytes"]) == (body["sha256"], body["size_bytes"]) and not each["ended_at"]
    ]
    if same:
        return next((each for each in same if each["state"] == "complete"), same[0])
    content = json.dumps(body).encode()
    return object_of(connection.once("POST", "/v1/uploads", headers={"Content-Type": "application/json"}, content=content))


class _Sending:
    """The parts of one file on their way."""

    def __init__(self, connection: Connection, path: Path, upload: Json) -> None:
        self._connection = connection
        self._path = path
        self._url = f"/v1/uploads/{quote(str(upload['id']), safe='')}/parts"
        self._size, self._part_bytes = int(upload["size_bytes"]), int(upload["part_bytes"])
        self._numbers = range(1, int(upload["num_parts"]) + 1)
        self._there = {int(part["n"]): str(part["sha256"]) for part in upload["parts"]}
        self._stopped = threading.Event()

    def run(self, parallel: int, on_progress: Progress) -> dict[int, bytes]:
        """Send what is missing; the digest of every part by its number."""
        digests: dict[int, bytes] = {}
        done = 0
        with ThreadPoolExecutor(max(1, parallel), thread_name_prefix="upload") as threads:
            waiting = {threads.submit(self._send, number): number for number in self._numbers}
            try:
                for sent in as_completed(waiting):
                    number = waiting[sent]
                    digests[number] = sent.result()
                    done += self._span(number)[1]
                    on_progress(done, self._size)
            finally:  # after an error or Ctrl-C the other parts stop where they are
                self._stopped.set()
                threads.shutdown(wait=True, cancel_futures=True)
        return digests

    def _span(self, number: int) -> tuple[int, int]:
        """Start and length of a part."""
        start = (number - 1) * self._part_bytes
        return start, min(self._part_bytes, self._size - start)

    def _send(self, number: int) -> bytes:
        start, length = self._span(number)
        hasher = hashlib.sha256()
        for chunk in self._chunks(start, length):
            hasher.update(chunk)
        digest = hasher.digest()
        if self._there.get(number) == digest.hex():
            return digest
        headers = {
            "Content-Type": "application/octet-stream", "Content-Length": str(length),
            "Content-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:",
        }

        def once() -> None:
            self._connection.once("PUT", f"{self._url}/{number}", headers=headers, content=self._chunks(start, length))

        enough = stop_after_attempt(self._connection.max_tries)

        def stop(state: RetryCallState) -> bool:
            return self._stopped.is_set() or bool(enough(state))

        retrying = self._connection.retrying(stop)
        retrying.sleep = sleep_using_event(self._stopped)
        retrying(once)
        return digest

    def _chunks(self, start: int, length: int) -> Iterator[bytes]:
        for chunk in _read(self._path, start, length, _CHUNK_BYTES):
            if self._stopped.is_set():
                raise ClientError("the upload was interrupted; the same call goes on with it", code="interrupted")
            yield chunk


def _read(path: Path, start: int, length: int, piece: int) -> Iterator[bytes]:
    """A part of a file, piece by piece.

    Raises:
        ClientError: the file has become shorter, or cannot be read any more.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            while length:
                chunk = file.read(min(piece, length))
                if not chunk:
                    raise _changed(path)
                length -= len(chunk)
                yield chunk
    except OSError as error:
        raise ClientError(f"cannot read {path}: {error.strerror}", code="unreadable_file") from None


def _changed(path: Path) -> ClientError:
    return ClientError(f"{path} was changed while it was uploaded; upload it again", code="file_changed")
