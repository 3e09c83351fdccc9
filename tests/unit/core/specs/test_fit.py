from __future__ import annotations

from typing import Any

import pytest

from core.catalogue import CATALOGUE
from core.errors import SpecError
from core.specs.fit import effective_side, fits, smallest_side
from core.specs.network import AlexNetSpec, ConvNetSpec, LeNetSpec, MLPSpec, ResNet18DCSpec, VGG11Spec

pytestmark = pytest.mark.unit
DIGITS, MNIST, CIFAR = (CATALOGUE[name] for name in ("digits", "mnist", "cifar10"))


class TestFits:
    @pytest.mark.parametrize(
        ("network", "side"),
        [
            (ConvNetSpec(depth=3), 8), (ConvNetSpec(depth=6, pooling="none"), 2), (MLPSpec(), 1), (LeNetSpec(), 16),
            (AlexNetSpec(), 8), (VGG11Spec(), 32), (ResNet18DCSpec(), 9), (ResNet18DCSpec(norm="batch"), 1),
            (ResNet18DCSpec(norm="batch", downsampling="average_pool"), 8),
        ],
        ids=str,
    )
    def test_smallest_side(self, network: Any, side: int) -> None:
        assert smallest_side(network) == side

    def test_28_px_count_as_32_where_the_first_convolution_pads(self) -> None:
        assert effective_side(VGG11Spec(), MNIST) == 32
        assert effective_side(ResNet18DCSpec(), MNIST) == 28
        assert fits(VGG11Spec(), MNIST, "") is None
        assert fits(ConvNetSpec(depth=5), MNIST, "") is None

    def test_a_deep_convnet_is_told_how_deep(self) -> None:
        problem = fits(ConvNetSpec(depth=4), DIGITS, "/method/network")
        assert problem is not None
        assert (problem.pointer, problem.code) == ("/method/network/depth", "network_too_deep")
        assert "at most 3" in problem.message

    def test_other_networks_are_told_the_side(self) -> None:
        problem = fits(VGG11Spec(), DIGITS, "/evaluation/network")
        assert problem is not None
        assert (problem.pointer, problem.code) == ("/evaluation/network/kind", "image_too_small")
        assert "at least 32 x 32 px; digits has 8 x 8" in problem.message

    def test_everything_fits_cifar(self) -> None:
        assert all(fits(network, CIFAR, "") is None for network in (VGG11Spec(), LeNetSpec(), ResNet18DCSpec(), ConvNetSpec()))


class TestRules:
    def refused(self, small_spec: Any, **fields: Any) -> list[tuple[str, str]]:
        with pytest.raises(SpecError) as caught:
            small_spec(**fields)
        return [(problem.pointer, problem.code) for problem in caught.value.problems]

    def test_the_matching_network_and_with_it_the_evaluation(self, small_spec: Any) -> None:
        assert self.refused(small_spec, method={"network": {"depth": 4}}) == [
            ("/method/network/depth", "network_too_deep"), ("/evaluation/network/depth", "network_too_deep"),
        ]

    def test_a_cross_network(self, small_spec: Any) -> None:
        networks = [{"kind": "mlp"}, {"kind": "vgg11"}]
        assert self.refused(small_spec, evaluation={"cross_networks": networks}) == [
            ("/evaluation/cross_networks/1/kind", "image_too_small"),
        ]

    def test_the_network_of_a_term(self, small_spec: Any) -> None:
        terms = [{"kind": "class_centralization", "network": {"kind": "resnet18_dc"}}]
        assert self.refused(small_spec, method={"terms": terms}) == [("/method/terms/0/network/kind", "image_too_small")]

    @pytest.mark.parametrize(
        ("networks", "place"),
        [([{"kind": "convnet", "width": 8, "depth": 1}], 0), ([{"kind": "mlp"}, {"kind": "mlp", "width": 128}], 1)],
    )
    def test_the_same_network_twice(self, small_spec: Any, networks: Any, place: int) -> None:
        assert self.refused(small_spec, evaluation={"cross_networks": networks}) == [
            (f"/evaluation/cross_networks/{place}", "network_repeated"),
        ]
