"""A stranger's folder of images, from files to a distilled set: `python -m tests.benchmarks.own_dataset`.

6,000 of Fashion-MNIST's training images (600 of each class) are saved as JPEG files in folders whose names no recipe knows.
Then what a user does, over `distill up` with every interval at its default and both cores: upload the folder, and distil it
with a recipe's defaults, for some seeds. The service makes the split, finds size, colour and constants, and takes the recipe's
numbers from the nearest published row. Writes `results/own_dataset.json`: the time of each step, and the accuracy beside random
selection.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.data.sources import READERS
from core.settings import get_settings
from tests.fixtures.machine import describe, load_average
from tests.fixtures.one_machine import Machine
from tests.fixtures.service import FAST

RESULTS = Path(__file__).parent / "results" / "own_dataset.json"
NAMES = ("tee", "slacks", "jumper", "gown", "overcoat", "flip-flop", "blouse", "trainer", "tote", "wellington")
PER_CLASS = 600
QUALITY = 90
SEEDS = (2000, 2001, 2002)
MARGIN = 0.015
"""Distilled less random, in the mean over seeds; the same for every recipe, fixed before any of them was measured."""


def write_folder(folder: Path) -> int:
    """The images as files; how many bytes they have."""
    splits = READERS["fashion-mnist"](get_settings().data_dir)
    for label, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for number, position in enumerate(np.flatnonzero(splits.train_labels == label)[:PER_CLASS]):
            Image.fromarray(splits.train_images[position, 0]).save(folder / name / f"{number:04d}.jpg", quality=QUALITY)
    return sum(path.stat().st_size for path in folder.rglob("*.jpg"))


def timed(machine: Machine, *arguments: str) -> tuple[str, float]:
    """What a command prints, and the seconds it takes."""
    began = time.perf_counter()
    done = machine.distill(*arguments, limit=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, time.perf_counter() - began


def one_job(machine: Machine, dataset: str, recipe: str, ipc: int, seed: int) -> dict[str, Any]:
    """Submit, wait and download."""
    submit = ["submit", "--dataset", dataset, "--ipc", str(ipc), "--recipe", recipe, "--scale", "small", "--seed", str(seed)]
    said, watching = timed(machine, *submit, "--watch", "--json")
    job = json.loads(said.splitlines()[-1])  # after its events
    _, downloading = timed(machine, "download", job["id"], "-o", f"wardrobe-{seed}")
    scores = {score["name"]: score["mean"] for score in job["result"]["summary"]["scores"]}
    accuracies = ", ".join(f"{name} {100 * scores[name]:.1f} %" for name in ("distilled", "random"))
    sys.stdout.write(f"seed {seed}: {accuracies}, {watching:.0f} s\n")
    return {
        "seed": seed, "distilled": scores["distilled"], "random": scores["random"],
        "seconds": {"submitted_until_over": round(watching, 1), "download": round(downloading, 1)},
        "defaults_from": job["spec"]["defaults_from"],
    }


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Upload a folder of images and distil it.")
    parser.add_argument("--recipe", default="dm")
    parser.add_argument("--ipc", type=int, default=10)
    options = parser.parse_args()
    before = load_average()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "wardrobe"
        size_bytes = write_folder(folder)
        machine = Machine(Path(name) / "home")
        machine.env = {key: value for key, value in machine.env.items() if key not in FAST}
        launcher = machine.up()
        try:
            said, uploading = timed(machine, "datasets", "upload", str(folder), "--name", "wardrobe", "--json")
            made = json.loads(said)
            jobs = [one_job(machine, made["id"], options.recipe, options.ipc, seed) for seed in SEEDS]
        finally:
            launcher.send_signal(signal.SIGTERM)
            launcher.communicate(timeout=60)
    gains = [job["distilled"] - job["random"] for job in jobs]
    result = {
        "what": f"{PER_CLASS * len(NAMES)} JPEG files under names of their own: `distill datasets upload`, then "
                f"`distill submit --recipe {options.recipe} --ipc {options.ipc} --scale small`",
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "hardware": describe(), "load_average_before": before,
        "bytes": size_bytes, "num_train": made["num_train"], "num_test": made["num_test"],
        "upload_until_ready_seconds": round(uploading, 1), "jobs": jobs,
        "gain": {"mean": statistics.fmean(gains), "sd": statistics.stdev(gains), "n": len(gains), "margin": MARGIN},
        "total_seconds_one_job": round(
            uploading + statistics.fmean(sum(job["seconds"].values()) for job in jobs), 1
        ),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(f"{RESULTS}: gain {100 * statistics.fmean(gains):.1f} points, margin {100 * MARGIN:.1f}\n")
    return 0 if statistics.fmean(gains) > MARGIN else 1


if __name__ == "__main__":
    sys.exit(main())
