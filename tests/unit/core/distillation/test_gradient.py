"""Gradient matching: distances by hand, everything else against plain loops over classes in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core import compilation
from core.catalogue import dataset_info
from core.data.real_set import RealSet
from core.distillation import class_gradients
from core.distillation.build import build
from core.distillation.class_gradients import ClassGradients, Labelled
from core.distillation.engine import Engine
from core.distillation.objectives.gradient import EPSILON, Gradient, absolute, cosine, frozen_norms, row_cosine, squared
from core.distillation.randomness import rng
from core.experts import TrainedHere
from core.networks.build import build_network
from core.networks.network import Network
from core.progress import Record
from core.specs.network import ConvNetSpec, MLPSpec
from core.specs.objective import GradientSpec
from tests.unit.core.distillation.resumption import assert_resumes_exactly
from tests.unit.core.distillation.steps import IPC, NUM_CLASSES, doubled, real_images, small_net, step_for

pytestmark = pytest.mark.unit

SMOOTH = ConvNetSpec(width=3, depth=1, activation="swish")
DISTANCES = [("row_cosine", "weights"), ("row_cosine", "convolutions"), ("cosine", "all"), ("squared", "all"),
             ("squared", "convolutions"), ("absolute", "convolutions")]


def plain_gradient(net: Network, params: Tensor, images: Tensor, labels: Tensor, share: Tensor | None = None) -> Tensor:
    """Of one batch, by ordinary autograd, with graph."""
    weights = params.detach().requires_grad_()
    losses = F.cross_entropy(net(weights, {}, images, ("logits",))["logits"], labels, reduction="none")
    loss = losses.mean() if share is None else losses @ share
    return torch.autograd.grad(loss, weights, create_graph=True)[0]


def plain_distance(spec: GradientSpec, net: Network, real: Tensor, syn: Tensor) -> Tensor:
    """Tensor after tensor, row after row, as the published code writes it."""
    smallest = {"weights": 2, "convolutions": 4, "all": 1}[spec.parameters]
    pairs = [(a, b) for a, b in zip(net.named(real).values(), net.named(syn).values(), strict=True) if a.ndim >= smallest]
    total = torch.zeros((), dtype=torch.float64)
    if spec.distance == "row_cosine":
        for a, b in pairs:
            for x, y in zip(a.flatten(1), b.flatten(1), strict=True):
                total = total + 1 - (x @ y) / (x.norm() * y.norm() + 1e-6)
        return total
    a, b = (torch.cat([pair[i].flatten() for pair in pairs]) for i in (0, 1))
    match spec.distance:
        case "cosine":
            return 1 - (a @ b) / (a.norm() * b.norm() + 1e-6)
        case "squared":
            return ((a - b) ** 2).sum()
        case _:
            return (a - b).abs().sum()


class TestDistances:
    REAL = [torch.tensor([[[3.0, 4.0], [1.0, 0.0]]]), torch.tensor([[[0.0, 2.0]]])]
    SYN = [torch.tensor([[[4.0, 3.0], [0.0, 1.0]]]), torch.tensor([[[0.0, 1.0]]])]

    def test_row_cosine_by_hand(self) -> None:
        expected = (1 - 24 / (25 + 1e-6)) + 1 + (1 - 2 / (2 + 1e-6))
        assert row_cosine(self.REAL, self.SYN).item() == pytest.approx(expected, abs=1e-6)

    def test_rows_of_a_filter_are_its_output_channels(self) -> None:
        real, syn = torch.randn(1, 2, 3, 2, 2), torch.randn(1, 2, 3, 2, 2)
        assert row_cosine([real], [syn]) == pytest.approx(row_cosine([real.flatten(2)], [syn.flatten(2)]))

    def test_others_by_hand(self) -> None:
        product, norms = 24 + 0 + 2, math.sqrt(25 + 1 + 4) * math.sqrt(25 + 1 + 1)
        assert cosine(self.REAL, self.SYN).item() == pytest.approx(1 - product / norms, abs=1e-6)
        assert squared(self.REAL, self.SYN).item() == pytest.approx(1 + 1 + 1 + 1 + 1)
        assert absolute(self.REAL, self.SYN).item() == pytest.approx(1 + 1 + 1 + 1 + 1)

    def test_a_row_without_gradient_counts_one_and_stays_finite(self) -> None:
        syn = torch.zeros(1, 1, 2, requires_grad=True)
        value = row_cosine([torch.ones(1, 1, 2)], [syn])
        assert value.item() == 1.0
        assert torch.autograd.grad(value.sum(), syn)[0].isfinite().all()

    def test_bounds_of_the_published_network(self) -> None:
        net = build_network(ConvNetSpec(), dataset_info("cifar10"))
        loss = Gradient(GradientSpec(), net)
        one = torch.ones(1, net.num_parameters)
        counted = loss._counted(one)
        assert sum(value.shape[1] for value in counted) == 394
        assert all(value.ndim > 2 for value in counted)
        assert row_cosine(counted, loss._counted(-one)).item() == pytest.approx(788, abs=1e-2)

    def test_vectors_do_not_count(self, digits: RealSet) -> None:
        net = small_net(digits)
        loss = Gradient(GradientSpec(), net)
        flat = torch.randn(2, net.num_parameters)
        moved = flat.clone()
        start = 0
        for value in net.named(flat[0]).values():
            if value.ndim == 1:
                moved[:, start : start + value.numel()] += 1.0
            start += value.numel()
        for a, b in zip(loss._counted(flat), loss._counted(moved), strict=True):
            assert torch.equal(a, b)


class TestGradients:
    @pytest.fixture
    def groups(self, digits: RealSet) -> Labelled:
        index = real_images(digits, 5)
        return Labelled.of(digits.gather(index).double().requires_grad_(), digits.labels[index], None)

    @pytest.fixture(params=[1, 100], ids=["one by one", "batched"])
    def both_ways(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(class_gradients.BATCHED_BELOW, "cpu", request.param)

    @pytest.mark.usefixtures("both_ways")
    def test_equal_a_loop_and_so_do_their_image_gradients(self, digits: RealSet, groups: Labelled) -> None:
        net = small_net(digits)
        params = net.init(rng(0, "network")).double()
        expected = torch.stack([plain_gradient(net, params, *pair) for pair in zip(*groups[:2], strict=True)])
        found = ClassGradients(net)(params, {}, groups)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
        pull = torch.randn_like(found)
        ours, theirs = (torch.autograd.grad((value * pull).sum(), groups.images)[0] for value in (found, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)

    @pytest.mark.usefixtures("both_ways")
    def test_soft_targets_get_a_gradient(self, digits: RealSet, groups: Labelled) -> None:
        net = small_net(digits)
        params = net.init(rng(0, "network")).double()
        soft = F.one_hot(groups.targets, NUM_CLASSES).double().requires_grad_()
        found = ClassGradients(net)(params, {}, groups._replace(targets=soft))
        torch.testing.assert_close(found, ClassGradients(net)(params, {}, groups))
        (gradient,) = torch.autograd.grad(found.square().sum(), soft)
        assert (gradient.abs().sum((0, 1)) > 0).all()

    def test_together_is_the_mixed_batch_and_the_mean_of_the_classes(self, digits: RealSet, groups: Labelled) -> None:
        net = small_net(digits)
        params = net.init(rng(0, "network")).double()
        found = ClassGradients(net)(params, {}, groups.together())
        assert found.shape == (1, net.num_parameters)
        mixed = plain_gradient(net, params, groups.images.flatten(0, 1), groups.targets.flatten())
        torch.testing.assert_close(found[0], mixed, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(found[0], ClassGradients(net)(params, {}, groups).mean(0), rtol=1e-10, atol=1e-14)

    @pytest.mark.usefixtures("both_ways")
    @pytest.mark.parametrize("chunk", [2, 3, 64])
    @pytest.mark.parametrize("compiled", [False, True])
    def test_blocks_of_images_add_up(
        self, digits: RealSet, groups: Labelled, chunk: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compilation, "compiled", lambda function: function)  # compiling takes half a minute
        monkeypatch.setattr(compilation, "CHUNK_IMAGES", chunk)
        net = small_net(digits)
        params = net.init(rng(0, "network")).double()
        shares = torch.rand(NUM_CLASSES, 5, dtype=torch.float64, generator=rng(0, "shares")).softmax(1)
        weighted = Labelled.of(groups.images, groups.targets, shares)
        found = ClassGradients(net).constant(params, {}, weighted, compiled=compiled)
        assert not found.requires_grad
        expected = [plain_gradient(net, params, *group) for group in zip(*weighted, strict=True)]
        torch.testing.assert_close(found, torch.stack(expected).detach(), rtol=1e-10, atol=1e-14)


class TestObjective:
    @pytest.mark.parametrize("grouping", ["per_class", "summed"])
    @pytest.mark.parametrize(("distance", "parameters"), DISTANCES, ids=lambda value: value)
    @pytest.mark.parametrize("weighted", [False, True], ids=["equal", "shares"])
    def test_value_and_gradient_equal_a_plain_loop(
        self, digits: RealSet, distance: Any, parameters: Any, grouping: Any, weighted: bool
    ) -> None:
        spec = GradientSpec(distance=distance, parameters=parameters, grouping=grouping, summed_from_network=0)
        net = small_net(digits)
        loss = Gradient(spec, net)
        step = doubled(step_for([loss], digits, net=net))
        share = torch.rand(NUM_CLASSES, 5, dtype=torch.float64, generator=rng(0, "shares")).softmax(1)
        step.real_share = share if weighted else None
        found = loss.value(step)
        real, syn = step.images("real", step.plan.syn[0]), step.images("syn", step.plan.syn[0])
        params = step.weights.params
        pairs = [
            (
                plain_gradient(net, params, real[c], torch.full((5,), c), share[c] if weighted else None).detach(),
                plain_gradient(net, params, syn[c], torch.full((IPC,), c)),
            )
            for c in range(NUM_CLASSES)
        ]
        if grouping == "summed":
            a, b = (torch.stack(side).mean(0) for side in zip(*pairs, strict=True))
            expected = plain_distance(spec, net, a, b)
        else:
            expected = torch.stack([plain_distance(spec, net, a, b) for a, b in pairs])
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)
        ours, theirs = (torch.autograd.grad(value.sum(), step.syn.images)[0] for value in (found, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10 * float(theirs.abs().max()))

    @pytest.mark.parametrize(("distance", "parameters"), DISTANCES, ids=lambda value: value)
    @pytest.mark.parametrize("grouping", ["per_class", "summed"])
    def test_is_zero_where_both_sides_are_equal(self, digits: RealSet, distance: Any, parameters: Any, grouping: Any) -> None:
        spec = GradientSpec(distance=distance, parameters=parameters, grouping=grouping, summed_from_network=0)
        net = small_net(digits)
        loss = Gradient(spec, net)
        images = digits.gather(real_images(digits, 5)).flatten(0, 1)
        value = loss.value(doubled(step_for([loss], digits, images=images, net=net))).detach()
        assert float(value.abs().max()) < (1e-2 if "cosine" in distance else 1e-12)  # a cosine lacks what is added to norms

    def test_gradcheck_through_the_second_derivative(self, digits: RealSet) -> None:
        net = build_network(SMOOTH, digits.info.model_copy(update={"height": 4, "width": 4}))
        params = net.init(rng(0, "network")).double()
        labels = torch.tensor([[0, 0], [1, 1]])
        target = ClassGradients(net)(params, {}, Labelled.of(torch.randn(2, 2, 1, 4, 4, dtype=torch.float64), labels, None))
        loss = Gradient(GradientSpec(), net)

        def value(images: Tensor) -> Tensor:
            found = ClassGradients(net)(params, {}, Labelled.of(images, labels, None))
            return row_cosine(loss._counted(target), loss._counted(found))

        images = torch.randn(2, 2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(value, (images,))

    @pytest.mark.parametrize("distance", ["row_cosine", "squared", "absolute"])
    @pytest.mark.parametrize("grouping", ["per_class", "summed"])
    @pytest.mark.parametrize("limit", [3, 7, 12])
    def test_class_chunks_add_up(self, digits: RealSet, distance: Any, grouping: Any, limit: int) -> None:
        spec = GradientSpec(distance=distance, grouping=grouping, summed_from_network=0, feature_weight=0.5)
        values, found = [], []
        for most in (1000, limit):
            loss = Gradient(spec, small_net(digits))
            step = doubled(step_for([loss], digits))
            chunks = list(step.chunks(most))
            assert len(chunks) == (1 if most == 1000 else -(-NUM_CLASSES // (limit // IPC)))
            total = torch.zeros((), dtype=torch.float64)
            for chunk in chunks:
                value = loss.value(chunk).sum()
                value.backward()
                total = total + value.detach()
            values.append(total)
            found.append(step.syn.images.grad)
        torch.testing.assert_close(values[0], values[1], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-12)

    def test_a_set_that_has_moved_is_looked_at_anew(self, digits: RealSet) -> None:
        loss = Gradient(GradientSpec(grouping="summed", summed_from_network=0), small_net(digits))
        first = step_for([loss], digits)
        second = step_for([loss], digits, images=first.syn.images.detach() + 0.5)
        values = [sum(float(loss.value(chunk).detach()) for chunk in step.chunks(7)) for step in (first, second)]
        assert values == [pytest.approx(float(loss.value(step).detach()), rel=1e-5) for step in (first, second)]
        assert values[0] != pytest.approx(values[1], rel=1e-3)

    @pytest.mark.parametrize(
        ("index", "age", "summed"), [(0, 0, False), (249, 9, False), (250, 0, True), (0, 10, True)],
    )
    def test_warm_up_matches_classes_one_by_one(self, digits: RealSet, index: int, age: int, summed: bool) -> None:
        net = small_net(digits)
        together, apart = Gradient(GradientSpec(grouping="summed"), net), Gradient(GradientSpec(), net)
        step = step_for([together], digits, net=net)
        step.weights = step.weights.__class__(net, step.weights.params, index=index, age=age)
        value = together.value(step)
        assert (value.ndim == 0) == summed
        assert torch.equal(value, apart.value(step)) is not summed

    def test_features_add_to_each_class(self, digits: RealSet) -> None:
        net = small_net(digits)
        plain, with_features = Gradient(GradientSpec(), net), Gradient(GradientSpec(feature_weight=2.0), net)
        step = step_for([with_features], digits, net=net)
        real, syn = step.features("real")["flat"], step.features("syn")["flat"]
        expected = plain.value(step) + 2.0 * (real.mean(1) - syn.mean(1)).square().sum(1)
        torch.testing.assert_close(with_features.value(step), expected)

    def test_soft_labels_of_the_set_are_matched_and_learned(self, digits: RealSet) -> None:
        net = small_net(digits)
        loss = Gradient(GradientSpec(distance="squared", parameters="all"), net)
        step = step_for([loss], digits, net=net)
        hard = loss.value(step).detach()
        labels = F.one_hot(step.syn.labels, NUM_CLASSES).float().requires_grad_()
        step.syn = step.syn.__class__(step.syn.images, labels, step.syn.classes, step.syn.rows, step.syn.draws)
        soft = loss.value(step)
        torch.testing.assert_close(soft.detach(), hard)
        soft.sum().backward()
        assert labels.grad is not None
        assert (labels.grad.abs().sum(1) > 0).all()

    def test_weights_get_no_gradient(self, digits: RealSet) -> None:
        loss = Gradient(GradientSpec(), small_net(digits))
        step = step_for([loss], digits)
        loss.value(step).sum().backward()
        assert not step.weights.params.requires_grad
        assert step.weights.params.grad is None

    def test_a_network_without_such_tensors_is_refused(self, digits: RealSet) -> None:
        with pytest.raises(ValueError, match="convolutions"):
            Gradient(GradientSpec(parameters="convolutions"), build_network(MLPSpec(width=4), digits.info))


class TestBatchNorm:
    def test_norms_are_fixed_by_one_pass_over_real_images(self, digits: RealSet) -> None:
        net = build_network(ConvNetSpec(width=4, depth=1, norm="batch"), digits.info)
        loss = Gradient(GradientSpec(), net)
        step = step_for([loss], digits, net=net)
        buffers = frozen_norms(step)
        assert all(torch.equal(a, b) for a, b in zip(buffers.values(), frozen_norms(step).values(), strict=True))
        index = digits.draw_per_class(16, step.rng("gradient/norms")).flatten()
        assert len(index) == 160
        _, expected = net.train_pass(step.weights.params, {}, digits.gather(index), ("flat",))
        assert {k: v.tolist() for k, v in buffers.items()} == {k: v.tolist() for k, v in expected.items()}
        value = loss.value(step)
        value.sum().backward()
        assert step.syn.images.grad is not None
        assert step.syn.images.grad.isfinite().all()

    def test_other_networks_need_no_pass(self, digits: RealSet) -> None:
        loss = Gradient(GradientSpec(), small_net(digits))
        assert frozen_norms(step_for([loss], digits)) == {}


def test_epsilon_is_that_of_the_published_code() -> None:
    assert EPSILON == 1e-6


class TestRecipes:
    """Whole methods of the family, on digits, with networks that are replaced on the way."""

    @pytest.mark.parametrize("recipe", ["dc", "dsa", "dcc", "dsac", "idc", "dream", "dc_dream", "dsa_dream"])
    def test_resume_equals_uninterrupted(self, digits: RealSet, small_spec: Any, recipe: str) -> None:
        models = {"steps_per_network": 2} | ({"num_images": 64} if recipe in {"idc", "dream"} else {"num_epochs": 2})
        method: dict[str, Any] = {"models": models}
        if "dream" in recipe:
            method["selection"] = {"refresh_every": 3}
        if recipe in {"dcc", "dsac"}:
            method["objective"] = {"summed_from_step": 1}
        spec = small_spec(recipe=recipe, method=method)

        def engine() -> Engine:
            return Engine(build(spec, digits, TrainedHere(digits)), digits, seed=0, num_iterations=4, record=Record())

        whole = assert_resumes_exactly(engine)
        assert not torch.equal(whole.decoded()[0], whole.initial)

    def test_representative_images_and_their_shares_reach_the_gradient(self, digits: RealSet, small_spec: Any) -> None:
        selection = {"kind": "representative", "real_batch_per_class": 4, "refresh_every": 2, "weighting": "cluster_size"}
        spec = small_spec(recipe="dc", method={"selection": selection, "init": {"kind": "k_means"}})
        engine = Engine(build(spec, digits, TrainedHere(digits)), digits, seed=0, num_iterations=4, record=Record())
        chosen = []
        for number in range(4):
            step, _ = engine._prepare(number)
            assert step.real_index is not None
            assert step.share is not None
            assert torch.equal(digits.labels[step.real_index], torch.arange(NUM_CLASSES)[:, None].expand(-1, 4))
            (loss,) = engine.parts.losses
            weighted = loss.value(step).detach()
            step.real_share = None
            assert not torch.allclose(weighted, loss.value(step).detach())
            chosen.append(step.real_index.tolist())
            engine.iterate()
        assert chosen[0] == chosen[1]
        assert chosen[2] == chosen[3]
        assert chosen[1] != chosen[2]
