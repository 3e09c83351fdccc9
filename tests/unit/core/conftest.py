"""Digits as a real set, and resolved specifications small enough for a unit test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.specs.job import DistillationSpec, JobRequest
from core.specs.merge import merge
from core.specs.resolve import resolve

SpecFactory = Callable[..., DistillationSpec]


@pytest.fixture(scope="session")
def small_spec() -> SpecFactory:
    base: dict[str, Any] = {
        "dataset": {"name": "digits"}, "ipc": 2, "recipe": "dm",
        "method": {"network": {"width": 8}, "selection": {"real_batch_per_class": 6}, "num_iterations": 4},
        "evaluation": {"num_eval": 2, "num_epochs": 2, "random_draws": 1},
    }

    def make(**fields: Any) -> DistillationSpec:
        return resolve(JobRequest.model_validate_json(json.dumps(merge(base, fields))))

    return make


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from core.data.prepare import prepare

    folder = tmp_path_factory.mktemp("canonical") / "digits"
    prepare("digits", Path("/nowhere"), folder)
    return folder


@pytest.fixture(scope="session")
def digits(digits_dir: Path) -> Any:
    import torch

    from core.catalogue import dataset_info
    from core.data.real_set import RealSet

    return RealSet.load(digits_dir, dataset_info("digits"), device=torch.device("cpu"))
