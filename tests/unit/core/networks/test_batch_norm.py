"""Batch norm as part of a pure function: two modes, running statistics that nobody changes in place."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.catalogue import CATALOGUE
from core.distillation.randomness import rng
from core.networks.build import build_module, build_network
from core.networks.network import Forward, Network
from core.specs.network import ConvNetSpec, ResNet18DCSpec

pytestmark = pytest.mark.unit
SPEC = ConvNetSpec(width=4, depth=2, norm="batch")
INFO = CATALOGUE["digits"]


@pytest.fixture(scope="module")
def net() -> Network:
    return build_network(SPEC, INFO)


@pytest.fixture
def twin(net: Network) -> tuple[torch.nn.Module, torch.Tensor]:
    """The same network as an ordinary module, and its flat weights."""
    module, params = build_module(SPEC, net.image_shape, 10), net.init(rng(0, "w"))
    named = net.named(params)
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(named[name])
    return module, params


def images_of(count: int) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))


class TestModes:
    def test_training_and_evaluation_equal_those_of_a_module(self, net: Network, twin: Any) -> None:
        module, params = twin
        buffers, images = net.init_buffers(), images_of(12)
        module.train()
        for _ in range(3):
            expected = module(images, ("logits",))["logits"]
            out, buffers = net.train_pass(params, buffers, images, ("logits",))
            torch.testing.assert_close(out["logits"], expected)
        for name, value in module.named_buffers():
            torch.testing.assert_close(buffers[name], value)
        torch.testing.assert_close(
            net(params, buffers, images, ("logits",))["logits"], module.eval()(images, ("logits",))["logits"]
        )

    def test_running_statistics_start_at_0_and_1(self, net: Network) -> None:
        buffers = net.init_buffers()
        assert set(buffers) == {f"blocks.{i}.norm.running_{part}" for i in (0, 1) for part in ("mean", "var")}
        assert all((value == (1.0 if "var" in name else 0.0)).all() for name, value in buffers.items())

    def test_nothing_is_changed_in_place(self, net: Network) -> None:
        params, buffers = net.init(rng(0, "w")), net.init_buffers()
        _, moved = net.train_pass(params, buffers, images_of(5), ("flat",))
        net(params, buffers, images_of(5), ("flat",), training=True)
        assert all(torch.equal(buffers[name], value) for name, value in net.init_buffers().items())
        assert not any(torch.equal(buffers[name], value) for name, value in moved.items())
        assert not any(value.requires_grad for value in moved.values())

    def test_matching_needs_no_running_statistics(self, net: Network) -> None:
        params, images = net.init(rng(0, "w")), images_of(6)
        without = net(params, {}, images, ("flat",), training=True)["flat"]
        other = {name: value + 3.0 for name, value in net.init_buffers().items()}
        assert torch.equal(without, net(params, other, images, ("flat",), training=True)["flat"])

    def test_evaluation_refuses_to_go_without(self, net: Network) -> None:
        with pytest.raises(AssertionError, match="running statistics"):
            net(net.init(rng(0, "w")), {}, images_of(2), ("flat",))

    def test_one_image_per_channel_is_no_problem_of_construction(self) -> None:
        net = build_network(ResNet18DCSpec(norm="batch"), INFO)
        assert net.activations_per_image > 0


class TestForward:
    def test_training_mode_is_never_cut(self, net: Network) -> None:
        params, images = net.init(rng(0, "w")), images_of(9)
        forward = Forward(net, compile_passes=False, chunk=4, training=True)
        assert forward.mixes_images
        assert forward.chunk is None
        expected = net.train_pass(params, {}, images, ("flat",))[0]["flat"]
        assert torch.equal(forward(params, {}, images, ("flat",))["flat"], expected)

    def test_evaluation_mode_is_cut_exactly(self, net: Network) -> None:
        params, buffers, images = net.init(rng(0, "w")), net.init_buffers(), images_of(9)
        forward = Forward(net, compile_passes=False, chunk=4)
        assert not forward.mixes_images
        whole = net(params, buffers, images, ("flat",))["flat"]
        torch.testing.assert_close(forward(params, buffers, images, ("flat",))["flat"], whole)

    def test_instance_norm_has_one_mode(self) -> None:
        net = build_network(ConvNetSpec(width=4, depth=1), INFO)
        params, images = net.init(rng(0, "w")), images_of(9)
        assert net.init_buffers() == {}
        assert not net.mixes_images
        a, b = (net(params, {}, images, ("flat",), training=training)["flat"] for training in (False, True))
        assert torch.equal(a, b)
