"""Large files through one real API process: its memory stays what it was, and every byte arrives.

5 GB to a local store, as many parts at a time as a process takes; a fifth of that to an S3 server, with the client's defaults,
because there each part on its way holds what S3 takes in one piece. And the largest file that goes in one request.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api.main import PARTS_AT_ONCE
from core.settings import Settings
from core.uploads.parts import MAX_CONTENT_BYTES
from tests.benchmarks.api_load import api, sqlite
from tests.benchmarks.api_memory import forget_peak, memory_mib
from tests.benchmarks.upload import generate, stored_digest, with_upload

pytestmark = [pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(1800)]

LARGE_BYTES = 5 * 10**9
MAX_GROWTH_MIB = 100 * 10**6 / 2**20


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, which a socket's path needs."""
    made = Path(tempfile.mkdtemp(prefix="dl-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def require_room(folder: Path, size: int) -> None:
    """Fail where the file and its copy in a store do not fit."""
    needed, free = 5 * size // 2, shutil.disk_usage(folder).free
    if free < needed:
        pytest.fail(f"this needs {needed / 1e9:.1f} GB of disk at {folder}, and {free / 1e9:.1f} GB are free")


def store_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> tuple[dict[str, str], Settings]:
    """Variables of a process that uses this store, and the settings that they make."""
    given: dict[str, str] = request.getfixturevalue("s3_server") if kind == "s3" else {}
    plain = {name.removeprefix("DISTILL_").lower(): value for name, value in given.items()}
    return given, Settings(home=folder / "home", **plain)


@pytest.mark.parametrize(("kind", "size", "parallel"), [("local", LARGE_BYTES, PARTS_AT_ONCE), ("s3", LARGE_BYTES // 5, 4)])
def test_memory_does_not_grow_with_the_file(
    request: pytest.FixtureRequest, folder: Path, kind: str, size: int, parallel: int
) -> None:
    require_room(folder, size)
    given, settings = store_of(kind, request, folder)
    path = folder / "large.bin"
    generate(path, size)
    with sqlite() as database_url, api(database_url, folder, given) as (url, pid):
        upload_id, took = with_upload(url, pid, path, parallel)
        digest = stored_digest(database_url, settings, upload_id)
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest
    assert took["peak_mib"] - took["before_mib"] < MAX_GROWTH_MIB, took


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_memory_does_not_grow_with_a_file_in_one_request(request: pytest.FixtureRequest, folder: Path, kind: str) -> None:
    require_room(folder, MAX_CONTENT_BYTES)
    given, settings = store_of(kind, request, folder)
    path = folder / "large.bin"
    generate(path, MAX_CONTENT_BYTES)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    body = {"filename": path.name, "size_bytes": MAX_CONTENT_BYTES, "sha256": sha256}
    with sqlite() as database_url, api(database_url, folder, given) as (url, pid):
        upload = httpx.post(f"{url}/v1/uploads", json=body, timeout=60).json()
        before = memory_mib(pid)
        forget_peak(pid)
        with path.open("rb") as file:
            headers = {"Content-Length": str(MAX_CONTENT_BYTES)}
            answer = httpx.put(f"{url}{upload['links']['content']}", content=file, headers=headers, timeout=600)
        assert answer.status_code == 200, answer.text
        peak = memory_mib(pid, "VmHWM")
        assert stored_digest(database_url, settings, upload["id"]) == sha256
    assert peak - before < MAX_GROWTH_MIB, (before, peak)
