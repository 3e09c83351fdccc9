"""Every architecture against the published sizes, and against what `core.specs.fit` says it can take."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.catalogue import CATALOGUE, DatasetInfo
from core.distillation.randomness import rng
from core.networks.build import build_module, build_network
from core.networks.layers import HeConv2d
from core.networks.resnet import AveragePool, BasicBlock
from core.specs.fit import fits, single_pixel_batch_norm, smallest_side
from core.specs.network import (
    AlexNetSpec,
    ConvNetSpec,
    DenseNet121Spec,
    DenseNetIDCSpec,
    LeNetSpec,
    MLPSpec,
    NetworkSpec,
    ResNet10IDCSpec,
    ResNet18DCSpec,
    ResNet18IDCSpec,
    VGG11Spec,
    network_name,
)

pytestmark = pytest.mark.unit

POOLED = ResNet18DCSpec(norm="batch", downsampling="average_pool")
ALL: tuple[NetworkSpec, ...] = tuple(kind() for kind in get_args(get_args(NetworkSpec)[0]))
VARIANTS: tuple[NetworkSpec, ...] = (
    *ALL, POOLED, ResNet18DCSpec(downsampling="average_pool"), ResNet18DCSpec(norm="batch"), ResNet18DCSpec(norm="none"),
    ResNet10IDCSpec(norm="instance"), AlexNetSpec(norm="batch"), AlexNetSpec(norm="instance"), VGG11Spec(norm="batch"),
    VGG11Spec(norm="none"), ConvNetSpec(depth=2, pooling="none"), ConvNetSpec(depth=4), ConvNetSpec(norm="batch"),
    ConvNetSpec(norm="none", pooling="max"),
)


def info_of(channels: int, side: int, num_classes: int = 10) -> DatasetInfo:
    fields: dict[str, Any] = {
        "channels": channels, "height": side, "width": side, "classes": tuple(str(i) for i in range(num_classes)),
    }
    return CATALOGUE["cifar10"].model_copy(update=fields)


def multiply_accumulates(module: nn.Module, shape: tuple[int, int, int]) -> float:
    count = 0

    def add(layer: Any, inputs: Any, output: Tensor) -> None:
        nonlocal count
        count += output.numel() * layer.weight[0].numel()

    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(add)
    module.eval()(torch.empty(1, *shape, device="meta"), ("logits",))
    return count


class TestPublishedSizes:
    @pytest.mark.parametrize(
        ("spec", "parameters", "mega_macs"),
        [
            (MLPSpec(), 411_146, 0.4), (LeNetSpec(), 62_006, 0.7), (AlexNetSpec(), 1_872_202, 245),
            (VGG11Spec(), 9_231_114, 153), (ResNet18DCSpec(), 11_173_962, 555), (POOLED, 11_250_762, 744),
            (ConvNetSpec(), 320_010, 50.7), (ResNet10IDCSpec(), 1_228_970, 64), (ResNet18IDCSpec(), 2_797_610, 139),
            (DenseNetIDCSpec(), 1_000_618, 125), (DenseNet121Spec(), 6_956_298, 888),
        ],
        ids=lambda value: network_name(value) if hasattr(value, "kind") else str(value),
    )
    def test_at_32_px(self, spec: NetworkSpec, parameters: int, mega_macs: float) -> None:
        with torch.device("meta"):
            module = build_module(spec, (3, 32, 32), 10)
        assert sum(p.numel() for p in module.parameters()) == parameters
        assert multiply_accumulates(module, (3, 32, 32)) / 1e6 == pytest.approx(mega_macs, abs=0.5 if mega_macs > 1 else 0.05)

    @pytest.mark.parametrize(
        ("spec", "shape", "features"),
        [
            (POOLED, (1, 28, 28), 512 * 9), (ResNet18DCSpec(), (1, 28, 28), 512), (ResNet18DCSpec(), (3, 64, 64), 512 * 4),
            (LeNetSpec(), (1, 28, 28), 84), (AlexNetSpec(), (1, 28, 28), 192 * 16), (VGG11Spec(), (1, 28, 28), 512),
            (VGG11Spec(), (3, 64, 64), 512 * 4), (ResNet10IDCSpec(), (3, 64, 64), 256), (DenseNetIDCSpec(), (1, 28, 28), 384),
        ],
        ids=str,
    )
    def test_inputs_of_the_head(self, spec: NetworkSpec, shape: tuple[int, int, int], features: int) -> None:
        with torch.device("meta"):
            head: Any = build_module(spec, shape, 10).head
        assert head.in_features == features

    def test_one_channel_takes_the_wide_branch_of_idc(self) -> None:
        assert build_network(ResNet10IDCSpec(), info_of(1, 28)).num_parameters == 4_902_090


class TestShapes:
    @pytest.mark.parametrize(
        ("spec", "channels", "side"),
        [
            *((spec, 1, 28) for spec in VARIANTS if not isinstance(spec, DenseNet121Spec)),
            *((spec, channels, side) for spec in ALL if "dense" not in spec.kind for channels, side in ((3, 64), (1, 8))),
            (DenseNetIDCSpec(), 1, 8), (DenseNet121Spec(), 3, 64),
        ],
        ids=str,
    )
    def test_every_tap_of_every_network(self, spec: NetworkSpec, channels: int, side: int) -> None:
        info = info_of(channels, side, 7)
        if fits(spec, info, "") is not None:
            assert side == 8
            return
        net = build_network(spec, info)
        params = torch.empty(net.num_parameters, device="meta")
        images = torch.empty(2, channels, side, side, device="meta")
        for training in (False, True):
            out = net(params, net.init_buffers("meta"), images, net.taps, training=training)
            assert tuple(out) == net.taps
            assert out["logits"].shape == (2, 7)
            assert out["flat"].ndim == 2
            assert isinstance(spec, MLPSpec) or out["map"].ndim == 4
        assert net.num_classes == 7
        assert net.mixes_images == (getattr(spec, "norm", "batch" if "densenet" in spec.kind else "none") == "batch")

    @pytest.mark.parametrize("spec", VARIANTS, ids=network_name)
    def test_the_smallest_side_is_the_smallest(self, spec: NetworkSpec) -> None:
        side = smallest_side(spec)
        assert fits(spec, info_of(3, side), "") is None
        with torch.device("meta"):
            build_module(spec, (3, side, side), 10)
        if side > 2 and getattr(spec, "norm", "") != "instance":
            with pytest.raises((RuntimeError, UserWarning)), torch.device("meta"):
                build_module(spec, (3, side - 1, side - 1), 10).eval()(torch.empty(2, 3, side - 1, side - 1), ("logits",))

    @pytest.mark.parametrize(("side", "alive"), [(8, False), (9, True)])
    def test_an_instance_norm_on_one_pixel_forgets_the_image(self, side: int, alive: bool) -> None:
        net = build_network(ResNet10IDCSpec(norm="instance"), info_of(3, 16))
        images = torch.randn(2, 3, side, side)
        flat = net(net.init(rng(0, "w")), {}, images, ("flat",))["flat"]
        assert bool((flat[0] - flat[1]).abs().max() > 1e-3) is alive
        assert (fits(ResNet10IDCSpec(norm="instance"), info_of(3, side), "") is None) is alive

    @pytest.mark.parametrize("side", [8, 9, 15, 16])
    @pytest.mark.parametrize("spec", VARIANTS, ids=network_name)
    def test_where_a_batch_norm_sees_one_pixel(self, spec: NetworkSpec, side: int) -> None:
        info = info_of(3, side)
        if fits(spec, info, "") is not None:
            return
        with torch.device("meta"):
            module = build_module(spec, (3, side, side), 10).train()
            refused = False
            try:
                module(torch.empty(1, 3, side, side), ("flat",))
            except ValueError:
                refused = True
        assert single_pixel_batch_norm(spec, info) is refused

    def test_the_width_of_resnet18_dc_counts(self) -> None:
        narrow, usual = (build_network(ResNet18DCSpec(width=width), info_of(3, 32)) for width in (16, 64))
        assert narrow.activations_per_image * 4 == pytest.approx(usual.activations_per_image, rel=0.01)
        assert narrow.num_parameters * 15 < usual.num_parameters
        assert (narrow.name, usual.name) == ("resnet18_dc width 16", "resnet18_dc")

    def test_names_differ(self) -> None:
        assert len({network_name(spec) for spec in VARIANTS}) == len(VARIANTS)
        assert network_name(ConvNetSpec(width=32)) == "convnet-3 width 32"
        assert network_name(POOLED) == "resnet18_dc batch norm average pool downsampling"
        assert network_name(VGG11Spec(norm="none")) == "vgg11 no norm"


class TestConvNetChoices:
    @pytest.mark.parametrize(
        ("name", "function"),
        [("relu", F.relu), ("leaky_relu", nn.LeakyReLU(0.01)), ("sigmoid", torch.sigmoid), ("swish", nn.SiLU())],
    )
    def test_activations(self, name: Any, function: Any) -> None:
        net = build_network(ConvNetSpec(width=3, depth=1, activation=name, norm="none"), info_of(1, 8))
        params, images = net.init(rng(0, "w")), torch.randn(2, 1, 8, 8)
        out = net(params, {}, images, ("activation1", "block1", "map", "flat"))
        weights = net.named(params)
        expected = function(F.conv2d(images, weights["blocks.0.conv.weight"], weights["blocks.0.conv.bias"], padding=1))
        torch.testing.assert_close(out["activation1"], expected)
        torch.testing.assert_close(out["block1"], F.avg_pool2d(expected, 2))
        assert out["map"] is out["block1"]
        assert torch.equal(out["flat"], out["map"].flatten(1))

    def test_without_pools_the_side_stays(self) -> None:
        net = build_network(ConvNetSpec(width=2, depth=3, pooling="none"), info_of(3, 6))
        out = net(net.init(rng(0, "w")), {}, torch.randn(1, 3, 6, 6), ("map", "logits"))
        assert out["map"].shape == (1, 2, 6, 6)


class TestResidualBlock:
    @pytest.mark.parametrize("pooled", [False, True])
    def test_equals_plain_layers(self, pooled: bool) -> None:
        def convolution(channels: int, width: int, kernel_size: int, *, stride: int = 1) -> nn.Conv2d:
            return nn.Conv2d(channels, width, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)

        torch.manual_seed(0)
        block = BasicBlock(convolution, "none", 3, 5, halve=True, pooled=pooled)
        first, second, side = (p.detach() for p in block.parameters())
        x = torch.randn(2, 3, 6, 6)
        if pooled:
            body = F.conv2d(F.avg_pool2d(F.conv2d(x, first, padding=1).relu(), 2), second, padding=1)
            shortcut = F.avg_pool2d(F.conv2d(x, side), 2)
        else:
            body = F.conv2d(F.conv2d(x, first, padding=1, stride=2).relu(), second, padding=1)
            shortcut = F.conv2d(x, side, stride=2)
        torch.testing.assert_close(block(x), (body + shortcut).relu())

    def test_the_shortcut_is_the_identity_where_the_shape_stays(self) -> None:
        block = BasicBlock(HeConv2d, "batch", 4, 4, halve=False)
        assert isinstance(block.shortcut, nn.Identity)

    def test_pools_are_never_larger_than_the_map(self) -> None:
        maps = torch.randn(2, 3, 2, 2)
        torch.testing.assert_close(AveragePool(4)(maps), maps.mean((2, 3)))
        maps = torch.randn(2, 3, 8, 8)
        torch.testing.assert_close(AveragePool(4)(maps), F.avg_pool2d(maps, 4).flatten(1))
        torch.testing.assert_close(AveragePool()(maps), maps.mean((2, 3)))


class TestInit:
    def test_idc_convolutions_are_normal_with_the_fan_out(self) -> None:
        net = build_network(ResNet10IDCSpec(), info_of(3, 32))
        drawn = net.named(net.init(rng(0, "w")))
        checked = 0
        for name, layer in build_module(ResNet10IDCSpec(), (3, 32, 32), 10).named_modules():
            if isinstance(layer, nn.Conv2d):
                values = drawn[f"{name}.weight"]
                expected = (2.0 / (layer.kernel_size[0] ** 2 * layer.out_channels)) ** 0.5
                assert float(values.std()) == pytest.approx(expected, rel=0.12 if values.numel() < 5000 else 0.03)
                assert float(values.abs().max()) > 2.5 * expected  # a uniform distribution ends at 1.7
                checked += 1
        assert checked == 12
        assert float(drawn["head.weight"].abs().max()) <= 1 / 16
        assert (drawn["body.1.weight"] == 1).all()

    def test_densenet_has_pytorchs_default(self) -> None:
        net = build_network(DenseNetIDCSpec(), info_of(3, 32))
        first = net.named(net.init(rng(0, "w")))["body.0.weight"]
        assert float(first.abs().max()) <= 27**-0.5
