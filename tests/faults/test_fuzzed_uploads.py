"""Ten thousand damaged uploads of all formats in confined processes: each is read or refused, soon, and none leaves a file.

Two hundred of them also go the whole way, over HTTP: uploaded, registered, read by a worker's child, and deleted.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from api.client.http import DistillClient
from core.jobs.database import Database, now
from core.settings import Settings
from core.specs.ingest import Format
from core.store.objects import open_store
from core.uploads.models import Upload
from tests.fixtures.service import Service, laptop
from tests.unit.core.ingest.corpus import FORMATS, fuzzed
from worker.sweeper import Sweeper

pytestmark = [pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[2]
NUM_PROCESSES, PER_PROCESS = 20, 500
MAX_SECONDS = 10.0
"""CPU time for one upload."""
NUM_OVER_HTTP, AT_ONCE = 200, 5
FIRST_OVER_HTTP = NUM_PROCESSES * PER_PROCESS


def test_every_damaged_upload_is_read_or_refused(tmp_path: Path) -> None:
    ends: Counter[tuple[str, bool]] = Counter()
    codes: Counter[str] = Counter()
    for process in range(NUM_PROCESSES):
        folder = tmp_path / str(process)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.fuzzing", str(folder), str(process * PER_PROCESS), str(PER_PROCESS)],
            cwd=ROOT, env={"PATH": os.environ["PATH"], "HOME": str(folder), "OPENBLAS_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0, f"after {lines[-1:]}: {done.stderr[-3000:]}"
        assert [number for number, *_ in lines] == list(range(process * PER_PROCESS, (process + 1) * PER_PROCESS))
        for number, format, end, seconds, stray in lines:
            assert not stray, f"upload {number} ({format}) left {stray}"
            assert seconds < MAX_SECONDS, f"upload {number} ({format}) took {seconds:.1f} s"
            ends[format, end == "read"] += 1
            codes[end] += 1
    assert set(ends) == {(format, read) for format in FORMATS for read in (True, False)}
    assert codes["read"] > NUM_PROCESSES * PER_PROCESS / 10
    assert len(codes) > 20


@pytest.fixture
def service(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A running service with two workers."""
    with contextlib.contextmanager(laptop)(tmp_path, request) as made:
        made.start_all()
        made.start_worker()
        yield made


class End(NamedTuple):
    """How a file ended: what a client sees."""

    number: int
    format: Format
    dataset: dict[str, Any]
    job: dict[str, Any]


def over_http(url: str, folder: Path, number: int) -> End:
    """Upload a damaged file, make a data set of it, and wait."""
    format, content = fuzzed(number)
    path = folder / f"{number}.bin"
    path.write_bytes(content)
    with DistillClient(url) as client:
        uploaded = client.upload(path, parallel=1)
        dataset = client.register_dataset(
            uploaded["id"], name=f"fuzzed {number}", file_format=format, conversion={"max_corrupt": number % 3}
        )
        job = client.wait(dataset["links"]["job"].rpartition("/")[2])
        return End(number, format, client.dataset(dataset["id"]), job)


def fault_of(end: End) -> str:
    """What a client should not see; empty when all is well."""
    if end.job["attempt"] != 1:
        return "it took more than one attempt"
    if end.dataset["state"] == "ready":
        return "ready, with problems" if end.dataset["problems"] or end.job["state"] != "succeeded" else ""
    if (end.dataset["state"], (end.job["error"] or {}).get("code")) != ("rejected", "dataset_rejected"):
        return f"{end.dataset['state']} instead of refused"
    return "" if end.dataset["problems"] and all(each["message"] for each in end.dataset["problems"]) else "nothing is told"


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")


def test_damaged_uploads_over_http_become_data_sets_or_are_refused(service: Service, tmp_path: Path) -> None:
    numbers = itertools.islice((n for n in itertools.count(FIRST_OVER_HTTP) if fuzzed(n)[1]), NUM_OVER_HTTP)
    sent = tmp_path / "sent"
    sent.mkdir()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        ends = list(threads.map(lambda number: over_http(service.url, sent, number), numbers))
    wrong = [(end.number, end.format, why, end.dataset["problems"], end.job["error"]) for end in ends if (why := fault_of(end))]
    assert not wrong, (wrong, service.logs())
    states = Counter(end.dataset["state"] for end in ends)
    codes = Counter(end.dataset["problems"][0]["code"] for end in ends if end.dataset["problems"])
    assert min(states["ready"], states["rejected"]) > NUM_OVER_HTTP / 10, states
    assert len(codes) > 10, codes
    assert {end.format for end in ends} == set(FORMATS)
    nothing_is_left(service, ends)


def nothing_is_left(service: Service, ends: list[End]) -> None:
    """Delete every data set, let the uploads expire, and sweep."""
    home = service.folder / "home"
    settings = Settings(home=home, orphan_seconds=1e-6)
    database, store = Database(settings.database), open_store(settings)
    assert {key.split("/")[1] for key in store.keys("jobs")} <= {end.job["id"] for end in ends}
    assert files_in(home / "jobs") == []
    with DistillClient(service.url) as client:
        for end in ends:
            client.delete_dataset(end.dataset["id"])
        assert [each for each in client.datasets() if each["id"]] == []
    with database.write() as session:
        session.execute(sa.update(Upload).values(expires_at=now(session) - timedelta(seconds=1)))
    Sweeper(database, store, settings).sweep()
    database.dispose()
    assert store.keys("") == []
    assert files_in(home / "objects") == []
    assert files_in(home / "jobs") == []
