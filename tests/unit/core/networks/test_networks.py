from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from core.catalogue import CATALOGUE, DatasetInfo
from core.distillation.randomness import rng
from core.networks import network
from core.networks.build import build_network
from core.networks.network import Forward, Network
from core.specs.network import ConvNetSpec

pytestmark = pytest.mark.unit


def info_of(channels: int, side: int, num_classes: int) -> DatasetInfo:
    classes = tuple(str(i) for i in range(num_classes))
    fields: dict[str, Any] = {"channels": channels, "height": side, "width": side, "classes": classes}
    return CATALOGUE["cifar10"].model_copy(update=fields)


@pytest.fixture(scope="module")
def net() -> Network:
    return build_network(ConvNetSpec(width=6, depth=2), info_of(3, 8, 5))


class TestConvNet:
    @pytest.mark.parametrize(
        ("channels", "side", "num_classes", "depth", "parameters", "features"),
        [
            (3, 32, 10, 3, 320_010, 2048), (3, 32, 100, 3, 504_420, 2048), (1, 28, 10, 3, 317_706, 2048),
            (3, 64, 200, 4, 857_160, 2048), (3, 64, 200, 3, 1_938_120, 8192),
        ],
    )
    def test_has_the_published_sizes(
        self, channels: int, side: int, num_classes: int, depth: int, parameters: int, features: int
    ) -> None:
        net = build_network(ConvNetSpec(width=128, depth=depth), info_of(channels, side, num_classes))
        assert net.num_parameters == parameters
        params = torch.empty(net.num_parameters, device="meta")
        out = net(params, {}, torch.empty(2, channels, side, side, device="meta"), ("flat", "logits"))
        assert out["flat"].shape == (2, features)
        assert out["logits"].shape == (2, num_classes)

    def test_pads_28_to_32(self) -> None:
        net = build_network(ConvNetSpec(width=4, depth=3), info_of(1, 28, 10))
        images = torch.randn(2, 1, 28, 28)
        params = net.init(rng(0, "w"))
        by_name = net.named(params)
        first = nn.functional.conv2d(images, by_name["blocks.0.conv.weight"], by_name["blocks.0.conv.bias"], padding=3)
        assert first.shape[-1] == 32
        assert net(params, {}, images, ("block1",))["block1"].shape[-1] == 16

    @pytest.mark.parametrize("pooling", ["average", "max"])
    @pytest.mark.parametrize("norm", ["instance", "none"])
    def test_equals_plain_layers(self, norm: Any, pooling: Any) -> None:
        spec = ConvNetSpec(width=6, depth=2, norm=norm, pooling=pooling)
        net = build_network(spec, info_of(3, 8, 5))
        params = net.init(rng(1, "w"))
        by_name = net.named(params)
        x = torch.randn(4, 3, 8, 8)
        expected = x
        for i in range(2):
            expected = nn.functional.conv2d(
                expected, by_name[f"blocks.{i}.conv.weight"], by_name[f"blocks.{i}.conv.bias"], padding=1
            )
            if norm == "instance":
                mean = expected.mean((2, 3), keepdim=True)
                variance = expected.var((2, 3), unbiased=False, keepdim=True)
                expected = (expected - mean) / (variance + 1e-5).sqrt()
            pool = nn.AvgPool2d(2) if pooling == "average" else nn.MaxPool2d(2)
            expected = pool(expected.clamp(min=0))
        out = net(params, {}, x, ("block2", "flat", "logits"))
        torch.testing.assert_close(out["block2"], expected)
        torch.testing.assert_close(out["flat"], expected.flatten(1))
        logits = expected.flatten(1) @ by_name["head.weight"].T + by_name["head.bias"]
        torch.testing.assert_close(out["logits"], logits)


class TestInit:
    def test_is_pytorchs_default(self) -> None:
        net = build_network(ConvNetSpec(width=64, depth=2), info_of(3, 32, 10))
        drawn = net.named(net.init(rng(0, "w")))
        torch.manual_seed(0)
        layers = {"blocks.0.conv": nn.Conv2d(3, 64, 3), "blocks.1.conv": nn.Conv2d(64, 64, 3), "head": nn.Linear(4096, 10)}
        for name, layer in layers.items():
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for part in ("weight", "bias"):
                ours, theirs = drawn[f"{name}.{part}"], getattr(layer, part).detach()
                assert ours.shape == theirs.shape
                assert max(float(ours.abs().max()), float(theirs.abs().max())) <= bound
                if ours.numel() > 1000:
                    assert float(ours.abs().max()) > 0.99 * bound
                    assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.05)
                    assert abs(float(ours.mean())) < 0.1 * bound
        for i in range(2):
            assert (drawn[f"blocks.{i}.norm.weight"] == 1).all()
            assert (drawn[f"blocks.{i}.norm.bias"] == 0).all()

    def test_follows_the_generator(self, net: Network) -> None:
        a, b, c = (net.init(rng(0, "w", step)) for step in (0, 0, 1))
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


class TestForward:
    def test_chunks_equal_one_pass(self, net: Network) -> None:
        params, images = net.init(rng(0, "w")), torch.randn(23, 3, 8, 8)
        whole = net(params, {}, images, ("block1", "flat"))
        cut = Forward(net, compile_passes=False, chunk=8)(params, {}, images, ("block1", "flat"))
        for tap, value in whole.items():
            torch.testing.assert_close(cut[tap], value)

    def test_without_a_chunk_only_passes_with_a_graph_stay_whole(self, net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
        params, images = net.init(rng(0, "w")), torch.randn(23, 3, 8, 8)
        forward, sizes = Forward(net, compile_passes=False, chunk=None), []
        call = forward._call(("flat",))

        def counted(params: Any, buffers: Any, images: torch.Tensor) -> Any:
            sizes.append(len(images))
            return call(params, buffers, images)

        monkeypatch.setitem(forward._calls, ("flat",), counted)
        monkeypatch.setattr(network, "GRAPHLESS_ACTIVATIONS", 8 * net.activations_per_image)
        whole = forward(params, {}, images, ("flat",))["flat"]
        with torch.no_grad():
            torch.testing.assert_close(forward(params, {}, images, ("flat",))["flat"], whole)
        assert sizes == [23, 8, 8, 7]

    def test_compiled_chunks_have_one_shape(self, net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
        shapes = []

        def compile_nothing(function: Any, dynamic: bool) -> Any:
            assert not dynamic

            def call(params: Any, buffers: Any, images: torch.Tensor) -> Any:
                shapes.append(images.shape)
                return function(params, buffers, images)

            return call

        monkeypatch.setattr(torch, "compile", compile_nothing)
        params, images = net.init(rng(0, "w")), torch.randn(23, 3, 8, 8, requires_grad=True)
        out = Forward(net, compile_passes=True, chunk=8)(params, {}, images, ("flat",))["flat"]
        assert set(shapes) == {torch.Size((8, 3, 8, 8))}
        torch.testing.assert_close(out, net(params, {}, images, ("flat",))["flat"])
        out.square().sum().backward()
        assert images.grad is not None
        assert images.grad.abs().sum((1, 2, 3)).min() > 0

