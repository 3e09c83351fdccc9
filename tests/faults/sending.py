"""Uploads that a test breaks in the middle: requests from threads, bodies that stop, and what must be true at the end."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from core.data.canonical import digest_of
from core.jobs.models import Job
from core.store.keys import upload_prefix
from core.uploads.models import UploadPart
from tests.faults.stand import Stand
from tests.fixtures.uploads import complete, digest_header, part_of, send
from tests.unit.core.ingest.files import folders, zipped
from tests.unit.core.ingest.readers import converted

Json = dict[str, Any]
PIECE_BYTES = 1 << 16


class Call:
    """A request from a thread, so that the test can break it in the middle."""

    def __init__(self, send: Callable[[], httpx.Response]) -> None:
        self.answer: httpx.Response | None = None
        self.error: httpx.TransportError | None = None
        self._send = send
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.answer = self._send()
        except httpx.TransportError as error:
            self.error = error

    @property
    def over(self) -> bool:
        """Whether there is an answer or an error."""
        return not self._thread.is_alive()

    def answered(self) -> httpx.Response:
        """Wait for the answer, which must come."""
        self._thread.join(200)
        assert self.answer is not None, self.error
        return self.answer

    def failed(self) -> None:
        """Wait for the end, which must be no answer."""
        self._thread.join(200)
        assert self.error is not None, self.answer


class Body:
    """The bytes of a part, which stop on the way until the test lets them go on."""

    def __init__(self, content: bytes, stop_at: int) -> None:
        self._content = content
        self._stop_at = stop_at
        self.stopped = threading.Event()
        self.go_on = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        for at in range(0, self._stop_at, PIECE_BYTES):
            yield self._content[at : min(at + PIECE_BYTES, self._stop_at)]
        self.stopped.set()
        self.go_on.wait(200)
        yield self._content[self._stop_at :]


def put(stand: Stand, upload: Json, n: int, part: bytes, *, body: Body | None = None, url: str = "") -> Call:
    """Begin to send a part."""
    headers = digest_header(part) | {"Content-Length": str(len(part))}
    target = f"{url}/v1/uploads/{upload['id']}/parts/{n}"
    return Call(lambda: stand.http.put(target, content=part if body is None else body, headers=headers, timeout=180))


def put_whole(stand: Stand, upload: Json, content: bytes, *, body: Body | None = None) -> Call:
    """Begin to send a whole file in one request."""
    headers, target = {"Content-Length": str(len(content))}, f"/v1/uploads/{upload['id']}/content"
    return Call(lambda: stand.http.put(target, content=content if body is None else body, headers=headers, timeout=180))


def there(stand: Stand, upload: Json) -> set[int]:
    """Numbers of the parts that a client is told of; what it is told fits together."""
    found = stand.http.get(f"/v1/uploads/{upload['id']}").json()
    assert found["received_bytes"] == sum(part["size_bytes"] for part in found["parts"])
    return {int(part["n"]) for part in found["parts"]}


def state(stand: Stand, upload: Json) -> str:
    """What a client is told."""
    return str(stand.http.get(f"/v1/uploads/{upload['id']}").json()["state"])


def rows(stand: Stand, upload: Json) -> dict[int, str]:
    """Keys of the parts by their numbers."""
    query = sa.select(UploadPart.number, UploadPart.key).where(UploadPart.upload_id == upload["id"])
    with stand.database.read() as session:
        return {row.number: row.key for row in session.execute(query)}


def objects(stand: Stand, upload: Json) -> set[str]:
    """Keys of what the store holds of an upload."""
    return set(stand.objects.keys(upload_prefix(upload["id"])))


def ends_well(stand: Stand, upload: Json, content: bytes) -> None:
    """Send what is missing, as a client that comes back does, and complete: then the store holds the file and nothing else."""
    missing = set(range(1, upload["num_parts"] + 1)) - there(stand, upload)
    if missing:
        send(stand.http, upload, content, *missing)
    for _ in range(2):
        answer = complete(stand.http, upload, content)
        assert (answer.status_code, answer.json()["state"]) == (200, "complete"), answer.text
    is_stored(stand, upload, content)


def is_stored(stand: Stand, upload: Json, content: bytes) -> None:
    """The parts together are the file; after a sweep no other object is left."""
    keys = [key for _, key in sorted(rows(stand, upload).items())]
    hasher = hashlib.sha256()
    for n, key in enumerate(keys, 1):
        for piece in stand.objects.chunks(key, 0, len(part_of(upload, content, n))):
            hasher.update(piece)
    assert hasher.hexdigest() == upload["sha256"] == hashlib.sha256(content).hexdigest()
    stand.sweep()
    assert objects(stand, upload) == set(keys)


def archive(count: int = 8) -> bytes:
    """A zip of two classes."""
    return zipped(folders("ab", count), level=0)


def digest_in_this_process(folder: Path, content: bytes) -> str:
    """What the digest of the data set must be, however it came about."""
    return digest_of(converted(folder, content, "imagefolder_zip").splits)


def register(stand: Stand, upload: Json, name: str = "mine") -> httpx.Response:
    """POST a data set of a complete upload."""
    body = {"name": name, "format": "imagefolder_zip", "source": {"upload_id": upload["id"]}}
    return stand.http.post("/v1/datasets", json=body)


def listed(stand: Stand) -> list[Json]:
    """The data sets that were registered."""
    found: list[Json] = stand.http.get("/v1/datasets", params={"source": "upload"}).json()["data"]
    return found


def job_of(dataset: Json) -> str:
    """The job that reads the files."""
    return str(dataset["links"]["job"]).rpartition("/")[2]


def is_ready(stand: Stand, dataset: Json, digest: str, *, attempts: int | None = None) -> Json:
    """Wait until a data set is ready: once, whole, the only one, and nothing is left beside it after a sweep."""
    job = stand.succeeded(job_of(dataset), attempts=attempts)
    found: Json = stand.http.get(f"/v1/datasets/{dataset['id']}").json()
    assert (found["state"], found["digest"], found["problems"]) == ("ready", digest, [])
    assert [each["id"] for each in listed(stand)] == [dataset["id"]]
    with stand.database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Job).where(Job.kind == "ingest")) == 1
    assert stand.swept(job["id"]) == {job["attempt"]}
    return job
