"""Packing and unpacking against loops over single images, and the two pixel spaces."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core.data.real_set import RealSet
from core.distillation.parameterizations.multi_formation import MultiFormation, enlargement
from core.distillation.parameterizations.pixels import Pixels
from core.distillation.parameterizations.space import space_of
from core.distillation.parameterizations.stored import StoredPixels
from core.distillation.plan import Draw
from core.distillation.randomness import rng
from core.specs.synthetic import MultiFormationSpec, PixelsSpec
from tests.unit.core.distillation.real_sets import real_set

pytestmark = pytest.mark.unit
STEP: Any = None


def real_images(data: RealSet, per_class: int) -> Tensor:
    return data.gather(torch.tensor(data.offsets)[:, None] + torch.arange(per_class))


def formation(data: RealSet, ipc: int = 2, **fields: Any) -> MultiFormation:
    return MultiFormation(MultiFormationSpec(**fields), ipc, data)


def naive_pack(image: Tensor, grid: tuple[int, int], place: tuple[int, int], shrink: str, grey: Tensor) -> Tensor:
    """One real image (C, H, W) -> what its cell decodes to; float64, pixel by pixel."""
    (channels, height, width), (rows, columns) = image.shape, grid
    h, w = math.ceil(height / rows), math.ceil(width / columns)
    cell = grey.double().expand(channels, h, w).clone()
    for i in range(h):
        for j in range(w):
            if place[0] * h + i >= height or place[1] * w + j >= width:
                continue  # beyond the edge: not stored, mid-grey
            block = image[:, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].double()
            cell[:, i, j] = block.mean((1, 2)) if shrink == "mean" else block[:, 0, 0]
    out = torch.zeros(channels, height, width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            y, x = (max((i + 0.5) * h / height - 0.5, 0.0), max((j + 0.5) * w / width - 0.5, 0.0))
            top, left = int(y), int(x)
            below, right = min(top + 1, h - 1), min(left + 1, w - 1)
            out[:, i, j] = (
                (1 - (y - top)) * ((1 - (x - left)) * cell[:, top, left] + (x - left) * cell[:, top, right])
                + (y - top) * ((1 - (x - left)) * cell[:, below, left] + (x - left) * cell[:, below, right])
            )
    return out


class TestRefusals:
    def test_cells_beyond_the_edge(self) -> None:
        with pytest.raises(ValueError, match="factor 8"):
            formation(real_set((4, 4), (1, 28, 28)), factor=8)
        formation(real_set((4, 4), (1, 28, 28)), factor=7)


class TestMultiFormation:
    @pytest.mark.parametrize("shrink", ["mean", "nearest"])
    @pytest.mark.parametrize("space", ["unit", "normalised"])
    @pytest.mark.parametrize(
        ("shape", "factor", "axes"),
        [
            ((3, 8, 8), 2, "both"), ((1, 9, 9), 2, "both"), ((3, 8, 7), 3, "both"), ((1, 6, 10), 3, "time"),
            ((1, 5, 8), 2, "time"),
        ],
    )
    def test_equals_the_definition(self, shape: tuple[int, int, int], factor: int, axes: Any, space: Any, shrink: Any) -> None:
        ipc, grid = 2, (factor if axes == "both" else 1, factor)
        per_class = ipc * grid[0] * grid[1]
        data = real_set((per_class, per_class + 1), shape)
        made = formation(data, ipc, factor=factor, axes=axes, space=space, shrink=shrink)
        assert made.num_virtual_per_class == made.num_initial_per_class == per_class
        images = real_images(data, per_class)
        made.fill(images)
        found, classes = made.decode(made.indices(Draw("all"), rng(0, "d")))
        assert classes.tolist() == [0] * per_class + [1] * per_class
        assert found.dtype == torch.float32
        grey = (0.5 - torch.tensor(data.info.mean).view(-1, 1, 1)) / torch.tensor(data.info.std).view(-1, 1, 1)
        for number in range(2 * per_class):
            cell = number % per_class // ipc  # row-major, each over all stored images
            expected = naive_pack(images.flatten(0, 1)[number], grid, divmod(cell, grid[1]), shrink, grey)
            torch.testing.assert_close(found[number].double(), expected, rtol=0, atol=2e-6)

    @pytest.mark.parametrize("side", [28, 32, 64])
    def test_decodes_to_pooled_and_enlarged_images_in_order(self, side: int) -> None:
        data = real_set((8, 8), (3, side, side))
        made, images = formation(data, factor=2, space="normalised"), real_images(data, 8)
        made.fill(images)
        pooled = F.avg_pool2d(images.flatten(0, 1), 2)
        expected = F.interpolate(pooled, size=(side, side), mode="bilinear", align_corners=False)
        torch.testing.assert_close(made.decode(torch.arange(16))[0], expected, rtol=0, atol=1e-6)
        assert made.storage() == {"pixels": 2 * 2 * 3 * side * side}

    def test_mosaic_by_hand(self) -> None:
        data = real_set((4,), (1, 2, 2))
        made = formation(data, 1, factor=2, space="unit")
        images = torch.stack([torch.full((1, 2, 2), float(v)) for v in (0.1, 0.2, 0.3, 0.4)])
        made.fill(((images - 0.4) / 0.2)[None])
        torch.testing.assert_close(made.state()["pixels"][0, 0], torch.tensor([[0.1, 0.2], [0.3, 0.4]]))

    def test_time_keeps_the_rows(self) -> None:
        data = real_set((4,), (1, 4, 8))
        made = formation(data, 2, factor=2, axes="time", shrink="nearest", space="normalised")
        images = real_images(data, 4)
        made.fill(images)
        assert made.num_virtual_per_class == 4
        stored = made.state()["pixels"]
        assert torch.equal(stored[1, :, :, :4], images[0, 1, :, :, ::2])  # cell 0 holds images 0 and 1
        assert torch.equal(stored[1, :, :, 4:], images[0, 3, :, :, ::2])

    @pytest.mark.parametrize("shape", [(3, 8, 8), (1, 9, 7)])
    def test_pack_is_what_filling_would_decode_to_and_changes_nothing(self, shape: tuple[int, int, int]) -> None:
        data = real_set((8, 8, 8), shape)
        made, images = formation(data, factor=2), real_images(data, 8)
        made.fill(torch.zeros_like(images))
        before = made.state()["pixels"].clone()
        packed = made.pack(images)
        assert torch.equal(made.state()["pixels"], before)
        assert not packed.requires_grad
        made.fill(images)
        assert torch.equal(packed, made.decode(torch.arange(24))[0])

    @pytest.mark.parametrize("index", [[5], [7, 0, 7, 12], list(range(8, 16))])
    @pytest.mark.parametrize("side", [8, 9])
    def test_decodes_only_what_is_asked_for(self, side: int, index: list[int]) -> None:
        data = real_set((8, 8), (3, side, side))
        made = formation(data, factor=2)
        made.fill(real_images(data, 8))
        every, classes = made.decode(torch.arange(16))
        some, their = made.decode(torch.tensor(index))
        assert torch.equal(some, every[index])
        assert torch.equal(their, classes[index])

    @pytest.mark.parametrize("axes", ["both", "time"])
    @pytest.mark.parametrize("side", [4, 5])
    @pytest.mark.parametrize("space", ["unit", "normalised"])
    def test_gradient(self, side: int, axes: Any, space: Any) -> None:
        made = formation(real_set((4, 4), (1, side, side)), 1, factor=2, axes=axes, space=space)
        pixels = torch.rand(2, 1, side, side, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda p: made._decode(p, torch.tensor([1, 0, 3, 1]))[0], (pixels,))

    def test_gradient_reaches_the_cells_asked_for_only(self) -> None:
        made = formation(real_set((4, 4), (1, 4, 4)), 1, factor=2)
        made.decode(torch.tensor([1]))[0].sum().backward()
        (pixels,) = made.parameters()["pixels"]
        assert pixels.grad is not None
        moved = pixels.grad != 0
        assert moved[0, 0, :2, 2:].all()
        assert moved.sum() == 4


class TestEnlargement:
    @pytest.mark.parametrize(("cell", "side"), [(1, 4), (2, 4), (5, 9), (14, 28), (16, 32)])
    def test_is_linear_interpolation(self, cell: int, side: int) -> None:
        signal = torch.rand(1, 1, cell)
        expected = F.interpolate(signal, size=side, mode="linear", align_corners=False)[0, 0]
        torch.testing.assert_close(enlargement(cell, side) @ signal[0, 0], expected, rtol=0, atol=1e-6)

    def test_by_hand(self) -> None:
        assert enlargement(2, 4).tolist() == [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]


class TestIndices:
    @pytest.mark.parametrize(
        ("draw", "shape"),
        [
            (Draw(), (2, 5)), (Draw("per_class", 3), (2, 3)), (Draw("per_class", 7), (2, 5)), (Draw("all"), (16,)),
            (Draw("minibatch", 9), (9,)), (Draw("minibatch"), (16,)), (Draw("minibatch", 40), (16,)),
        ],
    )
    def test_honours_count_and_limit_without_repeating(self, draw: Draw, shape: tuple[int, ...]) -> None:
        made = formation(real_set((8, 8), (1, 4, 4)), factor=2, max_per_class=5)
        index = made.indices(draw, rng(0, "d"))
        assert index.shape == shape
        assert index.device.type == "cpu"
        assert len(index.unique()) == index.numel()
        if index.ndim == 2:
            assert (index // 8 == torch.tensor([[0], [1]])).all()

    @pytest.mark.parametrize("limit", [0, 8, 9])
    def test_takes_all_in_order_within_the_limit(self, limit: int) -> None:
        made = formation(real_set((8, 8), (1, 4, 4)), factor=2, max_per_class=limit)
        assert torch.equal(made.indices(Draw(), rng(0, "d")), torch.arange(16).view(2, 8))

    def test_subsets_are_drawn_anew_and_reach_everything(self) -> None:
        made = formation(real_set((8, 8), (1, 4, 4)), factor=2, max_per_class=5)
        drawn = [made.indices(Draw(), rng(0, "d", n)) for n in range(8)]
        assert not torch.equal(drawn[0], drawn[1])
        assert len(torch.cat([d.flatten() for d in drawn]).unique()) == 16


class TestSpace:
    def test_unit_is_the_inverse_of_normalising(self) -> None:
        data = real_set((3,), (3, 4, 4))
        space, images = space_of("unit", data), data.gather(torch.arange(3))
        stored = space.encode(images)
        torch.testing.assert_close(stored, data.images / 255.0, rtol=0, atol=1e-6)
        torch.testing.assert_close(space.decode(stored), images, rtol=0, atol=2e-6)

    def test_normalised_is_free(self) -> None:
        space, images = space_of("normalised", real_set((3,), (3, 4, 4))), torch.randn(2, 3, 4, 4) * 9
        assert space.encode(images) is space.decode(images) is images
        before = images.clone()
        space.project(images)
        assert torch.equal(images, before)

    @pytest.mark.parametrize("kind", ["unit", "normalised"])
    def test_grey_is_grey(self, kind: Any) -> None:
        data = real_set((3,), (3, 4, 4))
        space = space_of(kind, data)
        assert data.to_8bit(space.decode(space.grey)).flatten().tolist() == [128, 128, 128]


def stored_in(space: Any, *, packed: bool) -> StoredPixels:
    data = real_set((8, 8), (3, 4, 4))
    return formation(data, 2, factor=2, space=space) if packed else Pixels(PixelsSpec(space=space), 8, data)


@pytest.mark.parametrize("packed", [False, True], ids=["pixels", "multi_formation"])
class TestUnitPixels:
    def test_clamps_after_an_update(self, packed: bool) -> None:
        made = stored_in("unit", packed=packed)
        (pixels,) = made.parameters()["pixels"]
        with torch.no_grad():
            pixels.copy_(torch.linspace(-1, 2, pixels.numel()).view_as(pixels))
        expected = pixels.detach().clamp(0, 1)
        made.project(STEP)
        assert torch.equal(pixels, expected)
        assert pixels.requires_grad

    def test_free_pixels_are_not_clamped(self, packed: bool) -> None:
        made = stored_in("normalised", packed=packed)
        (pixels,) = made.parameters()["pixels"]
        with torch.no_grad():
            pixels.fill_(-7.0)
        made.project(STEP)
        assert (pixels == -7.0).all()

    def test_starts_inside_the_space(self, packed: bool) -> None:
        made: Any = stored_in("unit", packed=packed)
        made.fill(torch.randn(2, 8, 3, 4, 4) * 5)
        stored = made.state()["pixels"]
        assert stored.min() == 0.0
        assert stored.max() == 1.0

    def test_gradient_is_in_stored_units(self, packed: bool) -> None:
        made: Any = stored_in("unit", packed=packed)
        made.decode(torch.arange(16))[0].sum().backward()
        (pixels,) = made.parameters()["pixels"]
        per_channel = pixels.grad.sum((0, 2, 3))
        torch.testing.assert_close(per_channel, 16 * 16 / torch.tensor([0.2, 0.25, 0.3]))

    def test_state_comes_back(self, packed: bool) -> None:
        made, again = stored_in("unit", packed=packed), stored_in("unit", packed=packed)
        (pixels,) = made.parameters()["pixels"]
        with torch.no_grad():
            pixels.uniform_(generator=rng(0, "p"))
        again.load({name: tensor.clone() for name, tensor in made.state().items()})
        assert torch.equal(again.parameters()["pixels"][0], pixels)


class TestPixels:
    def test_unit_decodes_to_the_images_it_was_filled_with(self) -> None:
        data = real_set((4, 4), (3, 6, 6))
        pixels, images = Pixels(PixelsSpec(space="unit"), 4, data), real_images(data, 4)
        pixels.fill(images)
        torch.testing.assert_close(pixels.decode(torch.arange(8))[0], images.flatten(0, 1), rtol=0, atol=2e-6)

    def test_packing_is_the_identity(self) -> None:
        data = real_set((4, 4), (3, 6, 6))
        images = real_images(data, 4)
        assert torch.equal(Pixels(PixelsSpec(), 4, data).pack(images), images.flatten(0, 1))
