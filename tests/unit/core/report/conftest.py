"""Outcomes that look real: digits from scikit-learn and drawn colour images, in the catalogue's normalisation."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from core.catalogue import DatasetInfo, dataset_info
from core.report.build import write_artifacts
from core.report.outcome import Outcome, Score, Whitened
from core.specs.job import DistillationSpec, JobRequest
from core.specs.resolve import resolve

NETWORK = "convnet-1 width 32"


def normalised(images: NDArray[np.uint8], info: DatasetInfo) -> NDArray[np.float32]:
    mean, std = (np.array(v, np.float32).reshape(1, -1, 1, 1) for v in (info.mean, info.std))
    return ((images.astype(np.float32) / np.float32(255) - mean) / std).astype(np.float32)


def spec_for(name: str, ipc: int, **fields: Any) -> DistillationSpec:
    request = {"dataset": {"name": name}, "ipc": ipc, "recipe": "dm", "scale": "small", "tags": {"team": "vision"}} | fields
    return resolve(JobRequest.model_validate(request))


def digit_images(ipc: int) -> NDArray[np.uint8]:
    bunch = load_digits()
    images = np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8)[:, None]
    return np.concatenate([images[bunch.target == label][:ipc] for label in range(10)])


def colour_images(num_classes: int, ipc: int, side: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [
        [np.sin(2 * np.pi * (x * random.uniform(0, 3) + y * random.uniform(0, 3)) + random.uniform(0, 6)) for _ in range(3)]
        for _ in range(num_classes * ipc)
    ]
    return np.rint(127.5 + 127.5 * np.array(waves)).astype(np.uint8)


def outcome_of(spec: DistillationSpec, info: DatasetInfo, initial: NDArray[np.uint8], **fields: Any) -> Outcome:
    random = np.random.default_rng(1)
    start = normalised(initial, info)
    labels = np.repeat(np.arange(info.num_classes, dtype=np.int64), len(initial) // info.num_classes)
    decay = [(step, 40.0 * math.exp(-step / 60) + 2.0 + 0.3 * math.sin(step)) for step in range(0, 300, 5)]
    values: dict[str, Any] = {
        "job_id": "job_01980000", "attempt": 1, "spec": spec, "info": info,
        "images": (start + random.normal(0, 0.35, start.shape)).astype(np.float32), "labels": labels, "initial_images": start,
        "storage": {"pixels": start.size},
        "scores": (
            Score("distilled", NETWORK, (0.871, 0.884, 0.893)),
            Score("distilled_8bit", NETWORK, (0.868, 0.880, 0.889)),
            Score("random", NETWORK, (0.652, 0.701, 0.633), num_sets=3),
        ),
        "series": {
            "distillation/loss": decay, "held_out/accuracy": [(s, 0.9 - 0.5 * math.exp(-s / 80)) for s in range(0, 301, 50)],
            "evaluation/train_loss": [(s, 2.3 * math.exp(-s / 40)) for s in range(0, 301, 10)],
            "evaluation/train_accuracy": [(s, 1 - 0.9 * math.exp(-s / 40)) for s in range(0, 301, 10)],
        },
        "seconds": {"distilling": 9.4, "evaluating": 21.7}, "seconds_per_iteration": 0.0312, "peak_memory_bytes": 412_000_000,
        "device": "cpu (2 threads)", "dataset_digest": info.digest, "code_revision": "0123abc",
        "versions": {"python": "3.11", "torch": "2.13.0"}, "warnings": ("the real batch was clipped to 131 images per class",),
    }
    return Outcome(**(values | fields))


@pytest.fixture(scope="session")
def digits() -> Outcome:
    """Ten classes of 3 grey 8x8 digits."""
    return outcome_of(spec_for("digits", 3), dataset_info("digits"), digit_images(3))


@pytest.fixture(scope="session")
def single() -> Outcome:
    """One grey digit of each class."""
    return outcome_of(spec_for("digits", 1), dataset_info("digits"), digit_images(1))


@pytest.fixture(scope="session")
def colour() -> Outcome:
    """Ten classes of 2 colour images with the class names of CIFAR-10."""
    return outcome_of(spec_for("cifar10", 2), dataset_info("cifar10"), colour_images(10, 2, 32))


@pytest.fixture(scope="session")
def hundred() -> Outcome:
    """A hundred classes of 12 small colour images."""
    info = dataset_info("cifar10").model_copy(
        update={
            "name": "cifar10", "title": "A hundred classes", "height": 16, "width": 16,
            "classes": tuple(f"class number {i}" for i in range(100)),
            "train_per_class": (500,) * 100, "test_per_class": (100,) * 100,
        }
    )
    return outcome_of(spec_for("cifar10", 12), info, colour_images(100, 12, 16))


@pytest.fixture(scope="session")
def paper() -> Outcome:
    """A job at paper scale, whose accuracy the literature also gives."""
    return outcome_of(spec_for("cifar10", 10, scale="paper"), dataset_info("cifar10"), colour_images(10, 10, 32), warnings=())


@pytest.fixture(scope="session")
def learned(digits: Outcome) -> Outcome:
    """Digits with soft labels and a rate that were learned with them."""
    logits = np.random.default_rng(2).normal(size=(30, 10)).astype(np.float32)
    soft = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    spec = spec_for("digits", 3, recipe="datm")
    return dataclasses.replace(digits, spec=spec, soft_labels=soft.astype(np.float32), learned_rate=0.0123)


@pytest.fixture(scope="session")
def whitened(digits: Outcome) -> Outcome:
    """Whitened digits."""
    import torch

    from core.data.preprocessing import Whitening

    originals = torch.from_numpy(digit_images(20))
    space = Whitening(originals, 0.1)
    images = space.of_bytes(originals[:30]) + 0.1
    pixels = (space.inverse(images) * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    what = Whitened(space.mean.numpy(), space.matrix.numpy(), pixels, originals[:30].numpy())
    method = {"preprocessing": {"kind": "zca"}}
    return dataclasses.replace(
        digits, spec=spec_for("digits", 3, method=method), images=images.numpy(), whitened=what, initial_images=images.numpy()
    )


@pytest.fixture(scope="session")
def compared(digits: Outcome) -> Outcome:
    """Digits beside every baseline, and on two further architectures."""
    drawn = (Score("mosaic", NETWORK, (0.71, 0.69, 0.7), num_sets=3),)
    coresets = tuple(Score(name, NETWORK, (0.6, 0.62, 0.58)) for name in ("herding", "k_center", "forgetting"))
    further = tuple(
        score
        for network in ("mlp width 128", "resnet18_dc batch norm average pool downsampling")
        for score in (Score("distilled", network, (0.8, 0.7)), Score("random", network, (0.5,)))
    )
    return dataclasses.replace(digits, scores=(*digits.scores, *drawn, *coresets, *further))


Write = Callable[[Outcome], Path]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Write an outcome once in a session; the folder of its files is for reading only."""
    done: dict[int, tuple[Outcome, Path]] = {}

    def write(outcome: Outcome) -> Path:
        if id(outcome) not in done:
            out = tmp_path_factory.mktemp("job") / "out"
            write_artifacts(outcome, out)
            done[id(outcome)] = outcome, out  # the outcome is kept, so that its id stays its own
        return done[id(outcome)][1]

    return write


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Hugging Face's `datasets`, offline and with its cache in a temporary folder."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HOME", str(cache))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reader's own imports are not under test
        import datasets
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return cache
