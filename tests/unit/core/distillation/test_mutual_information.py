"""The contrast by hand and against a loop over pairs, what it pulls together, and how the heads learn."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core.data.real_set import RealSet
from core.distillation.build import build
from core.distillation.engine import Engine
from core.distillation.plan import Draw, Plan
from core.distillation.protocols import Loss, Stateless
from core.distillation.step import Step
from core.distillation.terms.mutual_information import MutualInformation, contrast, layers
from core.experts import TrainedHere
from core.networks.build import build_network
from core.networks.network import Network
from core.progress import Record
from core.specs.network import MLPSpec, ResNet10IDCSpec
from core.specs.terms import MutualInformationSpec
from tests.unit.core.distillation.steps import NUM_CLASSES, NUM_REAL, small_net, step_for

pytestmark = pytest.mark.unit
CPU = torch.device("cpu")


def term(net: Network, seed: int = 0, **fields: Any) -> MutualInformation:
    return MutualInformation(MutualInformationSpec(embedding_width=5, **fields), net, seed, CPU)


def losses_of(*found: Any) -> list[Loss]:
    return list(cast("tuple[Loss, ...]", found))


def naive(syn: Tensor, real: Tensor, temperature: float, share: Tensor | None = None) -> Tensor:
    """A loop over pairs: float64."""
    num_classes, num_syn, _ = syn.shape
    num_real = real.shape[1]
    total, positives = torch.zeros((), dtype=torch.float64), 0.0
    for a in range(num_classes):
        for i in range(num_syn):
            for b in range(num_classes):
                for j in range(num_real):
                    score = syn[a, i].double() @ real[b, j].double() / temperature
                    times = 1.0 if share is None else num_real * float(share[b, j])
                    h = score.sigmoid()
                    total = total - times * (h.log() if a == b else (1 - h).log())
                    positives += times if a == b else 0.0
    return total / positives


class TestContrast:
    def test_by_hand(self) -> None:
        """One image of each of two classes on either side: scores ln 3 where they are one class, 0 where not."""
        syn = torch.eye(2).unsqueeze(1)
        found = contrast(syn, syn, 1.0 / math.log(3.0))
        assert found.item() == pytest.approx(math.log(4.0 / 3.0) + math.log(2.0))

    @pytest.mark.parametrize("shared", [False, True])
    def test_equals_a_loop_over_pairs(self, shared: bool) -> None:
        syn, real = F.normalize(torch.randn(3, 2, 4), dim=2), F.normalize(torch.randn(3, 5, 4), dim=2)
        share = torch.rand(3, 5).softmax(1) if shared else None
        torch.testing.assert_close(contrast(syn, real, 0.1, share).double(), naive(syn, real, 0.1, share), rtol=1e-5, atol=0)

    def test_is_the_binary_cross_entropy_over_the_positives(self) -> None:
        syn, real = torch.randn(3, 2, 4, dtype=torch.float64), torch.randn(3, 5, 4, dtype=torch.float64)
        scores = syn.flatten(0, 1) @ real.flatten(0, 1).T / 0.5
        same = torch.arange(3).repeat_interleave(2)[:, None] == torch.arange(3).repeat_interleave(5)
        expected = F.binary_cross_entropy_with_logits(scores, same.double(), reduction="sum") / same.sum()
        torch.testing.assert_close(contrast(syn, real, 0.5), expected)

    def test_is_the_printed_expectation_for_classes_of_equal_size(self) -> None:
        """NCE = -(E_pos log h + (C - 1) E_neg log (1 - h))."""
        syn, real = torch.randn(3, 2, 4, dtype=torch.float64), torch.randn(3, 5, 4, dtype=torch.float64)
        h = (syn.flatten(0, 1) @ real.flatten(0, 1).T).sigmoid()
        same = torch.arange(3).repeat_interleave(2)[:, None] == torch.arange(3).repeat_interleave(5)
        expected = -(h[same].log().mean() + 2 * (1 - h[~same]).log().mean())
        torch.testing.assert_close(contrast(syn, real, 1.0), expected)

    def test_equal_shares_are_no_shares(self) -> None:
        syn, real = torch.randn(3, 2, 4), torch.randn(3, 5, 4)
        torch.testing.assert_close(contrast(syn, real, 0.1, torch.full((3, 5), 0.2)), contrast(syn, real, 0.1))

    def test_gradcheck(self) -> None:
        syn, real = (torch.randn(2, n, 3, dtype=torch.float64, requires_grad=True) for n in (2, 4))
        share = torch.rand(2, 4, dtype=torch.float64).softmax(1)
        assert torch.autograd.gradcheck(lambda a, b: contrast(a, b, 0.3, share), (syn, real))

    def test_does_not_overflow(self) -> None:
        syn = torch.eye(2).unsqueeze(1) * 1e3
        assert contrast(syn, -syn, 0.1).isfinite()

    def test_minimising_it_draws_classes_together(self) -> None:
        generator = torch.Generator().manual_seed(0)
        real = F.normalize(torch.randn(4, 6, 8, generator=generator), dim=2)
        syn = torch.randn(4, 3, 8, generator=generator).requires_grad_()

        def similarities() -> tuple[float, float]:
            found = torch.einsum("kme,lne->kl", F.normalize(syn.detach(), dim=2), real) / 18
            return float(found.diagonal().mean()), float((found.sum() - found.trace()) / 12)

        before, first = similarities(), contrast(F.normalize(syn, dim=2), real, 0.5).item()
        for _ in range(200):
            (gradient,) = torch.autograd.grad(contrast(F.normalize(syn, dim=2), real, 0.5), syn)
            syn = (syn - gradient).detach().requires_grad_()
        after = similarities()
        assert contrast(F.normalize(syn, dim=2), real, 0.5).item() < first
        assert after[0] > before[0] + 0.1
        assert after[0] - after[1] > before[0] - before[1] + 0.1


class TestLayers:
    def test_blocks_of_a_convnet(self, digits: RealSet) -> None:
        assert layers(small_net(digits, depth=3)) == ("pooled1", "pooled2", "pooled3")

    def test_networks_without_blocks(self, digits: RealSet) -> None:
        assert layers(build_network(ResNet10IDCSpec(), digits.info)) == ("pooled1",)
        assert layers(build_network(MLPSpec(width=7), digits.info)) == ("flat",)

    def test_the_mean_over_positions(self, digits: RealSet) -> None:
        net = small_net(digits)
        images = digits.gather(torch.arange(4))
        params = net.init(torch.Generator().manual_seed(0))
        out = net(params, {}, images, ("block1", "pooled1", "activation2", "pooled2"))
        torch.testing.assert_close(out["pooled1"], out["block1"].mean((2, 3)))
        torch.testing.assert_close(out["pooled2"], out["activation2"].mean((2, 3)))  # an average pool changes no mean

    def test_factors_of_three_layers(self, digits: RealSet) -> None:
        assert term(small_net(digits, depth=3))._factors == [0.5, 1.0, 2.0]
        assert term(small_net(digits, depth=3), layer_base=1.0)._factors == [1.0, 1.0, 1.0]


class TestValue:
    def test_equals_the_plain_formula(self, digits: RealSet) -> None:
        net = small_net(digits)
        loss = term(net)
        step = step_for(losses_of(loss), digits, net=net, real_share=torch.rand(NUM_CLASSES, NUM_REAL).softmax(1))
        assert loss.plan() == step.plan
        assert not step.plan.separable
        heads, start, expected = loss.state()["heads"], 0, torch.zeros((), dtype=torch.float64)
        for layer, factor in (("pooled1", 1.0), ("pooled2", 2.0)):
            matrix, bias = heads[start : start + 30].view(5, 6), heads[start + 30 : start + 35]
            start += 35
            ours, theirs = (
                F.normalize(features[layer].detach() @ matrix.T + bias, dim=2)
                for features in (step.features("syn"), step.features("real"))
            )
            expected = expected + factor * naive(ours, theirs, 0.1, step.share)
        assert start == len(heads)
        torch.testing.assert_close(loss.value(step).detach().double(), expected, rtol=1e-4, atol=0)

    def test_gradient_reaches_the_images_alone(self, digits: RealSet) -> None:
        net = small_net(digits)
        loss = term(net)
        step = step_for(losses_of(loss), digits, net=net)
        loss.value(step).backward()
        assert step.syn.images.grad is not None
        assert (step.syn.images.grad.flatten(1).abs().sum(1) > 0).all()
        assert not step.features("real")["pooled1"].requires_grad
        assert not any(tensor.requires_grad for tensor in loss.state().values())

    def test_asks_for_a_real_batch_where_the_base_has_none(self, digits: RealSet) -> None:
        plan = term(small_net(digits)).plan()
        assert plan.real == Draw()
        assert plan.syn == (Draw(),)
        assert plan.entries_per_pair == 4


class WholeSet(Stateless):
    """A base without real images and without class-wise draws, as trajectory matching is one."""

    weight = 1.0

    def plan(self) -> Plan:
        return Plan(syn=(Draw("all"),))

    def value(self, step: Step) -> Tensor:
        return step.syn.images[step.syn.rows[0]].square().mean()

    def update(self, step: Step) -> None:
        """Nothing."""


class TestOtherBases:
    @pytest.mark.parametrize("parameterization", [{"kind": "pixels"}, {"kind": "bases_hallucinators", "num_hallucinators": 2}])
    def test_one_without_real_images(self, digits: RealSet, small_spec: Any, parameterization: Any) -> None:
        method = {"terms": [{"kind": "mutual_information"}], "parameterization": parameterization}
        parts = build(small_spec(method=method), digits, TrainedHere(digits))
        term = parts.losses[1]
        engine = Engine(
            replace(parts, losses=(WholeSet(), term)), digits, seed=0, num_iterations=2, record=Record(), compiled=False
        )
        assert engine.num_real == 60
        before = {name: value.clone() for name, value in parts.parameterization.state().items()}
        heads = term.state()["heads"]
        engine.iterate()
        assert all(not torch.equal(value, before[name]) for name, value in parts.parameterization.state().items())
        assert not torch.equal(term.state()["heads"], heads)


class TestHeads:
    def test_start_as_linear_layers_do(self, digits: RealSet) -> None:
        heads = MutualInformation(MutualInformationSpec(), small_net(digits), 0, CPU).state()["heads"]
        assert heads.shape == (2 * 128 * 7,)
        assert 0.98 / 6**0.5 < heads.abs().max() <= 1 / 6**0.5

    def test_value_leaves_them_and_update_moves_them(self, digits: RealSet) -> None:
        net = small_net(digits)
        loss = term(net)
        before = {name: value.clone() for name, value in loss.state().items()}
        step = step_for(losses_of(loss), digits, net=net)
        loss.value(step).backward()
        assert all(torch.equal(before[name], value) for name, value in loss.state().items())
        loss.update(step)
        assert not torch.equal(before["heads"], loss.state()["heads"])

    def test_step_is_that_of_pytorchs_adam(self, digits: RealSet) -> None:
        net = small_net(digits)
        loss = term(net, lr_head=0.01)
        heads = loss.state()["heads"].clone().requires_grad_()
        optimizer = torch.optim.Adam([heads], lr=0.01)
        for number in range(3):
            step = step_for(losses_of(loss), digits, net=net, number=number)
            syn = {name: value.detach() for name, value in step.features("syn").items()}
            heads.grad = torch.autograd.grad(loss._contrast(heads, syn, step.features("real"), None), heads)[0]
            optimizer.step()
            loss.update(step)
            torch.testing.assert_close(loss.state()["heads"], heads.detach(), rtol=1e-5, atol=1e-6)

    def test_they_learn_to_tell_classes_apart(self, digits: RealSet) -> None:
        net = small_net(digits)
        loss = term(net, lr_head=0.01)
        step = step_for(losses_of(loss), digits, net=net)
        values = [loss.value(step).item()]
        for _ in range(40):
            loss.update(step)
            values.append(loss.value(step).item())
        assert values[-1] < 0.8 * values[0]

    def test_state_round_trip(self, digits: RealSet) -> None:
        net = small_net(digits)
        first, second = term(net), term(net, seed=9)
        first.update(step_for(losses_of(first), digits, net=net))
        second.load(first.state())
        for loss in (first, second):
            loss.update(step_for(losses_of(loss), digits, net=net, number=1))
        assert all(torch.equal(a, b) for a, b in zip(first.state().values(), second.state().values(), strict=True))

