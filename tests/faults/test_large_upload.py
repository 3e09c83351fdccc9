"""Large files through one real API process: its memory stays what it was, and every byte arrives.

5 GB to a local store, as many parts at a time as a process takes; a fifth of that to an S3 server, with the client's defaults,
because there each part on its way holds what S3 takes in one piece.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.main import PARTS_AT_ONCE
from core.settings import Settings
from tests.benchmarks.api_load import api, sqlite
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


@pytest.mark.parametrize(("kind", "size", "parallel"), [("local", LARGE_BYTES, PARTS_AT_ONCE), ("s3", LARGE_BYTES // 5, 4)])
def test_memory_does_not_grow_with_the_file(
    request: pytest.FixtureRequest, folder: Path, kind: str, size: int, parallel: int
) -> None:
    require_room(folder, size)
    given: dict[str, str] = request.getfixturevalue("s3_server") if kind == "s3" else {}
    settings = Settings(
        home=folder / "home", **{name.removeprefix("DISTILL_").lower(): value for name, value in given.items()}
    )
    path = folder / "large.bin"
    generate(path, size)
    with sqlite() as database_url, api(database_url, folder, given) as (url, pid):
        upload_id, took = with_upload(url, pid, path, parallel)
        digest = stored_digest(database_url, settings, upload_id)
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest
    assert took["peak_mib"] - took["before_mib"] < MAX_GROWTH_MIB, took
