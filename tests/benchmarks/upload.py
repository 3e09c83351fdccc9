"""Uploading a large file to one real API process: `python -m tests.benchmarks.upload` writes `results/upload.json`.

A file of random bytes is copied by `cp`, and by `dd` with a flush at its end, which every acknowledged part has behind it. Then
`DistillClient.upload` sends it to `uvicorn api.main:create_app` over SQLite with a local store on the same disk. Hashing the
file and sending it are timed apart. Of the server, resident memory is read before, at its peak, and after, and the seconds of
CPU that it took. What the store holds is compared with the file at the end. Client and server share the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from api.client.http import DistillClient
from core.jobs.database import Database
from core.jobs.models import DEFAULT_TENANT
from core.settings import Settings
from core.store.objects import open_store
from core.uploads.repository import parts_of
from tests.benchmarks.api_load import api, sqlite
from tests.benchmarks.api_memory import MIB, _cpu_seconds, forget_peak, memory_mib
from tests.fixtures.machine import describe, load_average

RESULTS = Path(__file__).parent / "results" / "upload.json"


def generate(path: Path, size: int) -> None:
    """Random bytes on the disk, none of them waiting to be written."""
    with path.open("wb") as file:
        while left := size - file.tell():
            file.write(os.urandom(min(16 * MIB, left)))
        file.flush()
        os.fsync(file.fileno())


def timed(command: Sequence[str], copy: Path) -> float:
    """Seconds that a program takes to make a copy, which is removed."""
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    copy.unlink()
    os.sync()
    return seconds


def with_upload(url: str, pid: int, path: Path, parallel: int) -> tuple[str, dict[str, Any]]:
    """Upload the file; the id of the upload, and what it took."""
    times = {"begun": time.monotonic(), "hashed": 0.0}

    def hashed(_done: int, _total: int) -> None:
        times["hashed"] = time.monotonic()

    with DistillClient(url) as client:
        client.version()
        before, cpu, own = memory_mib(pid), _cpu_seconds(pid), time.process_time()
        forget_peak(pid)
        made = client.upload(path, on_hashing=hashed, parallel=parallel)
        ended = time.monotonic()
    size = path.stat().st_size
    return made["id"], {
        "parallel": parallel, "parts": made["num_parts"], "hashing_seconds": round(times["hashed"] - times["begun"], 1),
        "sending_seconds": round(ended - times["hashed"], 1), "mib_per_second": rate(size, ended - times["begun"]),
        "sending_mib_per_second": rate(size, ended - times["hashed"]),
        "server_cpu_seconds": round(_cpu_seconds(pid) - cpu, 1), "client_cpu_seconds": round(time.process_time() - own, 1),
        "before_mib": before,
        "peak_mib": memory_mib(pid, "VmHWM"), "after_mib": memory_mib(pid),
    }


def rate(size: int, seconds: float) -> float:
    """MiB per second."""
    return round(size / MIB / seconds, 1)


def stored_digest(database_url: str, settings: Settings, upload_id: str) -> str:
    """SHA-256 of what a worker would read."""
    database, store, hasher = Database(database_url), open_store(settings), hashlib.sha256()
    with database.read() as session:
        parts = parts_of(session, DEFAULT_TENANT, upload_id)
    database.dispose()
    for part in parts:
        for piece in store.chunks(part.key, 0, part.size_bytes):
            hasher.update(piece)
    return hasher.hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=5 * 10**9)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="dl-"))
    path, copy, load = folder / "large.bin", folder / "copy.bin", load_average()
    try:
        generate(path, options.bytes)
        plain = timed(["cp", str(path), str(copy)], copy)
        flushed = timed(["dd", f"if={path}", f"of={copy}", "bs=8M", "conv=fsync"], copy)
        with sqlite() as database_url, api(database_url, folder) as (url, pid):
            upload_id, uploaded = with_upload(url, pid, path, options.parallel)
            digest = stored_digest(database_url, Settings(home=folder / "home"), upload_id)
        with path.open("rb") as file:
            same = digest == hashlib.file_digest(file, "sha256").hexdigest()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results = {
        "what": "an upload to one uvicorn process with a local store, and plain copies of the same file on the same disk",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": f"{describe()}; the client on the same machine", "load_average_before": load,
        "bytes": options.bytes, "same_digest": same,
        "cp": {"seconds": round(plain, 1), "mib_per_second": rate(options.bytes, plain)},
        "dd_with_flush": {"seconds": round(flushed, 1), "mib_per_second": rate(options.bytes, flushed)},
        "upload": uploaded,
    }
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    sys.stdout.write(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
