"""Counts of the published table, decoding against a loop over single images, draws, and what a step moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from core.catalogue import dataset_info
from core.data.real_set import RealSet
from core.distillation.build import build
from core.distillation.engine import Engine
from core.distillation.optimizer import SGD
from core.distillation.parameterizations.bases_hallucinators import (
    BasesHallucinators,
    frame_mean,
    hallucinate,
    hallucinators,
)
from core.distillation.parameterizations.multi_formation import MultiFormation
from core.distillation.parameterizations.pixels import Pixels
from core.distillation.plan import Draw
from core.distillation.randomness import rng
from core.experts import TrainedHere
from core.progress import Record
from core.specs.storage import bases_per_class, decoded_per_class, hallucinator_scalars, images_per_class
from core.specs.synthetic import BasesHallucinatorsSpec, MultiFormationSpec, PixelsSpec, SGDSpec
from tests.unit.core.distillation.real_sets import real_set

pytestmark = pytest.mark.unit
CIFAR = dataset_info("cifar10")


def made(data: RealSet, ipc: int = 2, seed: int = 0, **fields: Any) -> BasesHallucinators:
    return BasesHallucinators(BasesHallucinatorsSpec(**fields), ipc, data, seed)


def filled(data: RealSet, **fields: Any) -> BasesHallucinators:
    found = made(data, **fields)
    found.fill(data.gather(torch.tensor(data.offsets)[:, None] + torch.arange(found.num_initial_per_class)))
    return found


def naive(basis: Tensor, number: int, factors: dict[str, Tensor]) -> Tensor:
    """One basis (c, H, W) through one hallucinator: float64, entry by entry."""
    weights = {name: value[number].double() for name, value in factors.items() if name not in {"bases", "labels"}}
    basis = basis.double()
    hidden, height, width = weights["scale"].shape
    image = weights["decoder.bias"][:, None, None].expand(-1, height + 2, width + 2).clone()
    for h in range(hidden):
        for i in range(height):
            for j in range(width):
                seen = basis[:, i : i + 3, j : j + 3]
                value = (seen * weights["encoder.weight"][h]).sum() + weights["encoder.bias"][h]
                value = value * weights["scale"][h, i, j] + weights["shift"][h, i, j]
                image[:, i : i + 3, j : j + 3] += value * weights["decoder.weight"][h]
    return image


class TestCounts:
    def test_scalars_of_the_published_hallucinator(self) -> None:
        assert hallucinator_scalars(BasesHallucinatorsSpec(), CIFAR) == 5568
        assert hallucinator_scalars(BasesHallucinatorsSpec(basis_channels="one"), CIFAR) == 5514
        assert hallucinator_scalars(BasesHallucinatorsSpec(), dataset_info("fashion-mnist")) == 10 + 2 * 26 * 26 + 10
        assert hallucinator_scalars(BasesHallucinatorsSpec(hidden_channels=3), dataset_info("fashion-mnist")) == 4114

    @pytest.mark.parametrize(("shape", "channels"), [((3, 32, 32), "image"), ((3, 32, 32), "one"), ((1, 9, 7), "image")])
    def test_storage_is_what_the_rule_says(self, shape: tuple[int, int, int], channels: Any) -> None:
        data = real_set((40, 40), shape)
        found = made(data, ipc=20, basis_channels=channels)
        spec = BasesHallucinatorsSpec(basis_channels=channels)
        storage = found.storage()
        assert storage["hallucinators"] == 5 * hallucinator_scalars(spec, data.info)
        assert storage["bases"] == found.state()["bases"].numel()
        assert sum(value.numel() for value in found.export().values()) - len(found.export()["labels"]) == sum(storage.values())
        budget = 2 * 20 * data.info.scalars_per_image
        spare = budget - sum(storage.values())
        assert 0 <= spare < 2 * found.state()["bases"][0].numel()  # one basis more of each class would not fit

    @pytest.mark.parametrize(("name", "ipc", "bases"), [
        ("cifar10", 1, 1), ("cifar10", 10, 9), ("cifar10", 50, 49), ("cifar100", 1, 1), ("cifar100", 10, 9),
        ("cifar100", 50, 49), ("svhn", 10, 9),
    ])
    def test_bases_of_the_published_table(self, name: str, ipc: int, bases: int) -> None:
        assert bases_per_class(BasesHallucinatorsSpec(), ipc, dataset_info(name)) == bases

    @pytest.mark.parametrize(("name", "bases", "per_cent"), [
        ("cifar10", 1, 0.038), ("cifar10", 9, 0.198), ("cifar10", 49, 0.998), ("cifar100", 1, 0.218), ("cifar100", 49, 9.818),
    ])
    def test_published_ratios(self, name: str, bases: int, per_cent: float) -> None:
        info = dataset_info(name)
        scalars = bases * info.num_classes * 3072 + 5 * hallucinator_scalars(BasesHallucinatorsSpec(), info)
        assert 100 * scalars / 3072 / sum(info.train_per_class) == pytest.approx(per_cent, abs=5e-4)

    def test_three_times_as_many_bases_of_one_channel(self) -> None:
        assert bases_per_class(BasesHallucinatorsSpec(basis_channels="one"), 10, CIFAR) == 27

    def test_images(self) -> None:
        spec = BasesHallucinatorsSpec(num_bases_per_class=4, num_hallucinators=3, hallucinators_per_basis=2)
        counts = images_per_class(spec, 10, CIFAR)
        assert (counts.initial, counts.decoded, counts.seen, counts.epoch) == (4, 12, 8, 4)
        assert images_per_class(spec.model_copy(update={"hallucinators_per_basis": 0}), 10, CIFAR).seen == 12
        assert decoded_per_class(PixelsSpec(), 10, CIFAR) == 10
        assert images_per_class(MultiFormationSpec(max_per_class=7), 10, CIFAR)[:3] == (40, 40, 7)

    def test_more_hallucinators_at_once_than_there_are(self) -> None:
        with pytest.raises(ValidationError, match="hallucinators_per_basis is 3, but num_hallucinators is 2"):
            BasesHallucinatorsSpec(num_hallucinators=2, hallucinators_per_basis=3)


class TestStart:
    def test_as_pytorch_draws_convolutions(self) -> None:
        drawn = hallucinators(400, (3, 3, 3), (6, 6), rng(0, "h"), near_identity=False)
        torch.manual_seed(0)
        for name, layer in (("encoder", torch.nn.Conv2d(3, 3, 3)), ("decoder", torch.nn.ConvTranspose2d(3, 3, 3))):
            for kind in ("weight", "bias"):
                bound, sample = 1 / 27**0.5, drawn[f"{name}.{kind}"]
                assert getattr(layer, kind).abs().max() <= bound
                assert 0.98 * bound < sample.abs().max() <= bound
                assert abs(sample.mean()) < 0.02 * bound * 3
        assert (drawn["scale"] == 1).all()
        assert (drawn["shift"] == 0).all()

    def test_follows_from_the_seed(self) -> None:
        data = real_set((4, 4), (3, 8, 8))
        first, same, other = (made(data, seed=seed).state()["encoder.weight"] for seed in (3, 3, 4))
        assert torch.equal(first, same)
        assert not torch.equal(first, other)

    @pytest.mark.parametrize("channels", [("image", 1), ("image", 3), ("one", 3)])
    def test_near_identity_nearly_shows_the_image_inside_the_frame(self, channels: tuple[Any, int]) -> None:
        kind, count = channels
        data = real_set((4, 4), (count, 8, 8))
        found = filled(data, start="near_identity", basis_channels=kind, num_hallucinators=3)
        images, _ = found.decode(torch.arange(0, 6, 3))
        expected = found.state()["bases"][:2].expand_as(images)
        inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
        error = (images - expected)[inside].square().mean().sqrt() / expected.std()
        assert 0.01 < error < 0.4
        corner, colour = images[:, :, 0, 0], frame_mean(found.state()["bases"])
        assert ((corner - colour).abs() < 0.4 * expected.std()).all()
        views = [found.decode(torch.tensor([number]))[0] for number in range(3)]
        assert not torch.equal(views[0], views[1])
        assert not torch.equal(views[1], views[2])

    def test_the_frame_by_hand(self) -> None:
        image = torch.arange(9.0).view(1, 1, 3, 3)
        assert frame_mean(torch.cat([image, image + 2], 1)).tolist() == [4.0, 6.0]
        assert frame_mean(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])).tolist() == [4.0]

    def test_bases_are_real_images_or_their_channel_means(self) -> None:
        data = real_set((5, 5), (3, 8, 8))
        images = data.gather(torch.tensor([[0, 1], [5, 6]]))
        colour, grey = made(data, num_bases_per_class=2), made(data, num_bases_per_class=2, basis_channels="one")
        for found in (colour, grey):
            found.fill(images)
        assert torch.equal(colour.state()["bases"], images.flatten(0, 1))
        assert torch.equal(grey.state()["bases"], images.flatten(0, 1).mean(1, keepdim=True))
        assert torch.equal(grey.pack(images), images.flatten(0, 1))


class TestDecode:
    @pytest.mark.parametrize("fields", [{}, {"basis_channels": "one", "hidden_channels": 2}])
    def test_equals_a_loop_over_pairs(self, fields: dict[str, Any]) -> None:
        data = real_set((3, 3), (3, 6, 5))
        found = filled(data, num_bases_per_class=2, num_hallucinators=3, **fields)
        factors = found.export()
        index = torch.tensor([7, 0, 11, 4, 0, 3])
        images, classes = found.decode(index)
        assert classes.tolist() == [1, 0, 1, 0, 0, 0]
        for image, number in zip(images, index.tolist(), strict=True):
            expected = naive(factors["bases"][number // 3], number % 3, factors)
            torch.testing.assert_close(image.double(), expected, rtol=0, atol=1e-5)

    def test_every_basis_goes_through_every_hallucinator(self) -> None:
        data = real_set((3, 3), (1, 6, 6))
        found = filled(data, num_bases_per_class=2, num_hallucinators=3)
        images, classes = found.decode(found.indices(Draw("all"), rng(0, "d")))
        assert images.shape == (12, 1, 6, 6)
        assert classes.tolist() == [0] * 6 + [1] * 6
        assert len({tuple(image.flatten().tolist()) for image in images}) == 12
        swapped = filled(data, num_bases_per_class=2, num_hallucinators=3)
        state = swapped.state()
        swapped.load(state | {"bases": state["bases"].flip(0)})
        other, _ = swapped.decode(torch.arange(12))
        torch.testing.assert_close(other, images.view(4, 3, 1, 6, 6).flip(0).flatten(0, 1))

    def test_gradcheck(self) -> None:
        drawn = hallucinators(1, (1, 2, 1), (5, 4), rng(0, "h"), near_identity=False)
        weights = {name: value[0].double().requires_grad_() for name, value in drawn.items()}
        bases = torch.randn(2, 1, 5, 4, dtype=torch.float64, requires_grad=True)

        def image(bases: Tensor, *values: Tensor) -> Tensor:
            return hallucinate(bases, dict(zip(weights, values, strict=True)))

        assert torch.autograd.gradcheck(image, (bases, *weights.values()))

    def test_gradient_reaches_what_is_asked_for_and_nothing_else(self) -> None:
        data = real_set((3, 3), (1, 6, 6))
        found = filled(data, num_bases_per_class=2, num_hallucinators=3)
        images, _ = found.decode(torch.tensor([1, 4]))  # bases 0 and 1 through hallucinator 1
        images.square().sum().backward()
        learned = found.parameters()
        (bases,) = learned["bases"]
        assert bases.grad is not None
        assert [bool(g.any()) for g in bases.grad] == [True, True, False, False]
        for tensor in learned["hallucinators"]:
            assert tensor.grad is not None
            assert [bool(g.any()) for g in tensor.grad] == [False, True, False]


class TestDraws:
    def drawn(self, kind: Any, count: int = 0, **fields: Any) -> tuple[BasesHallucinators, Tensor]:
        found = made(real_set((9, 9), (1, 6, 6)), num_bases_per_class=4, num_hallucinators=3, **fields)
        draw = Draw(kind, count)
        index = found.indices(draw, rng(0, "draw", 5))
        assert index.dtype == torch.int64
        assert index.numel() == found.count(draw)
        return found, index

    @pytest.mark.parametrize("through", [1, 2, 0])
    def test_a_class_shows_every_basis_through_hallucinators_of_its_own(self, through: int) -> None:
        _, index = self.drawn("per_class", hallucinators_per_basis=through)
        count = through or 3
        assert index.shape == (2, 4 * count)
        assert len(index.unique()) == index.numel()
        assert (index // 3).flatten().tolist() == [basis for basis in range(8) for _ in range(count)]
        if through == 1:
            assert len((index % 3).unique()) > 1

    def test_fewer_of_each_class(self) -> None:
        _, index = self.drawn("per_class", 3)
        assert index.shape == (2, 3)
        assert all(len(row.unique()) == 3 for row in index // 3)
        assert ((index // 12) == torch.tensor([[0], [1]])).all()

    def test_a_minibatch_goes_through_one_hallucinator(self) -> None:
        _, index = self.drawn("minibatch", 5)
        assert index.shape == (5,)
        assert len((index % 3).unique()) == 1
        assert len((index // 3).unique()) == 5
        assert self.drawn("minibatch")[1].shape == (8,)

    @pytest.mark.parametrize("count", [0, 5])
    def test_pairs_share_the_basis_alone(self, count: int) -> None:
        _, index = self.drawn("pairs", count)
        assert index.shape == (2, count or 8)
        assert torch.equal(index[0] // 3, index[1] // 3)
        first, second = (index % 3).unique(dim=1).T[0].tolist()
        assert first != second
        assert len((index[0] // 3).unique()) == (count or 8)

    def test_pairs_need_two_hallucinators(self) -> None:
        found = made(real_set((9, 9), (1, 6, 6)), num_hallucinators=1)
        with pytest.raises(ValueError, match="num_hallucinators is 1"):
            found.indices(Draw("pairs"), rng(0, "d"))

    @pytest.mark.parametrize("kind", ["per_class", "all", "minibatch"])
    @pytest.mark.parametrize("count", [0, 3, 100])
    def test_stored_pixels_count_too_and_have_no_pairs(self, kind: Any, count: int) -> None:
        data = real_set((9, 9), (1, 6, 6))
        for found in (Pixels(PixelsSpec(), 5, data), MultiFormation(MultiFormationSpec(max_per_class=4), 2, data)):
            draw = Draw(kind, count)
            assert found.count(draw) == found.indices(draw, rng(0, "d")).numel()
            assert found.num_variants == 1
            assert found.export() == {}
            with pytest.raises(ValueError, match="pairs are made of bases"):
                found.indices(Draw("pairs"), rng(0, "d"))

    def test_draws_differ_between_iterations(self) -> None:
        found = made(real_set((9, 9), (1, 6, 6)), num_bases_per_class=9)
        first, second = (found.indices(Draw(), rng(0, "draw", number)) for number in (0, 1))
        assert not torch.equal(first, second)


class TestStep:
    def test_each_kind_has_its_rate(self) -> None:
        found = filled(real_set((3, 3), (1, 6, 6)), num_hallucinators=2)
        optimizer = SGD(SGDSpec(lr_img=0.5, lr_hallucinator=0.25, momentum=0.0), found.parameters())
        before = {name: value.clone() for name, value in found.state().items()}
        for tensors in found.parameters().values():
            for tensor in tensors:
                tensor.grad = torch.ones_like(tensor)
        optimizer.step(torch.tensor(True), 0.0)
        for name, value in found.state().items():
            torch.testing.assert_close(before[name] - value, torch.full_like(value, 0.5 if name == "bases" else 0.25))

    @pytest.mark.parametrize("objective", ["mean_feature", "layerwise_feature", "rkhs", "gaussian"])
    def test_one_product_pulls_the_gradient_back(self, objective: str, digits: RealSet, small_spec: Any) -> None:
        """The engine's two-stage gradient is that of the loss on images that were never cut from their graph."""
        spec = small_spec(method={
            "objective": {"kind": objective},
            "parameterization": {"kind": "bases_hallucinators", "num_bases_per_class": 2, "num_hallucinators": 2},
        })
        parts = build(spec, digits, TrainedHere(digits))
        engine = Engine(parts, digits, seed=0, num_iterations=1, record=Record())
        engine._gradient(0)
        learned = [tensor for tensors in parts.parameterization.parameters().values() for tensor in tensors]
        staged = [tensor.grad for tensor in learned]
        step, (images, _) = engine._prepare(0)
        object.__setattr__(step.syn, "images", images)
        whole = torch.autograd.grad(parts.losses[0].value(step).sum(), learned)
        for one, other in zip(staged, whole, strict=True):
            assert one is not None
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))
