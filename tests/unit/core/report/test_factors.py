"""A factorized set's download: bases and hallucinators, and a program that makes the very images of them."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from core.catalogue import dataset_info
from core.data.real_set import RealSet
from core.distillation.distil import distil
from core.experts import TrainedHere
from core.report.build import FACTORED, TABLE, write_artifacts
from core.report.decode_factors import decode, hallucinate
from core.report.outcome import Outcome
from tests.unit.core.report.conftest import digit_images, outcome_of

pytestmark = pytest.mark.unit
BASES, HALLUCINATORS = 2, 3


@pytest.fixture(scope="module")
def factorized(digits_dir: Path, small_spec: Any) -> Outcome:
    """Two bases of each digit through three hallucinators, after four iterations."""
    info = dataset_info("digits")
    data = RealSet.load(digits_dir, info, device=torch.device("cpu"))
    parameterization = {"kind": "bases_hallucinators", "num_bases_per_class": BASES, "num_hallucinators": HALLUCINATORS}
    spec = small_spec(method={"parameterization": parameterization, "optimizer": {"lr_img": 0.1, "lr_hallucinator": 1e-4}})
    result = distil(spec, data, TrainedHere(data))
    return outcome_of(
        spec, info, digit_images(BASES), images=result.images.numpy(), labels=result.labels.numpy(),
        initial_images=result.initial.numpy(), storage=result.storage,
        factors={name: tensor.numpy() for name, tensor in result.factors.items()},
        variants=result.engine.parts.parameterization.num_variants,
    )


@pytest.fixture(scope="module")
def out(factorized: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("factors") / "out"
    lines = write_artifacts(factorized, folder)
    assert [line.name for line in lines] == list(TABLE)
    assert {path.name for path in folder.iterdir()} == set(TABLE)
    return folder


class TestRoundTrip:
    def test_factors_make_the_decoded_images(self, out: Path) -> None:
        images, labels = decode(load_file(out / "factors.safetensors"))
        data = load_file(out / "data.safetensors")
        assert images.dtype == np.float32
        assert images.shape == (10 * BASES * HALLUCINATORS, 1, 8, 8)
        np.testing.assert_allclose(images, data["images"], rtol=0, atol=2e-6)
        assert np.array_equal(labels, data["labels"])

    def test_any_basis_goes_through_any_hallucinator(self, out: Path) -> None:
        factors = load_file(out / "factors.safetensors")
        one = hallucinate(factors["bases"][5:6], 2, factors)
        np.testing.assert_allclose(one[0], load_file(out / "data.safetensors")["images"][5 * HALLUCINATORS + 2], atol=2e-6)

    def test_the_program_runs_alone(self, out: Path, tmp_path: Path) -> None:
        program = [sys.executable, "-I", str(out / "decode_factors.py"), str(out / "factors.safetensors"), "images.npz"]
        subprocess.run(program, check=True, cwd=tmp_path)
        made = np.load(tmp_path / "images.npz")
        np.testing.assert_allclose(made["images"], load_file(out / "data.safetensors")["images"], rtol=0, atol=2e-6)

    def test_factors_are_what_is_stored(self, factorized: Outcome, out: Path) -> None:
        factors = load_file(out / "factors.safetensors")
        labels = factors.pop("labels")
        assert labels.tolist() == [label for label in range(10) for _ in range(BASES)]
        assert sum(value.size for value in factors.values()) == sum(factorized.storage.values())


class TestReport:
    def test_says_what_is_stored_and_what_an_epoch_shows(self, out: Path) -> None:
        report = json.loads((out / "report.json").read_text())
        hallucinator = 10 + 2 * 36 + 10
        stored = {"bases": 10 * BASES * 64, "hallucinators": HALLUCINATORS * hallucinator}
        assert report["budget"]["stored_by_kind"] == stored
        assert report["budget"]["over_budget"] is True  # two bases of each class alone are the budget of ipc 2
        assert (report["size"]["decoded_images"], report["size"]["images_per_epoch"]) == (60, 20)
        assert report["size"]["stored_images"] == round(sum(stored.values()) / 64, 2)
        assert "factors.safetensors" in report["files"]
        page = (out / "report.html").read_text()
        assert "an epoch shows 20, one of each 3 that stand for one another" in page
        assert "more than the 1,280 its budget allows" in page
        assert "a budget of 2 images per class" in page
        assert "20 bases through 3 hallucinators that all classes share" in page

    def test_the_program_of_the_page_makes_the_images(
        self, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = re.findall(r'<pre class="load" data-form="(\w+)">(.*?)</pre>', (out / "report.html").read_text(), re.DOTALL)
        assert [form for form, _ in found] == ["parquet", "safetensors", "folder", "factors"]
        shutil.copytree(out, tmp_path / "out")
        monkeypatch.chdir(tmp_path / "out")
        monkeypatch.syspath_prepend(tmp_path / "out")
        names: dict[str, Any] = {}
        exec(html.unescape(found[-1][1]), names)
        data = load_file(out / "data.safetensors")
        np.testing.assert_allclose(names["images"], data["images"], rtol=0, atol=2e-6)
        assert np.array_equal(names["labels"], data["labels"])

    def test_manifest_says_how_to_decode(self, out: Path) -> None:
        manifest = json.loads((out / "manifest.json").read_text())
        assert "decode_factors.py" in manifest["preprocessing"]["factors.safetensors"]
        assert set(FACTORED) <= set(manifest["files"])

    def test_sets_of_plain_images_have_no_factors(self, digits: Outcome, written: Any) -> None:
        folder = written(digits)
        assert not any((folder / name).exists() for name in FACTORED)
        assert "factors.safetensors" not in json.loads((folder / "manifest.json").read_text())["preprocessing"]
