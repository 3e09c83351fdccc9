"""Every recipe and every coreset under one evaluation, at the small scale.

    python -m tests.statistical.table [--only "dm;dsdm"] [--ipc 1] [--jobs 2]
    python -m tests.statistical.table --pace [--ipc 1]

Fashion-MNIST, ConvNet-3 of width 32, the recipes' own small-scale caps, the `dm` protocol for every row: 3 sets x 3 networks. A
set is an independent job seed; trained pools are shared by seeds and rows, as jobs share them, and kept in the cache folder.
Each set has a process of its own, so that its peak memory is its own; a set that found its pools in the cache did not pay
for their training. The results file is written after every set, and what it already holds is kept, so that the run can
be interrupted; a row is there once all its sets are. Sets that run side by side slow one another down: `--pace` times the
iterations of the rows that exist, one after another with all cores, and is to be run alone.

`MARGINS` are the claims that the rows must bear out. Margins, seeds and n were fixed before the rows were measured; no
hyper-parameter was looked at with these seeds.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import multiprocessing
import os
import resource
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch

from core.catalogue import dataset_info
from core.data.real_set import RealSet
from core.data.sources import READERS
from core.distillation.build import build
from core.distillation.distil import distil
from core.distillation.engine import Engine
from core.evaluation.evaluate import evaluate
from core.experts import FromFiles, save_pool, train_pool
from core.progress import Record
from core.settings import get_settings
from core.specs.job import DistillationSpec, JobRequest
from core.specs.requirements import required_experts
from core.specs.resolve import resolve
from tests.fixtures.machine import describe

RESULTS = Path(__file__).parent / "results"
SEEDS = (2000, 2001, 2002)
NUM_NETWORKS = 3
NUM_EPOCHS = 300
PACE_ITERATIONS = 40

Method = dict[str, Any]
Measured = dict[str, Any]


class Row(NamedTuple):
    """A recipe, and what is changed in it."""

    recipe: str
    method: Method = {}


_NO_COVARIANCE = {"covariance_weight": 0.0}
_NO_HISTORY: list[Method] = []
_FIFTH = {"num_iterations": 60}
CORESETS = ("random", "mosaic", "herding", "k_center", "forgetting", "k_means")
METHODS = (
    "dm", "dm_dream", "cafe", "cafe_dsa", "iid_dm", "idm", "iid_idm", "m3d", "dsdm", "dsdm_dream",
    "mtt", "dc", "dsa", "dcc", "dsac", "idc", "dream", "dc_dream", "dsa_dream", "tesla", "datm",
    "haba", "haba_dm", "haba_dc", "haba_dsa", "dm_mim4dd", "dream_mim4dd", "mtt_mim4dd",
)
ROWS: dict[str, Row] = {
    **{name: Row(name) for name in (*CORESETS, *METHODS)},
    "dm, a fifth": Row("dm", _FIFTH),
    "dm_dream, a fifth": Row("dm_dream", _FIFTH),
    "dream, a fifth": Row("dream", _FIFTH),
    "dc: from noise": Row("dc", {"init": {"kind": "noise"}}),
    # Table 4 of DSDM: each row adds one part to the row before; with history it is `dsdm`.
    "dsdm: prototypes": Row("dsdm", {"models": {"kind": "fresh_random"}, "objective": _NO_COVARIANCE, "terms": _NO_HISTORY}),
    "dsdm: + trained networks": Row("dsdm", {"objective": _NO_COVARIANCE, "terms": _NO_HISTORY}),
    "dsdm: + covariance": Row("dsdm", {"terms": _NO_HISTORY}),
}
ONLY_IPC10 = {
    "iid_dm", "iid_idm", "dsdm_dream", *(name for name in ROWS if ROWS[name].method or ROWS[name].recipe.startswith("haba")),
}
"""Rows that are measured at ipc 10 alone: at ipc 1, no gradient in IID's terms, no room for HaBa's hallucinators."""

MARGINS: dict[tuple[str, str], float] = {
    **{(name, "random"): 0.015 for name in METHODS},
    ("dsdm", "dm"): 0.01,
    ("dm_dream, a fifth", "dm, a fifth"): 0.01,
    ("dsa", "dc: from noise"): 0.005,
    ("idc", "dsa"): 0.01,
    ("dream, a fifth", "idc"): 0.0,
    **{(f"{base}_mim4dd", base): 0.0 for base in ("dm", "dream", "mtt")},
    **{(f"haba_{base}", base): 0.0 for base in ("dm", "dc", "dsa")},
    ("haba", "mtt"): 0.0,
}
"""Accuracy of the first row less that of the second, at ipc 10: more than this, in means over all sets and networks.

