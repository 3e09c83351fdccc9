from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core import experts as module
from core.data.real_set import RealSet
from core.errors import InvalidInputError
from core.experts import FromFiles, Pool, TrainedHere, load_pool, save_pool, train_pool
from core.networks.network import Forward
from core.progress import Hooks, Stopped
from core.run_experts import _Keeper
from core.specs.augmentation import DSASpec
from core.specs.experts import PoolSpec, RealTrainingSpec
from core.specs.network import ConvNetSpec
from core.specs.requirements import TRAINING_VERSION, pool_key

pytestmark = pytest.mark.unit
TRAINING = RealTrainingSpec(num_epochs=2, lr_net=0.1, augmentation=DSASpec(strategy=("crop",)))
SPEC = PoolSpec(network=ConvNetSpec(width=4, depth=1, norm="batch"), num_networks=2, training=TRAINING, count_forgetting=True)


@pytest.fixture(scope="module")
def pool(digits: RealSet) -> Pool:
    return train_pool(SPEC, digits)


def with_fields(**fields: Any) -> PoolSpec:
    return SPEC.model_copy(update=fields)


class TestTrainPool:
    def test_what_it_holds(self, pool: Pool, digits: RealSet) -> None:
        assert pool.params.shape == (2, pool.net.num_parameters)
        assert not torch.equal(pool.params[0], pool.params[1])
        assert pool.accuracy.shape == (2,)
        assert (pool.accuracy > 0.2).all()
        assert {name: tuple(value.shape) for name, value in pool.buffers.items()} == {
            "blocks.0.norm.running_mean": (2, 4), "blocks.0.norm.running_var": (2, 4),
        }
        assert pool.forgetting is not None
        assert pool.forgetting.shape == digits.labels.shape
        assert 0 < int(pool.forgetting.max()) <= 2 * TRAINING.num_epochs

    def test_networks_know_the_data_in_evaluation_mode(self, pool: Pool, digits: RealSet) -> None:
        forward = Forward.on(digits.device, pool.net, compile_passes=False, training=False)
        buffers = {name: value[1] for name, value in pool.buffers.items()}
        logits = forward(pool.params[1], buffers, digits.normalise(digits.test_images), ("logits",))["logits"]
        assert float((logits.argmax(1) == digits.test_labels).float().mean()) > 0.4

    def test_a_network_depends_on_seed_and_index_alone(self, pool: Pool, digits: RealSet) -> None:
        alone = train_pool(with_fields(num_networks=1), digits)
        assert torch.equal(alone.params[0], pool.params[0])
        assert torch.equal(alone.accuracy[0], pool.accuracy[0])
        other = train_pool(with_fields(num_networks=1, pool_seed=1), digits)
        assert not torch.equal(other.params[0], pool.params[0])

    def test_without_epochs_networks_are_as_drawn(self, digits: RealSet) -> None:
        found = train_pool(with_fields(training=RealTrainingSpec(num_epochs=0), count_forgetting=False), digits)
        assert not found.accuracy.any()
        assert (found.buffers["blocks.0.norm.running_var"] == 1).all()
        assert found.forgetting is None

    def test_says_where_it_is_and_stops(self, digits: RealSet) -> None:
        class Watch(Hooks):
            said: list[tuple[int, int]] = []
            phases: list[tuple[str, int]] = []

            def phase(self, phase: Any, total_steps: int) -> None:
                self.phases.append((phase, total_steps))

            def progress(self, step: int, total: int, seconds: float | None = None, message: str = "") -> None:
                self.said.append((step, total))

            def should_stop(self) -> bool:
                return len(self.said) == 15

        hooks = Watch()
        with pytest.raises(Stopped):
            train_pool(SPEC, digits, hooks=hooks)
        total = 2 * 2 * -(-len(digits.labels) // 256)
        assert hooks.phases == [("training", total)]
        assert hooks.said == [(n, total) for n in range(1, 16)]


class TestFiles:
    def test_a_pool_comes_back_as_it_was(self, pool: Pool, digits: RealSet, tmp_path: Path) -> None:
        save_pool(pool, SPEC, tmp_path / "p.safetensors")
        found = load_pool(tmp_path / "p.safetensors", SPEC, digits)
        assert found.forgetting is not None
        assert pool.forgetting is not None
        assert torch.equal(found.params, pool.params)
        assert torch.equal(found.accuracy, pool.accuracy)
        assert torch.equal(found.forgetting, pool.forgetting)
        assert all(torch.equal(value, pool.buffers[name]) for name, value in found.buffers.items())
        assert found.buffers.keys() == pool.buffers.keys()

    def test_equal_pools_have_equal_bytes(self, pool: Pool, digits: RealSet, tmp_path: Path) -> None:
        for name, one in (("a", pool), ("b", train_pool(SPEC, digits))):
            save_pool(one, SPEC, tmp_path / name)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"pool_seed": 1}, "has pool"), ({"num_networks": 3}, "has pool"),
            ({"training": RealTrainingSpec(num_epochs=3)}, "has pool"),
            ({"network": ConvNetSpec(width=5, depth=1, norm="batch")}, "has pool"),
        ],
    )
    def test_another_specification_is_refused(
        self, pool: Pool, digits: RealSet, tmp_path: Path, fields: Any, message: str
    ) -> None:
        save_pool(pool, SPEC, tmp_path / "p")
        with pytest.raises(InvalidInputError, match=message):
            load_pool(tmp_path / "p", with_fields(**fields), digits)

    def test_another_version_is_refused(
        self, pool: Pool, digits: RealSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_pool(pool, SPEC, tmp_path / "p")
        monkeypatch.setattr(module, "TRAINING_VERSION", 99)
        with pytest.raises(InvalidInputError, match=rf"training_version {TRAINING_VERSION}, wanted is 99"):
            load_pool(tmp_path / "p", SPEC, digits)

    def test_tensors_that_do_not_fit_are_refused(self, pool: Pool, digits: RealSet, tmp_path: Path) -> None:
        save_pool(dataclasses.replace(pool, forgetting=torch.zeros(3, dtype=torch.int64), buffers={}), SPEC, tmp_path / "p")
        with pytest.raises(InvalidInputError, match=r"running_mean.*forgetting"):
            load_pool(tmp_path / "p", SPEC, digits)

    def test_other_files_are_refused(self, digits: RealSet, tmp_path: Path) -> None:
        (tmp_path / "garbage").write_bytes(b"no safetensors")
        save_file({"x": torch.zeros(1)}, tmp_path / "foreign")
        for name, message in (("garbage", "cannot be read"), ("foreign", "has format None"), ("absent", "cannot be read")):
            with pytest.raises(InvalidInputError, match=message):
                load_pool(tmp_path / name, SPEC, digits)


class TestSources:
    def test_trained_here_trains_once(self, digits: RealSet, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[PoolSpec] = []

        def train(spec: PoolSpec, data: RealSet, *, hooks: Any = None) -> Any:
            asked.append(spec)
            return object()

        monkeypatch.setattr(module, "train_pool", train)
        source = TrainedHere(digits)
        assert source.pool(SPEC) is source.pool(with_fields())
        assert source.pool(with_fields(pool_seed=1)) is not source.pool(SPEC)
        assert len(asked) == 2

    def test_files_are_found_by_their_key(self, pool: Pool, digits: RealSet, small_spec: Any, tmp_path: Path) -> None:
        job = small_spec()
        key = pool_key(SPEC, job.dataset, digits.info.identity, seed=job.seed)
        source = FromFiles(tmp_path, job, digits)
        with pytest.raises(InvalidInputError, match=key):
            source.pool(SPEC)
        save_pool(pool, SPEC, tmp_path / f"{key}.safetensors")
        found = source.pool(SPEC)
        assert torch.equal(found.params, pool.params)
        assert source.pool(SPEC) is found
        assert set(load_file(tmp_path / f"{key}.safetensors")) == {
            "params", "accuracy", "forgetting", "buffers/blocks.0.norm.running_mean", "buffers/blocks.0.norm.running_var",
        }


class TestCheckpoints:
    def test_few_are_kept_for_each_holds_the_networks_before_it(self, pool: Pool, tmp_path: Path) -> None:
        announced: list[tuple[int, Path]] = []
        attempt: Any = SimpleNamespace(
            folder=tmp_path, file=SimpleNamespace(checkpoint_seconds=0.0),
            announce_checkpoint=lambda step, path: announced.append((step, path)),
        )
        keeper = _Keeper(attempt, SimpleNamespace(pool=SPEC))  # type: ignore[arg-type]
        for count in range(1, 6):
            copies = Pool(pool.net, pool.params[:1].repeat(count, 1), pool.accuracy[:1].repeat(count))
            keeper.take(lambda copies=copies: copies)  # type: ignore[misc]
        assert [step for step, _ in announced] == [1, 2, 3, 4, 5]
        assert sorted((tmp_path / "checkpoints").iterdir()) == [path for _, path in announced[-3:]]
