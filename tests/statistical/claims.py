"""The claims that are tested, and how one replicate of each is measured.

A replicate is an independent job seed: synthetic set, random draws and networks are all new. The gain is the accuracy on the
distilled set less the mean accuracy on five draws of random real images at the same budget, under the same protocol; at ipc 1
a single draw varies by four points, five times as much as the distilled set.
`python -m tests.statistical.claims NAME` measures n = 10 replicates and writes the results file that fixes the threshold of a
test with n = 5 other seeds: three standard errors of the difference between the two means below the calibrated one,
calibrated mean - 3 sd sqrt(1/5 + 1/10). The calibrated mean is itself a measurement; without its share one honest test in
a hundred would fail.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

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
CALIBRATION_SEEDS = range(1000, 1010)
TEST_SEEDS = range(2000, 2005)


class Claim(NamedTuple):
    """DM beats random selection on one set at one budget."""

    name: str
    request: dict[str, Any]

    def spec(self, seed: int) -> DistillationSpec:
        """The resolved job of one replicate."""
        return resolve(JobRequest.model_validate_json(json.dumps({**self.request, "seed": seed})))


def _request(dataset: str, ipc: int, epochs: int) -> dict[str, Any]:
    return {
        "dataset": {"name": dataset}, "ipc": ipc, "recipe": "dm", "scale": "small",
        "evaluation": {"num_eval": 1, "random_draws": 5, "num_epochs": epochs, "check_8bit": False},
    }


CLAIMS = {
    claim.name: claim
    for claim in (
        Claim("dm_digits_ipc1", _request("digits", 1, 150)),
        Claim("dm_fashion_mnist_ipc1", _request("fashion-mnist", 1, 300)),
        Claim("dm_fashion_mnist_ipc10", _request("fashion-mnist", 10, 300)),
    )
}


class Replicate(NamedTuple):
    """Test accuracies, as fractions, of one replicate; `random` is the mean over its draws."""

    seed: int
    distilled: float
    random: float

    @property
    def gain(self) -> float:
        """Distilled less random."""
        return self.distilled - self.random


def measure(claim: Claim, seed: int, data_root: Path, *, shuffle_labels: bool = False) -> Replicate:
    """Run one replicate; with shuffled labels, the negative control: the distilled images carry wrong classes."""
    spec = claim.spec(seed)
    info = dataset_info(spec.dataset.name)
    data = RealSet(READERS[info.name](data_root), info, device=torch.device("cpu"), seed=seed)
    experts = TrainedHere(data)
    result = distil(spec, data, experts)
    labels = result.labels.roll(len(result.labels) // data.num_classes) if shuffle_labels else result.labels
    scores = evaluate(
        spec.evaluation, data, result.images, labels, ipc=spec.ipc, seed=seed, experts=experts,
        parameterization=result.engine.parts.parameterization,
    )
    means = {score.name: score.mean for score in scores}
    return Replicate(seed, means["distilled"], means["random"])


def threshold(name: str) -> float:
    """Smallest mean gain that the claim allows for n = 5."""
    found = json.loads((RESULTS / f"{name}.json").read_text())["gain"]
    return float(found["mean"] - 3 * found["sd"] * math.sqrt(1 / len(TEST_SEEDS) + 1 / found["n"]))


def _summary(values: list[float]) -> dict[str, Any]:
    return {
        "mean": round(statistics.fmean(values), 4), "sd": round(statistics.stdev(values), 4), "n": len(values),
        "values": [round(value, 4) for value in values],
    }


def main(name: str) -> None:
    """Calibrate one claim and write its results file."""
    root = Path(os.environ.get("DISTILL_DATA_ROOT", "data"))
    rows = []
    for seed in CALIBRATION_SEEDS:
        rows.append(measure(CLAIMS[name], seed, root))
        sys.stdout.write(f"{rows[-1]} gain {rows[-1].gain:.4f}\n")
        sys.stdout.flush()
    document = {
        "claim": name, "request": CLAIMS[name].request, "seeds": list(CALIBRATION_SEEDS),
        "gain": _summary([row.gain for row in rows]), "distilled": _summary([row.distilled for row in rows]),
        "random": _summary([row.random for row in rows]),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}", "torch": torch.__version__,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