DC is published from noise, DSA from real images; at small scale `dc` starts from real images, too.
"""

NOT_SEEN = {
    ("dm_mim4dd", "dm"), ("dream_mim4dd", "dream"), ("haba_dm", "dm"), ("haba_dc", "dc"), ("haba_dsa", "dsa"), ("haba", "mtt"),
}
"""Claims whose rows, once measured, did not bear them out. The page says so; there is nothing left to test."""


def request(row: Row, ipc: int, seed: int, **method: Any) -> DistillationSpec:
    """The resolved job of one set, with further changes to its method."""
    body = {
        "dataset": {"name": "fashion-mnist"}, "ipc": ipc, "recipe": row.recipe, "scale": "small", "seed": seed,
        "method": row.method | method, "evaluation": {
            "protocol": "dm", "num_eval": NUM_NETWORKS, "num_epochs": NUM_EPOCHS, "random_draws": 0, "check_8bit": False,
        },
    }
    return resolve(JobRequest.model_validate_json(json.dumps(body)))


def measure(name: str, ipc: int, seed: int, num_threads: int = 1) -> Measured:
    """Distil and evaluate one set of a row."""
    torch.set_num_threads(num_threads)
    data = fashion_mnist()
    spec = request(ROWS[name], ipc, seed)
    experts = pools(spec, data)
    result = distil(spec, data, experts)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # before any evaluation
    scores = evaluate(
        spec.evaluation, data, result.images, result.labels, ipc=spec.ipc, seed=seed, experts=experts,
        parameterization=result.engine.parts.parameterization,
    )
    (accuracies,) = ([float(a) for a in score.accuracies] for score in scores if score.name == "distilled")
    sys.stdout.write(f"{name} seed {seed}: {statistics.fmean(accuracies):.4f}\n")
    sys.stdout.flush()
    return {
        "accuracies": accuracies, "iterations": result.engine.completed, "decoded_images": len(result.labels),
        "peak_memory_mib": peak,
    }


def row_of(sets: Sequence[Measured]) -> Measured:
    """What the table says of all sets of one row."""
    means = [statistics.fmean(found["accuracies"]) for found in sets]
    return {
        "mean": round(statistics.fmean(means), 4), "std_over_sets": round(statistics.stdev(means), 4),
        "accuracies": [found["accuracies"] for found in sets], "iterations": sets[0]["iterations"],
        "decoded_images": sets[0]["decoded_images"], "peak_memory_mib": max(found["peak_memory_mib"] for found in sets),
    }


def pace(name: str, ipc: int) -> float | None:
    """Seconds per iteration with all cores, or None where nothing iterates; compiled where the whole run is."""
    if not request(ROWS[name], ipc, SEEDS[0]).method.max_iterations:
        return None
    data = fashion_mnist()
    whole = request(ROWS[name], ipc, SEEDS[0])
    experts = pools(whole, data)
    compiled = Engine(
        build(whole, data, experts), data, seed=0, num_iterations=whole.method.max_iterations, record=Record()
    ).compiled
    spec = request(ROWS[name], ipc, SEEDS[0], num_iterations=PACE_ITERATIONS)
    record = distil(spec, data, experts, compiled=compiled).record
    return round(record.timed_seconds / record.timed_iterations, 4)


def pools(spec: DistillationSpec, data: RealSet) -> FromFiles:
    """The trained networks that a job reads, from the cache; those that are missing there are trained first, each once."""
    folder = get_settings().cache_dir / "pools"
    folder.mkdir(parents=True, exist_ok=True)
    for key, needed in required_experts(spec, data.info.identity).items():
        path = folder / f"{key}.safetensors"
        with (folder / f"{key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.is_file():
                save_pool(train_pool(needed.pool, data), needed.pool, path.with_suffix(".new"))
                path.with_suffix(".new").rename(path)
    return FromFiles(folder, spec, data)


def fashion_mnist() -> RealSet:
    """The real set of all rows."""
    info = dataset_info("fashion-mnist")
    return RealSet(READERS[info.name](Path(os.environ.get("DISTILL_DATA_ROOT", "data"))), info, device=torch.device("cpu"))


def main() -> None:
    """Measure what the results file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows, separated by semicolons")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1, help="sets at a time; they share the processor's cores")
    parser.add_argument("--pace", action="store_true", help="time the iterations of the rows that exist, and measure none")
    args = parser.parse_args()
    wanted = [name for name in args.only.split(";") if name] or [
        name for name in ROWS if args.ipc == 10 or name not in ONLY_IPC10
    ]
    path = RESULTS / f"table_ipc{args.ipc}.json"
    document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {
        "dataset": "fashion-mnist", "ipc": args.ipc, "seeds": SEEDS, "networks_per_set": NUM_NETWORKS,
        "num_epochs": NUM_EPOCHS, "rows": {}, "unfinished": {},
    }
    document |= {"hardware": describe(), "torch": torch.__version__} if args.pace else {}
    threads = max(1, len(os.sched_getaffinity(0)) // args.jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=context, max_tasks_per_child=1) as executor:
        if args.pace:
            for name in (name for name in wanted if name in document["rows"]):
                document["rows"][name]["seconds_per_iteration"] = executor.submit(pace, name, args.ipc).result()
                path.write_text(json.dumps(document, indent=1) + "\n")
            return
        sets: dict[str, dict[str, Measured]] = document.setdefault("unfinished", {})
        running = {
            executor.submit(measure, name, args.ipc, seed, threads): (name, str(seed))
            for name in wanted if name not in document["rows"] for seed in SEEDS if str(seed) not in sets.get(name, {})
        }
        for future in as_completed(running):
            name, seed = running[future]
            sets.setdefault(name, {})[seed] = future.result()
            if len(sets[name]) == len(SEEDS):
                found = sets.pop(name)
                document["rows"][name] = row_of([found[str(seed)] for seed in SEEDS])
            path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
