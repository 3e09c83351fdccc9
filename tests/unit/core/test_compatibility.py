"""Combinations that mean nothing are refused with a message that names both fields; their neighbours are not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.catalogue import CATALOGUE, DatasetInfo
from core.errors import SpecError
from core.specs.estimate import estimate
from core.specs.job import JobRequest
from core.specs.recipes import RECIPES
from core.specs.requirements import pool_key, required_experts, required_pools
from core.specs.resolve import resolve

pytestmark = pytest.mark.unit

QUEUE = {"kind": "growing_queue"}
UNTRAINED = {"kind": "pretrained_pool", "training": {"num_epochs": 0}}
POOL = {"kind": "pretrained_pool", "training": {"num_epochs": 1}}
PACKED = {"kind": "multi_formation"}
SPREAD = {"kind": "class_centralization", "network": {"kind": "convnet", "depth": 1}}
PIECES = {"objective": {"kind": "trajectory"}, "models": {"kind": "expert_segments"}}
REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str, tuple[str, ...]]] = [
    ("spread at ipc 1", {"terms": [{"kind": "class_centralization"}]}, {"ipc": 1}, "/method/terms/0",
     ("class_centralization", "ipc is 1", "pixels")),
    ("local covariance at ipc 1", {"terms": [{"kind": "local_covariance"}]}, {"ipc": 1}, "/method/terms/0",
     ("local_covariance", "ipc is 1")),
    ("covariance at ipc 1", {"objective": {"kind": "gaussian"}}, {"ipc": 1}, "/method/objective/covariance_weight",
     ("covariance_weight", "ipc is 1")),
    ("regulariser without accuracy", {"terms": [{"kind": "classification_regulariser"}]}, {}, "/method/terms/0",
     ("classification_regulariser", "fresh_random")),
    ("regulariser on untrained networks", {"terms": [{"kind": "classification_regulariser"}], "models": UNTRAINED}, {},
     "/method/models/training/num_epochs", ("classification_regulariser", "models.training.num_epochs")),
    ("regulariser on a queue that is not trained",
     {"terms": [{"kind": "classification_regulariser"}], "models": {"kind": "growing_queue", "num_trained": 0}}, {},
     "/method/models/num_trained", ("classification_regulariser", "models.num_trained")),
    ("forgetting without training", {"init": {"kind": "forgetting", "training": {"num_epochs": 0}}}, {},
     "/method/init/training/num_epochs", ("forgetting", "init.training.num_epochs")),
    ("layers of an mlp", {"objective": {"kind": "layerwise_feature"}, "network": {"kind": "mlp"}}, {}, "/method/objective",
     ("layerwise_feature", "mlp")),
    ("map of an mlp", {"terms": [{"kind": "local_covariance"}], "network": {"kind": "mlp"}}, {}, "/method/terms/0",
     ("local_covariance", "mlp")),
    ("cells below a pixel", {"parameterization": {"kind": "multi_formation", "factor": 8, "axes": "both"}}, {"ipc": 3}, "/ipc",
     ("ipc 3", "factor 8")),
    ("forgetting baseline without training", {},
     {"evaluation": {"baselines": ["forgetting"], "baseline_training": {"num_epochs": 0}}},
     "/evaluation/baseline_training/num_epochs", ("forgetting", "baseline_training.num_epochs")),
    ("one image for a batch norm", {}, {"evaluation": {"batch_size": 19, "network": {"kind": "resnet10_idc"}}},
     "/evaluation/batch_size", ("batch_size 19", "20 images", "resnet10_idc")),
    ("one image for a batch norm on real images",
     {"terms": [{"kind": "class_centralization", "network": {"kind": "densenet_idc"},
                 "training": {"num_epochs": 1, "batch_size": 193}}]}, {},
     "/method/terms/0/training/batch_size", ("batch_size 193", "1352 images", "densenet_idc")),
    ("gradients of filters of an mlp",
     {"objective": {"kind": "gradient", "parameters": "convolutions"}, "network": {"kind": "mlp"}}, {},
     "/method/objective/parameters", ("objective.parameters 'convolutions'", "network 'mlp'")),
    ("rows of biases", {"objective": {"kind": "gradient", "parameters": "all"}}, {}, "/method/objective",
     ("distance 'row_cosine'", "parameters")),
    ("one synthetic image for a batch norm in the loop",
     {"network": {"kind": "resnet10_idc"}, "models": {"kind": "trained_on_synthetic", "batch_size": 19}}, {},
     "/method/models/batch_size", ("batch_size 19", "20 images", "resnet10_idc")),
    ("one real image for a batch norm in the loop",
     {"network": {"kind": "resnet10_idc"}, "models": {"kind": "trained_on_real", "num_images": 7, "training": {
         "num_epochs": 0, "batch_size": 1}}}, {},
     "/method/models/training/batch_size", ("batch_size 1 ", "7 images", "resnet10_idc")),
    ("more bases than a class has images",
     {"parameterization": {"kind": "bases_hallucinators", "num_bases_per_class": 140}}, {}, "/ipc",
     ("ipc 2", "num_bases_per_class 140", "131")),
    ("covariance of one basis at a time",
     {"objective": {"kind": "gaussian"}, "parameterization": {"kind": "bases_hallucinators", "num_bases_per_class": 1}}, {},
     "/method/objective/covariance_weight", ("covariance_weight", "bases_hallucinators")),
    ("a trajectory without pieces", {"objective": {"kind": "trajectory"}}, {}, "/method/models",
     ("'trajectory'", "'expert_segments'", "fresh_random")),
    ("pieces without a trajectory", {"models": {"kind": "expert_segments"}}, {}, "/method/models",
     ("'trajectory'", "'expert_segments'", "mean_feature")),
    ("pieces longer than the experts",
     PIECES | {"models": {"kind": "expert_segments", "max_start_epoch": 5, "training": {"num_epochs": 5}}}, {},
     "/method/models/max_start_epoch", ("max_start_epoch 5", "span_epochs 2", "6 epochs", "training.num_epochs is 5")),
    ("trajectories of batch norms", PIECES | {"network": {"kind": "convnet", "depth": 1, "norm": "batch"}}, {},
     "/method/network", ("'trajectory'", "'expert_segments'", "batch norm")),
    ("learned labels without experts", {"labels": {"kind": "learned"}}, {}, "/method/labels", ("'learned'", "fresh_random")),
    ("teacher labels without experts", {"labels": {"kind": "teacher"}, "models": QUEUE}, {}, "/method/labels",
     ("'teacher'", "growing_queue")),
    ("a start from experts without any", {"init": {"kind": "correctly_classified"}}, {}, "/method/init",
     ("'correctly_classified'", "fresh_random")),
    ("labels of untrained networks", {"labels": {"kind": "learned"}, "models": UNTRAINED}, {},
     "/method/models/training/num_epochs", ("'learned'", "models.training.num_epochs is 0")),
    ("a learned rate that nothing learns", {}, {"evaluation": {"use_learned_rate": True}}, "/evaluation/use_learned_rate",
     ("use_learned_rate", "'trajectory'", "mean_feature")),
    ("counting networks of another slot", {"num_networks": 3, "num_iterations": None}, {}, "/method",
     ("num_networks", "fresh_random")),
]


@pytest.mark.parametrize(
    ("method", "fields", "pointer", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_refused(small_spec: Any, method: dict[str, Any], fields: dict[str, Any], pointer: str, words: tuple[str, ...]) -> None:
    with pytest.raises(SpecError) as caught:
        small_spec(method=method, **fields)
    found = {problem.pointer: problem.message for problem in caught.value.problems}
    assert pointer in found
    assert all(word in found[pointer] for word in words)


@pytest.mark.parametrize("method", [
    {"terms": [SPREAD, {"kind": "local_covariance"}], "parameterization": PACKED},
    {"objective": {"kind": "gaussian"}, "parameterization": PACKED},
    {"objective": {"kind": "gaussian", "covariance_weight": 0.0}},
    {"terms": [SPREAD], "num_iterations": 0},
    {"objective": {"kind": "gaussian"}, "parameterization": {"kind": "bases_hallucinators", "hallucinators_per_basis": 2}},
    {"terms": [{"kind": "classification_regulariser"}], "models": QUEUE},
    {"terms": [{"kind": "classification_regulariser"}], "models": POOL},
    PIECES | {"labels": {"kind": "learned"}, "init": {"kind": "correctly_classified"}},
    PIECES | {"terms": [{"kind": "class_discriminative"}]},
    PIECES | {"models": {"kind": "expert_segments", "max_start_epoch": 4, "training": {"num_epochs": 5}}},
    {"models": POOL, "labels": {"kind": "teacher"}, "init": {"kind": "correctly_classified"}},
])
def test_neighbours_are_allowed(small_spec: Any, method: dict[str, Any]) -> None:
    assert small_spec(ipc=1, method=method).ipc == 1


@pytest.mark.parametrize("models", ["dynamic_bilevel", "trained_on_synthetic", "trained_on_real"])
def test_sources_whose_networks_follow_one_another_count_them(small_spec: Any, models: str) -> None:
    spec = small_spec(method={"models": {"kind": models}, "num_networks": 3, "num_iterations": None})
    assert spec.method.max_iterations == 3 * {"dynamic_bilevel": 50, "trained_on_synthetic": 10, "trained_on_real": 100}[models]


@pytest.mark.parametrize("objective", [
    {"kind": "gradient", "distance": "cosine", "parameters": "all"}, {"kind": "gradient", "parameters": "weights"},
])
def test_gradients_of_an_mlp_are_allowed(small_spec: Any, objective: dict[str, Any]) -> None:
    assert small_spec(method={"objective": objective, "network": {"kind": "mlp"}}).method.objective.kind == "gradient"


def test_batches_of_two_are_allowed(small_spec: Any) -> None:
    for network, size in (("resnet10_idc", 18), ("convnet", 19)):
        assert small_spec(evaluation={"batch_size": size, "network": {"kind": network}}).evaluation.batch_size == size


class TestLength:
    def test_iterations_replace_the_networks_of_a_recipe(self, small_spec: Any) -> None:
        method = small_spec(recipe="cafe", method={"num_iterations": 7}).method
        assert (method.num_iterations, method.num_networks) == (7, None)

    def test_both_are_refused(self, small_spec: Any) -> None:
        with pytest.raises(SpecError, match="exactly one of num_iterations and num_networks"):
            small_spec(recipe="cafe", method={"num_iterations": 7, "num_networks": 7})


class TestRequiredPools:
    def test_methods_that_train_nothing_beforehand_need_none(self, small_spec: Any) -> None:
        for recipe in ("dm", "cafe", "idm", "m3d", "dc", "dsac", "idc", "random", "mosaic"):
            assert required_pools(small_spec(recipe=recipe, method={"num_iterations": 2})) == ()

    def test_each_slot_names_its_pool_once(self, small_spec: Any) -> None:
        spec = small_spec(
            recipe="dsdm", method={"init": {"kind": "herding"}, "terms": [SPREAD]},
            evaluation={"baselines": ["herding", "k_center", "forgetting", "mosaic"]},
        )
        pools = required_pools(spec)
        assert [pool.network.kind for pool in pools] == ["convnet"] * 4
        assert [pool.count_forgetting for pool in pools] == [False, False, False, True]

    def test_baselines_that_nothing_would_be_trained_on_are_refused(self, small_spec: Any) -> None:
        with pytest.raises(SpecError, match="baselines are trained on random_draws times each") as caught:
            small_spec(evaluation={"baselines": ["herding"], "random_draws": 0})
        assert [problem.pointer for problem in caught.value.problems] == ["/evaluation"]

    @pytest.mark.parametrize(("asked", "given"), [(60, 86_400), (500_000, 500_000)])
    def test_training_may_take_as_long_as_the_job_and_at_least_a_day(self, small_spec: Any, asked: int, given: int) -> None:
        (experts,) = required_experts(small_spec(recipe="herding", timeout_seconds=asked), "digest").values()
        assert experts.timeout_seconds == given

    def test_key_knows_the_data_and_the_split_but_not_the_job_seed(self, small_spec: Any) -> None:
        spec = small_spec(recipe="dsdm")
        pool = required_pools(spec)[0]
        key = pool_key(pool, spec.dataset, "a", seed=0)
        assert key == pool_key(pool, spec.dataset, "a", seed=1)
        assert key != pool_key(pool, spec.dataset, "b", seed=0)
        split = spec.dataset.model_copy(update={"held_out_fraction": 0.1})
        assert pool_key(pool, split, "a", seed=0) != pool_key(pool, split, "a", seed=1)


def packing(recipe: str, info: DatasetInfo) -> str:
    return RECIPES[recipe].build(info, 10).method.parameterization.kind


@pytest.mark.parametrize("recipe", sorted(RECIPES))
@pytest.mark.parametrize("scale", ["paper", "small"])
@pytest.mark.parametrize("ipc", [1, 10, 50])
def test_every_recipe_resolves_for_every_set(recipe: str, scale: str, ipc: int) -> None:
    for info in CATALOGUE.values():
        body = {"dataset": {"name": info.name}, "ipc": ipc, "recipe": recipe, "scale": scale}
        if recipe == "iid_dm" and ipc == 1:
            with pytest.raises(SpecError, match="no gradient with one image per class"):
                resolve(JobRequest.model_validate_json(json.dumps(body)))
            continue
        if info.name == "digits" and ipc == 50 and packing(recipe, info) == "multi_formation":
            with pytest.raises(SpecError, match="starts from 200 real images per class"):
                resolve(JobRequest.model_validate_json(json.dumps(body)))
            continue
        spec = resolve(JobRequest.model_validate_json(json.dumps(body)))
        found = estimate(spec, info)
        assert found.seconds > 0.0
        assert found.peak_memory_bytes > 2**28
        assert (found.phases[1].seconds > 0.0) == (spec.method.max_iterations > 0)


class TestEstimate:
    def found(self, small_spec: Any, **method: Any) -> Any:
        spec = small_spec(dataset={"name": "cifar10"}, ipc=10, method={"network": {"width": 128, "depth": 3}} | method)
        return estimate(spec, CATALOGUE["cifar10"])

    def test_the_adversary_costs_passes_but_no_memory_beside_the_objective(self, small_spec: Any) -> None:
        packed = {"kind": "bases_hallucinators"}
        plain = self.found(small_spec, parameterization=packed)
        contested = self.found(small_spec, parameterization=packed, terms=[{"kind": "adversarial_contrast"}])
        assert contested.phases[1].seconds > 2 * plain.phases[1].seconds  # 180 images five times, beside 60 real and 90 twice
        assert contested.peak_memory_bytes == plain.peak_memory_bytes  # its smaller graph is gone before the other is made

    def test_every_hallucination_at_once_costs_as_much_as_images(self, small_spec: Any) -> None:
        one, every = (
            self.found(small_spec, parameterization={"kind": "bases_hallucinators", "hallucinators_per_basis": count})
            for count in (1, 0)
        )
        assert 3 < every.phases[1].seconds / one.phases[1].seconds < 5
        assert every.phases[2].seconds == one.phases[2].seconds  # an epoch shows each basis once, either way

    def test_scores_of_all_pairs_cost_memory(self, small_spec: Any) -> None:
        many = {"selection": {"real_batch_per_class": 2000}}
        plain = self.found(small_spec, **many, terms=[{"kind": "class_discriminative"}])
        paired = self.found(small_spec, **many, terms=[{"kind": "mutual_information"}])
        assert paired.peak_memory_bytes - plain.peak_memory_bytes == 4 * 2 * 3 * 100 * 20_000


@pytest.mark.parametrize(("dataset", "allowed"), [("tiny-imagenet", True), ("stl10", False)])
def test_whitening_has_a_largest_image(dataset: str, allowed: bool) -> None:
    body = {"dataset": {"name": dataset}, "ipc": 1, "recipe": "dm", "method": {"preprocessing": {"kind": "zca"}}}
    request = JobRequest.model_validate_json(json.dumps(body))
    if allowed:
        resolve(request)
        return
    with pytest.raises(SpecError, match=r"'zca' whitens at most 12288 .* of the dataset have 3 x 96 x 96") as caught:
        resolve(request)
    assert [problem.pointer for problem in caught.value.problems] == ["/method/preprocessing/kind"]
