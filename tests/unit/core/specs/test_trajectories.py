"""Sizes, recipes, caps and estimates of trajectory matching, before anything is trained."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.catalogue import CATALOGUE, dataset_info
from core.errors import SpecError
from core.networks.build import build_network
from core.specs.estimate import estimate
from core.specs.experts import PoolSpec, RealTrainingSpec
from core.specs.fit import effective_side, smallest_side
from core.specs.init import CorrectlyClassifiedInitSpec, RandomInitSpec
from core.specs.job import DistillationSpec, JobRequest
from core.specs.models import ExpertSegmentsSpec
from core.specs.network import (
    AlexNetSpec,
    ConvNetSpec,
    DenseNetIDCSpec,
    LeNetSpec,
    MLPSpec,
    ResNet10IDCSpec,
    ResNet18DCSpec,
    ResNet18IDCSpec,
    VGG11Spec,
)
from core.specs.objective import TrajectorySpec
from core.specs.recipes import RECIPES
from core.specs.requirements import required_pools
from core.specs.resolve import resolve
from core.specs.synthetic import LearnedLabelsSpec
from core.specs.trajectories import num_parameters, pool_bytes, require_room, trajectory_bytes

pytestmark = pytest.mark.unit
NETWORKS = [
    ConvNetSpec(depth=2), ConvNetSpec(depth=3, norm="none", width=7), ConvNetSpec(pooling="none", depth=1), MLPSpec(),
    LeNetSpec(), AlexNetSpec(), AlexNetSpec(norm="instance"), VGG11Spec(), ResNet18DCSpec(), ResNet18DCSpec(norm="none"),
    ResNet18DCSpec(width=8, downsampling="average_pool"), ResNet10IDCSpec(norm="instance"), ResNet18IDCSpec(norm="none"),
]


def job(recipe: str, dataset: str = "cifar10", ipc: int = 10, **fields: Any) -> DistillationSpec:
    body = {"dataset": {"name": dataset}, "ipc": ipc, "recipe": recipe} | fields
    return resolve(JobRequest.model_validate_json(json.dumps(body)))


class TestSize:
    @pytest.mark.parametrize("network", NETWORKS, ids=str)
    @pytest.mark.parametrize("name", ["digits", "mnist", "cifar10", "tiny-imagenet"])
    def test_weights_are_counted_as_the_network_has_them(self, network: Any, name: str) -> None:
        info = CATALOGUE[name]
        if effective_side(network, info) >= smallest_side(network):
            assert num_parameters(network, info) == build_network(network, info).num_parameters

    @pytest.mark.parametrize("network", [ConvNetSpec(norm="batch"), DenseNetIDCSpec()], ids=str)
    def test_running_statistics_are_refused(self, network: Any) -> None:
        with pytest.raises(ValueError, match="running statistics"):
            num_parameters(network, dataset_info("cifar10"))

    def test_published_sizes(self) -> None:
        """65.3 MB for one CIFAR-10 expert with 51 snapshots, 174.9 MB on TinyImageNet (method reference 3.1)."""
        sizes = {name: trajectory_bytes(job("mtt", name), dataset_info(name)) / 100 for name in ("cifar10", "tiny-imagenet")}
        assert sizes["cifar10"] == 51 * 320_010 * 4
        assert sizes["tiny-imagenet"] == 51 * 857_160 * 4

    def test_pools_without_snapshots_take_none(self) -> None:
        pool = PoolSpec(network=ConvNetSpec(), num_networks=3, training=RealTrainingSpec(num_epochs=5))
        assert pool_bytes(pool, dataset_info("cifar10")) == 0
        assert trajectory_bytes(job("dsdm"), dataset_info("cifar10")) == 0

    def test_more_than_the_limit_is_refused(self) -> None:
        spec, info = job("mtt"), dataset_info("cifar10")
        needed = trajectory_bytes(spec, info)
        require_room(spec, info, needed)
        with pytest.raises(SpecError, match="lower num_networks") as caught:
            require_room(spec, info, needed - 1)
        assert caught.value.problems[0].pointer == "/method/models"
        assert f"{needed:,}" in str(caught.value)


class TestRecipes:
    def test_mtt_row(self) -> None:
        method = job("mtt").method
        assert method.objective == TrajectorySpec(num_steps=30, lr_net=0.001)
        assert isinstance(method.models, ExpertSegmentsSpec)
        assert (method.models.num_networks, method.models.training.num_epochs) == (100, 50)
        assert (method.models.span_epochs, method.models.max_start_epoch) == (2, 20)
        training = method.models.training
        assert (training.lr_net, training.momentum, training.weight_decay, training.batch_size) == (0.01, 0.0, 0.0, 256)
        assert (method.optimizer.lr_img, method.optimizer.lr_rate, method.optimizer.momentum) == (100.0, 1e-5, 0.5)
        assert method.num_iterations == 5000
        assert method.preprocessing.kind == "zca"

    def test_tesla_is_frozen_at_half_the_printed_rate(self) -> None:
        method = job("tesla", ipc=1).method
        assert isinstance(method.objective, TrajectorySpec)
        assert method.objective.gradient_mode == "frozen_adjoint"
        assert method.optimizer.lr_img == 500.0
        assert method.num_iterations == 10_000

    def test_datm_row(self) -> None:
        spec = job("datm")
        models, method = spec.method.models, spec.method
        assert isinstance(models, ExpertSegmentsSpec)
        window = (models.min_start_epoch, models.initial_max_start_epoch, models.max_start_epoch, models.growth_iterations)
        assert window == (0, 10, 20, 1000)
        assert models.training.num_epochs == 100
        assert isinstance(method.objective, TrajectorySpec)
        assert (method.objective.num_steps, method.objective.batch_size, method.objective.max_loss) == (80, 100, 1.0)
        assert method.labels == LearnedLabelsSpec()
        assert method.init == CorrectlyClassifiedInitSpec()
        assert (method.optimizer.lr_label, method.optimizer.label_momentum) == (2.0, 0.9)
        assert job("datm", "cifar100", 50).method.init == RandomInitSpec()

    @pytest.mark.parametrize("recipe", ["mtt", "tesla", "datm"])
    def test_sets_without_rows_are_not_whitened(self, recipe: str) -> None:
        for name in ("mnist", "fashion-mnist", "svhn", "digits"):
            assert job(recipe, name).method.preprocessing.kind == "standardise"

    @pytest.mark.parametrize("recipe", ["mtt", "tesla", "datm"])
    @pytest.mark.parametrize("ipc", [1, 10, 50])
    def test_small_caps(self, recipe: str, ipc: int) -> None:
        """5 experts of 8 epochs, which the recipes share as far as their training is the same, and 10 steps."""
        spec = job(recipe, "fashion-mnist", ipc, scale="small")
        models, objective = spec.method.models, spec.method.objective
        assert isinstance(models, ExpertSegmentsSpec)
        assert isinstance(objective, TrajectorySpec)
        assert (models.num_networks, models.training.num_epochs, objective.num_steps) == (5, 8, 10)
        assert objective.batch_size <= 40
        assert (spec.method.num_iterations, models.span_epochs) == (250, 1)
        assert required_pools(spec) == required_pools(job("mtt", "fashion-mnist", ipc, scale="small"))
        paper = RECIPES[recipe].build(dataset_info("fashion-mnist"), ipc).method
        assert spec.method.optimizer.lr_img == min(1000.0, paper.optimizer.lr_img)
        seconds = {phase.phase: phase.seconds for phase in estimate(spec, dataset_info("fashion-mnist")).phases}
        assert seconds["distilling"] < 240

    def test_protocol_trains_at_the_learned_rate(self) -> None:
        assert job("mtt").evaluation.use_learned_rate
        assert job("datm").evaluation.batch_size == 128
        assert job("mtt").evaluation.protocol == "mtt"


class TestEstimate:
    def test_counts_trajectories(self) -> None:
        info = dataset_info("cifar10")
        assert estimate(job("mtt"), info).trajectory_bytes == 100 * 51 * 320_010 * 4
        assert estimate(job("dm"), info).trajectory_bytes == 0

    def test_memory_stays_flat_in_the_steps_but_for_the_weights(self) -> None:
        info = dataset_info("cifar100")

        def memory(steps: int, mode: str) -> int:
            objective = {"num_steps": steps, "gradient_mode": mode}
            return estimate(job("mtt", "cifar100", 10, method={"objective": objective}), info).peak_memory_bytes

        assert memory(40, "adjoint") - memory(20, "adjoint") == 20 * 504_420 * 4
        assert memory(40, "unrolled") - memory(20, "unrolled") > 50 * (memory(40, "adjoint") - memory(20, "adjoint"))

    def test_a_step_costs_by_its_batch(self) -> None:
        info = dataset_info("cifar100")

        def seconds(size: int) -> float:
            spec = job("mtt", "cifar100", 10, method={"objective": {"batch_size": size}}, resources={"gpus": 0})
            return estimate(spec, info).phases[1].seconds

        assert seconds(0) == seconds(5000) > 5 * seconds(100)
