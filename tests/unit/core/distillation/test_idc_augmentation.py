"""The composition of the IDC family: which operations, in which order, with which groups. Operations: test_augmentation.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.distillation.augmentation.idc import STAGES, IDCAugmentation, IDCDraw
from core.distillation.randomness import rng
from core.specs.augmentation import OPERATIONS, IDCAugmentationSpec, Operation
from tests.unit.core.distillation.test_augmentation import NAIVE

pytestmark = pytest.mark.unit
ALL = IDCAugmentation(IDCAugmentationSpec(strategy=OPERATIONS))


def of(*strategy: Operation) -> IDCAugmentation:
    return IDCAugmentation(IDCAugmentationSpec(strategy=strategy))


class TestComposition:
    def test_order_is_flip_colour_drawn_cutout(self) -> None:
        draw = ALL.draw(30, rng(0, "a"))
        assert [set(stage) for stage in draw.operations] == [{"flip"}, {"color"}, {"crop", "scale", "rotate"}, {"cutout"}]
        assert draw.uniform.shape == (4, 30, 3)

    def test_every_operation_has_one_stage(self) -> None:
        assert sorted(name for stage in STAGES for name in stage) == sorted(OPERATIONS)

    @pytest.mark.parametrize(
        ("strategy", "stages"),
        [
            (("color", "crop", "cutout"), [{"color"}, {"crop"}, {"cutout"}]),
            (("cutout", "flip"), [{"flip"}, {"cutout"}]),
            (("rotate",), [{"rotate"}]),
            (("color", "crop", "flip", "scale", "rotate"), [{"flip"}, {"color"}, {"crop", "scale", "rotate"}]),
        ],
    )
    def test_uses_what_is_listed(self, strategy: tuple[Operation, ...], stages: list[set[str]]) -> None:
        assert [set(stage) for stage in of(*strategy).draw(40, rng(0, "a")).operations] == stages

    def test_each_class_draws_its_own_operation_uniformly(self) -> None:
        drawn = ALL.draw(3000, rng(0, "a")).operations[2]
        assert all(900 < drawn.count(name) < 1100 for name in ("crop", "scale", "rotate"))

    def test_network_training_shares_the_drawn_operation_and_no_parameters(self) -> None:
        draw = ALL.draw(50, rng(0, "a"), shared_operation=True)
        assert all(len(stage) == 50 and len(set(stage)) == 1 for stage in draw.operations)
        assert len(draw.uniform.flatten().unique()) > 590
        assert {ALL.draw(2, rng(0, "a", n), shared_operation=True).operations[2][0] for n in range(20)} == set(STAGES[2])

    def test_follows_the_generator(self) -> None:
        a, b = (ALL.draw(10, rng(0, "a", 7)) for _ in range(2))
        assert a.operations == b.operations
        assert torch.equal(a.uniform, b.uniform)


class TestApply:
    @pytest.mark.parametrize(("groups", "per_group"), [(9, 2), (12, 1)], ids=["classes", "images"])
    @pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 9)])
    def test_equals_the_operations_in_a_row(self, channels: int, side: int, groups: int, per_group: int) -> None:
        images = torch.randn(groups, per_group, channels, side, side, dtype=torch.float64)
        draw = ALL.draw(groups, rng(0, "a"))
        assert len(set(draw.operations[2])) == 3
        found = draw.apply(images)
        for g in range(groups):
            for m in range(per_group):
                expected = images[g, m]
                for stage, uniform in zip(draw.operations, draw.uniform, strict=True):
                    expected = NAIVE[stage[g]](expected, uniform[g].tolist())
                torch.testing.assert_close(found[g, m], expected, rtol=1e-5, atol=1e-5)

    def test_narrow_is_the_draw_of_some_groups(self) -> None:
        draw, images = ALL.draw(10, rng(0, "a")), torch.randn(10, 2, 1, 28, 28)
        torch.testing.assert_close(draw.narrow(3, 7).apply(images[3:7]), draw.apply(images)[3:7])

    def test_real_and_synthetic_copies_stay_bit_identical(self) -> None:
        draw, images = ALL.draw(5, rng(0, "a")), torch.randn(5, 1, 3, 16, 16)
        alone = draw.apply(images)
        among = draw.apply(torch.cat([torch.randn(5, 7, 3, 16, 16), images], 1))
        assert torch.equal(alone[:, 0], among[:, -1])

    def test_is_differentiable(self) -> None:
        images = torch.randn(3, 2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(ALL.draw(3, rng(0, "a")).apply, (images,))

    def test_matrices_give_the_same_in_deterministic_mode(self) -> None:
        images = torch.randn(6, 3, 1, 28, 28)
        draw = ALL.draw(6, rng(0, "a"))
        assert {"scale", "rotate"} <= set(draw.operations[2])
        slow = IDCDraw(draw.operations, draw.uniform, deterministic=True)
        torch.testing.assert_close(slow.apply(images), draw.apply(images), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("groups", [(4, 3), (32, 1)], ids=["matching", "training"])
    def test_one_channel_of_28_pixels(self, groups: Any) -> None:
        images = torch.randn(*groups, 1, 28, 28)
        found = ALL.draw(groups[0], rng(0, "a"), shared_operation=groups[1] == 1).apply(images)
        assert found.shape == images.shape
        assert found.isfinite().all()
