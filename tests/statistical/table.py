"""Every recipe of the distribution-matching family and every coreset under one evaluation, at the small scale.

    python -m tests.statistical.table [--only dm,dsdm] [--ipc 10] [--sets 3] [--networks 3]
    python -m tests.statistical.table --ablation

Fashion-MNIST, ConvNet-3 of width 32, the recipes' own small-scale caps, the `dm` protocol for every row. A set is an
independent job seed; trained pools are shared by the seeds, as jobs share them. The results file is written after every row,
and rows that it already holds are kept, so that the run can be interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from core.catalogue import dataset_info
from core.data.real_set import RealSet
from core.data.sources import READERS
from core.distillation.distil import distil
from core.evaluation.evaluate import evaluate
from core.experts import TrainedHere
from core.specs.job import DistillationSpec, JobRequest
from core.specs.resolve import resolve

RESULTS = Path(__file__).parent / "results"
RECIPES = (
    "random", "mosaic", "herding", "k_center", "forgetting", "k_means", "dm", "dm_dream", "cafe", "cafe_dsa", "iid_dm", "idm",
    "iid_idm", "m3d", "dsdm", "dsdm_dream",
)
NO_HISTORY: list[dict[str, Any]] = []
ABLATION: dict[str, dict[str, Any]] = {
    "prototype": {
        "models": {"kind": "fresh_random"}, "objective": {"covariance_weight": 0.0}, "terms": NO_HISTORY,
    },
    "+ pre-trained networks": {"objective": {"covariance_weight": 0.0}, "terms": NO_HISTORY},
    "+ covariance": {"terms": NO_HISTORY},
    "+ history": {},
}
"""Table 4 of DSDM: each row adds one part to the row before."""


def request(recipe: str, ipc: int, seed: int, method: dict[str, Any], networks: int, epochs: int) -> DistillationSpec:
    """The resolved job of one set."""
    body = {
        "dataset": {"name": "fashion-mnist"}, "ipc": ipc, "recipe": recipe, "scale": "small", "seed": seed, "method": method,
        "evaluation": {"protocol": "dm", "num_eval": networks, "num_epochs": epochs, "random_draws": 0, "check_8bit": False},
    }
    return resolve(JobRequest.model_validate_json(json.dumps(body)))


def measure(
    recipe: str, args: argparse.Namespace, method: dict[str, Any], data: RealSet, experts: TrainedHere
) -> dict[str, Any]:
    """Distil and evaluate all sets of one row."""
    accuracies: list[list[float]] = []
    seconds: list[float] = []
    per_iteration: list[float] = []
    completed = 0
    for seed in range(args.sets):
        spec = request(recipe, args.ipc, seed, method, args.networks, args.epochs)
        started = time.monotonic()
        result = distil(spec, data, experts)
        seconds.append(time.monotonic() - started)
        record = result.record
        if record.timed_iterations:
            per_iteration.append(record.timed_seconds / record.timed_iterations)
        completed = result.engine.completed
        scores = evaluate(
            spec.evaluation, data, result.images, result.labels, ipc=spec.ipc, seed=seed, experts=experts,
            parameterization=result.engine.parts.parameterization,
        )
        accuracies.append([float(a) for score in scores if score.name == "distilled" for a in score.accuracies])
        sys.stdout.write(f"{recipe} seed {seed}: {statistics.fmean(accuracies[-1]):.4f} in {seconds[-1]:.0f} s\n")
        sys.stdout.flush()
    means = [statistics.fmean(row) for row in accuracies]
    return {
        "mean": round(statistics.fmean(means), 4),
        "std_over_sets": round(statistics.stdev(means), 4) if len(means) > 1 else None,
        "num_sets": len(means), "networks_per_set": args.networks, "accuracies": accuracies,
        "iterations": completed, "decoded_images": len(result.labels),
        "seconds_per_iteration": round(statistics.fmean(per_iteration), 4) if per_iteration else None,
        "distillation_seconds": [round(value, 1) for value in seconds],
        "peak_memory_mib_so_far": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Measure what the results file lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--sets", type=int, default=3)
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--part", default="", help="suffix of the results file, for rows that are measured side by side")
    args = parser.parse_args()
    info = dataset_info("fashion-mnist")
    root = Path(os.environ.get("DISTILL_DATA_ROOT", "data"))
    data = RealSet(READERS[info.name](root), info, device=torch.device("cpu"))
    experts = TrainedHere(data)
    path = RESULTS / f"table_{'ablation' if args.ablation else f'ipc{args.ipc}'}{args.part}.json"
    document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {
        "dataset": info.name, "ipc": args.ipc, "evaluation": f"dm protocol, {args.epochs} epochs, ConvNet-3 width 32",
        "rows": {},
    }
    document["hardware"] = f"{os.cpu_count()} cores, {platform.machine()}, {torch.get_num_threads()} threads"
    document["torch"] = torch.__version__
    wanted = [name for name in args.only.split(",") if name]
    rows = {f"dsdm: {name}": ("dsdm", method) for name, method in ABLATION.items()} if args.ablation else {
        name: (name, {}) for name in RECIPES
    }
    for name, (recipe, method) in rows.items():
        if name in document["rows"] or (wanted and name not in wanted):
            continue
        document["rows"][name] = measure(recipe, args, method, data, experts)
        path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
