"""Standardised and whitened network space, and the way back."""

from __future__ import annotations

import gc
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from core.catalogue import dataset_info
from core.data.preprocessing import Standardisation, Whitening, preprocessing_of
from core.data.real_set import RealSet
from core.distillation.build import build
from core.distillation.distil import distil
from core.distillation.parameterizations.space import space_of
from core.experts import TrainedHere
from core.shared_files import hold
from core.specs.preprocessing import StandardiseSpec, ZCASpec
from core.specs.requirements import pool_key, required_pools
from tests.unit.core.distillation.real_sets import real_set

pytestmark = pytest.mark.unit
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whitened(digits_dir: Path) -> RealSet:
    return RealSet.load(digits_dir, dataset_info("digits"), device=CPU, preprocessing=ZCASpec())


class TestWhitening:
    def test_equals_the_published_formula(self) -> None:
        data = real_set((30, 20), (3, 4, 4))
        space = Whitening(data.images, 0.1)
        x = data.images.flatten(1).double() / 255
        mean = x.mean(0)
        u, s, _ = torch.linalg.svd((x - mean).T @ (x - mean) / 49)
        wanted = (x - mean) @ (u @ torch.diag((s + 0.1).rsqrt()) @ u.T)
        torch.testing.assert_close(space.of_bytes(data.images).flatten(1).double(), wanted, rtol=0, atol=1e-5)

    def test_the_next_job_finds_the_fit(self, digits_dir: Path, tmp_path: Path) -> None:
        folder = tmp_path / "digits"
        shutil.copytree(digits_dir, folder)

        def load(**changes: Any) -> Whitening:
            given = {"device": CPU, "preprocessing": ZCASpec()} | changes
            space = RealSet.load(folder, dataset_info("digits"), **given).space
            assert isinstance(space, Whitening)
            return space

        def fits() -> list[Path]:
            return sorted(folder.glob("zca-*.safetensors"))

        first = load()
        (file,) = fits()
        marked = {name: array + 1 for name, array in first.arrays.items()}
        save_file(marked, file)
        assert all(torch.equal(array, marked[name]) for name, array in load().arrays.items()), "read, not fitted again"
        load(preprocessing=ZCASpec(epsilon=0.2))
        load(seed=1, held_out_fraction=0.1)
        load(seed=2, held_out_fraction=0.1)
        assert len(fits()) == 4
        load(seed=3)  # without held-out images the seed changes nothing
        assert len(fits()) == 4
        file.write_bytes(b"cut off")
        assert all(torch.equal(array, first.arrays[name]) for name, array in load().arrays.items())
        assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []

    def test_a_fit_is_held_and_marked_as_used_by_whoever_reads_it(self, tmp_path: Path) -> None:
        """So that a worker that makes room can tell which may go."""
        images, file = real_set((30, 20), (3, 4, 4)).images, tmp_path / "zca-1.safetensors"
        info = dataset_info("cifar10")
        preprocessing_of(ZCASpec(), info, images, file)
        os.utime(file, (1, 1))
        os.close(hold(file, alone=True))  # whoever has made it does not read the file
        found = preprocessing_of(ZCASpec(), info, images, file)
        assert file.stat().st_mtime > 1
        with pytest.raises(BlockingIOError):
            hold(file, alone=True)
        del found
        gc.collect()
        descriptor = hold(file, alone=True)  # as a worker that is just removing it
        again = preprocessing_of(ZCASpec(), info, images, file)
        assert isinstance(again, Whitening)
        os.close(descriptor)

    def test_a_fit_that_cannot_be_kept_is_used_all_the_same(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        images = real_set((30, 20), (3, 4, 4)).images
        space = preprocessing_of(ZCASpec(), dataset_info("cifar10"), images, tmp_path / "nothing" / "zca-1.safetensors")
        assert isinstance(space, Whitening)
        assert "is not kept" in caplog.text

    def test_what_varies_much_becomes_white(self, digits: RealSet) -> None:
        space = Whitening(digits.images, 1e-9)
        flat = space.of_bytes(digits.images).flatten(1).double()
        spread = torch.cov(flat.T).diagonal()
        assert float(flat.mean(0).abs().max()) < 1e-3
        varied = digits.images.flatten(1).double().std(0) > 20
        torch.testing.assert_close(spread[varied], torch.ones_like(spread[varied]), rtol=0, atol=0.02)

    def test_there_and_back(self, whitened: RealSet) -> None:
        images = whitened.test_images
        assert torch.equal(whitened.to_8bit(whitened.normalise(images)), images)
        unit = images.float() / 255
        assert float((whitened.space.inverse(whitened.space.forward(unit)) - unit).abs().max()) < 1e-3

    def test_is_fitted_on_training_images_alone(self, whitened: RealSet, digits_dir: Path) -> None:
        space = whitened.space
        assert isinstance(space, Whitening)
        other = Whitening(torch.cat([whitened.images, whitened.test_images]), 0.1)
        assert torch.equal(space.matrix, Whitening(whitened.images, 0.1).matrix)
        assert not torch.equal(space.matrix, other.matrix)
        held_out = RealSet.load(
            digits_dir, dataset_info("digits"), device=CPU, held_out_fraction=0.3, preprocessing=ZCASpec()
        ).space
        assert isinstance(held_out, Whitening)
        assert not torch.equal(space.matrix, held_out.matrix)

    def test_keeps_any_shape_of_batch(self, whitened: RealSet) -> None:
        index = torch.tensor([[3, 700, 9], [5, 1, 2]])
        found = whitened.gather(index)
        assert found.shape == (2, 3, 1, 8, 8)
        torch.testing.assert_close(found[1, 2], whitened.gather(torch.tensor([2]))[0])


class TestStandardisation:
    def test_there_and_back(self) -> None:
        data = real_set((5, 5), (3, 4, 4))
        assert isinstance(data.space, Standardisation)
        unit = torch.rand(2, 3, 4, 4)
        torch.testing.assert_close(data.space.inverse(data.space.forward(unit)), unit)
        torch.testing.assert_close(data.space.of_bytes(data.images), data.space.forward(data.images.float() / 255))


@pytest.mark.parametrize("kind", ["normalised", "unit"])
def test_pixel_spaces_lead_back_to_network_space(kind: Any, whitened: RealSet) -> None:
    space, images = space_of(kind, whitened), whitened.gather(torch.arange(4))
    torch.testing.assert_close(space.decode(space.encode(images)), images, rtol=0, atol=1e-4)


class TestPools:
    def test_networks_on_whitened_images_have_a_key_of_their_own(self, small_spec: Any) -> None:
        plain, white = (
            small_spec(recipe="mtt", method={"network": {"depth": 1}, "preprocessing": {"kind": kind}})
            for kind in ("standardise", "zca")
        )
        pools = [required_pools(spec)[0] for spec in (plain, white)]
        assert [pool.preprocessing for pool in pools] == [StandardiseSpec(), ZCASpec()]
        assert "preprocessing" not in json.loads(pools[0].model_dump_json())
        keys = {pool_key(pool, plain.dataset, "digest", seed=0) for pool in pools}
        assert len(keys) == 2

    def test_a_whitened_set_is_distilled_with_experts_on_whitened_images(self, small_spec: Any, whitened: RealSet) -> None:
        training = {"num_epochs": 1}
        models = {"kind": "expert_segments", "num_networks": 1, "span_epochs": 1, "max_start_epoch": 1, "training": training}
        spec = small_spec(method={
            "preprocessing": {"kind": "zca"}, "models": models, "objective": {"kind": "trajectory", "num_steps": 2},
            "labels": {"kind": "learned"}, "parameterization": {"kind": "multi_formation", "factor": 2, "space": "unit"},
        })
        experts = TrainedHere(whitened)
        assert distil(spec, whitened, experts).images.isfinite().all()
        (trained,) = experts._pools
        assert trained.preprocessing == ZCASpec()
        assert trained in required_pools(spec)
        build(spec, whitened, experts)
        assert len(experts._pools) == 1

    def test_another_preprocessing_than_the_specifications_is_refused(self, small_spec: Any, whitened: RealSet) -> None:
        with pytest.raises(ValueError, match="the real set has ZCASpec"):
            build(small_spec(), whitened, TrainedHere(whitened))
