"""Recipes of the gradient-matching family: the published tables, and what the small scale makes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from core.catalogue import CATALOGUE
from core.specs.augmentation import DSASpec, IDCAugmentationSpec, NoAugmentationSpec
from core.specs.estimate import estimate
from core.specs.estimate.memory import GRADIENT_VECTORS, GRAPH_COPIES, SECOND_ORDER
from core.specs.evaluation import dc_protocol
from core.specs.init import KMeansInitSpec, NoiseInitSpec, RandomInitSpec
from core.specs.job import DistillationSpec, JobRequest
from core.specs.methods.distribution_matching import SWEEP
from core.specs.models import TrainedOnRealSpec, TrainedOnSyntheticSpec
from core.specs.network import ConvNetSpec
from core.specs.objective import GradientSpec
from core.specs.resolve import resolve
from core.specs.selection import RepresentativeSpec
from core.specs.synthetic import MultiFormationSpec, SGDSpec
from core.specs.trajectories import num_parameters

pytestmark = pytest.mark.unit


def spec(recipe: str, ipc: int = 10, name: str = "cifar10", **fields: Any) -> DistillationSpec:
    return resolve(JobRequest.model_validate_json(json.dumps(
        {"dataset": {"name": name}, "ipc": ipc, "recipe": recipe} | fields
    )))


class TestDC:
    @pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "svhn", "cifar10", "cifar100", "tiny-imagenet", "digits"])
    @pytest.mark.parametrize(("ipc", "steps", "epochs"), [(1, 1, 1), (10, 10, 50), (50, 50, 10)])
    def test_loops_follow_from_ipc(self, name: str, ipc: int, steps: int, epochs: int) -> None:
        method = spec("dc", ipc, name).method
        assert method.models == TrainedOnSyntheticSpec(steps_per_network=steps, num_epochs=epochs)
        assert method.num_networks == 1000
        assert method.optimizer == SGDSpec(lr_img=0.1, momentum=0.5)

    @pytest.mark.parametrize(("ipc", "steps"), [(2, 1), (14, 10), (15, 20), (25, 30), (1000, 50)])
    def test_other_ipc_take_the_nearest(self, ipc: int, steps: int) -> None:
        models = spec("dc", ipc).method.models
        assert isinstance(models, TrainedOnSyntheticSpec)
        assert models.steps_per_network == steps

    def test_each_method_changes_what_its_paper_changed(self) -> None:
        methods = {name: spec(name) for name in ("dc", "dsa", "dcc", "dsac")}
        assert isinstance(methods["dc"].method.init, NoiseInitSpec)
        assert all(isinstance(methods[name].method.init, RandomInitSpec) for name in ("dsa", "dcc", "dsac"))
        assert all(isinstance(methods[name].method.augmentation, NoAugmentationSpec) for name in ("dc", "dcc"))
        assert all(isinstance(methods[name].method.augmentation, DSASpec) for name in ("dsa", "dsac"))
        assert [methods[name].evaluation.protocol for name in methods] == ["dc", "dm", "dc", "dm"]
        groupings = [m.method.objective.grouping for m in methods.values() if isinstance(m.method.objective, GradientSpec)]
        assert groupings == ["per_class", "per_class", "summed", "summed"]

    def test_dcc_takes_ten_steps_at_ipc_1(self) -> None:
        assert spec("dcc", 1).method.models == TrainedOnSyntheticSpec(steps_per_network=10, num_epochs=5)
        assert spec("dcc", 10).method.models == spec("dc", 10).method.models

    def test_protocol(self) -> None:
        found = dc_protocol(CATALOGUE["cifar10"], ConvNetSpec())
        assert (found.num_epochs, found.batch_size, found.lr_net, found.schedule) == (300, 256, 0.01, "one_drop")
        assert found.augmentation == NoAugmentationSpec()


class TestIDC:
    @pytest.mark.parametrize(
        ("name", "ipc", "distance", "printed", "num_images"),
        [
            ("cifar10", 1, "squared", 5e-4, 2000), ("cifar10", 10, "squared", 5e-3, 2000),
            ("cifar10", 50, "squared", 2.5e-2, 2000), ("cifar100", 10, "squared", 5e-3, 2000),
            ("svhn", 10, "squared", 5e-3, 500), ("mnist", 10, "absolute", 1e-4, 500),
            ("fashion-mnist", 10, "absolute", 0.765625e-4, 500), ("tiny-imagenet", 50, "squared", 1e-6 * 5 * 4, 1000),
        ],
    )
    def test_rates_are_those_of_the_joint_step(
        self, name: str, ipc: int, distance: str, printed: float, num_images: int
    ) -> None:
        method = spec("idc", ipc, name).method
        assert isinstance(method.objective, GradientSpec)
        assert isinstance(method.models, TrainedOnRealSpec)
        assert (method.objective.distance, method.objective.parameters) == (distance, "convolutions")
        assert method.optimizer.lr_img == pytest.approx(2 * printed)
        assert method.optimizer.momentum == 0
        assert (method.models.num_images, method.models.steps_per_network) == (num_images, 100)
        assert isinstance(method.parameterization, MultiFormationSpec)
        assert (method.parameterization.space, method.parameterization.max_per_class) == ("unit", 128)

    def test_mnist_is_neither_cut_nor_mixed(self) -> None:
        plain, mnist = spec("idc").method, spec("idc", name="mnist").method
        assert isinstance(plain.models, TrainedOnRealSpec)
        assert isinstance(mnist.models, TrainedOnRealSpec)
        assert (plain.models.training.cutmix_probability, mnist.models.training.cutmix_probability) == (0.5, 0.0)
        assert plain.augmentation == IDCAugmentationSpec(strategy=("color", "crop", "cutout"))
        assert mnist.augmentation == mnist.models.training.augmentation == IDCAugmentationSpec(strategy=("color", "crop"))

    def test_a_class_by_class_sweep_with_momentum_is_the_joint_step_at_twice_the_rate(self) -> None:
        gradients = torch.randn(30, 10, 10, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        swept, velocity, joint = (torch.zeros(10, 4, dtype=torch.float64) for _ in range(3))
        for sweep in gradients:
            for label, of_class in enumerate(sweep.unbind(0)):
                alone = torch.zeros_like(swept)
                alone[label] = of_class[label]
                velocity = 0.5 * velocity + alone
                swept = swept - 0.1 * velocity
            joint = joint - 0.1 * SWEEP * torch.stack([sweep[label, label] for label in range(10)])
        settled = swept - 0.1 * velocity  # what the momentum of the last sweep still owes
        torch.testing.assert_close(settled, joint, rtol=1e-3, atol=1e-3)


class TestDREAM:
    def test_is_idc_on_medoids(self) -> None:
        dream, idc = spec("dream").method, spec("idc").method
        assert dream.selection == RepresentativeSpec(real_batch_per_class=128, refresh_every=10)
        assert isinstance(dream.init, KMeansInitSpec)
        assert isinstance(dream.models, TrainedOnRealSpec)
        assert isinstance(idc.models, TrainedOnRealSpec)
        assert (dream.models.training.batch_size, idc.models.training.batch_size) == (128, 64)
        assert dream.objective == idc.objective
        assert dream.optimizer == idc.optimizer

    def test_takes_half_on_tiny_imagenet(self) -> None:
        method = spec("dream", name="tiny-imagenet").method
        assert isinstance(method.models, TrainedOnRealSpec)
        assert (method.selection.real_batch_per_class, method.models.training.batch_size) == (64, 64)

    @pytest.mark.parametrize("base", ["dc", "dsa"])
    def test_on_others_leaves_the_rest_alone(self, base: str) -> None:
        changed = {"selection": RepresentativeSpec(), "init": KMeansInitSpec()}
        assert spec(f"{base}_dream").method == spec(base).method.model_copy(update=changed)


class TestSmallScale:
    @pytest.mark.parametrize("recipe", ["dc", "dsa", "dcc", "dsac", "idc", "dream", "dc_dream", "dsa_dream", "cafe"])
    @pytest.mark.parametrize("ipc", [1, 10, 50])
    def test_networks_serve_as_many_iterations_as_others_run(self, recipe: str, ipc: int) -> None:
        small = spec(recipe, ipc, "fashion-mnist", scale="small").method
        assert small.max_iterations == 300
        assert small.network == ConvNetSpec(width=32, depth=3)

    def test_gradients_see_fewer_images(self) -> None:
        small = spec("dream", scale="small")
        assert isinstance(small.method.parameterization, MultiFormationSpec)
        assert small.method.selection.real_batch_per_class == 32
        assert small.method.parameterization.max_per_class == 16
        assert "method.num_networks: 2000 -> 30" in small.capped
        assert "method.models.num_images: 2000 -> 128" in small.capped
        assert spec("m3d", scale="small").method.selection.real_batch_per_class == 64

    def test_nothing_starts_from_noise_unless_told(self) -> None:
        small = spec("dc", scale="small")
        assert (spec("dc").method.init, small.method.init) == (NoiseInitSpec(), RandomInitSpec())
        assert "method.init.kind: noise -> random" in small.capped
        assert spec("dc", scale="small", method={"init": {"kind": "noise"}}).method.init == NoiseInitSpec()
        assert not [note for note in spec("dsa", scale="small").capped if "init" in note]


class TestEstimate:
    def seconds(self, **method: Any) -> float:
        of_dm: dict[str, Any] = {"num_iterations": 1000, "models": {"kind": "fresh_random"}, "init": {"kind": "random"}}
        found = estimate(spec("dc", method=of_dm | method), CATALOGUE["cifar10"])
        return found.phases[1].seconds

    def test_gradients_cost_several_times_what_features_do(self) -> None:
        assert 3 < self.seconds() / self.seconds(objective={"kind": "mean_feature"}) < 5

    def test_training_between_the_steps_counts(self) -> None:
        plain, network = self.seconds(), {"kind": "trained_on_synthetic", "steps_per_network": 2, "num_epochs": 40}
        trained = self.seconds(models=network)
        assert trained > 1.2 * plain
        assert self.seconds(models=network | {"steps_per_network": 1}) == plain
        on_real = {"kind": "trained_on_real", "num_images": 0, "training": {"num_epochs": 0}}
        assert self.seconds(models=on_real) == plain
        assert self.seconds(models=on_real | {"num_images": 2000}) > 1.2 * plain
        assert self.seconds(models=on_real | {"training": {"num_epochs": 10}}) > 1.2 * plain

    def test_a_second_derivative_takes_memory(self) -> None:
        info = CATALOGUE["cifar10"]
        gradients, features = (estimate(spec(name, 1), info).peak_memory_bytes for name in ("dc", "dm"))
        graphs = (SECOND_ORDER - 1.0) * GRAPH_COPIES * 128 * (1024 + 256 + 64)
        weights = GRADIENT_VECTORS * num_parameters(spec("dc", 1).method.network, info)
        assert gradients - features == 4 * 10 * (graphs + weights)
