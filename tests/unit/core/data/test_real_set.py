from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from core.catalogue import dataset_info
from core.data import canonical
from core.data.real_set import RealSet
from core.errors import DatasetUnreadableError

pytestmark = pytest.mark.unit
CPU = torch.device("cpu")


class TestRealSet:
    def test_refuses_other_data(self, digits_dir: Path, tmp_path: Path) -> None:
        folder = tmp_path / "copy"
        shutil.copytree(digits_dir, folder)
        manifest = folder / canonical.MANIFEST
        manifest.write_text(manifest.read_text().replace(dataset_info("digits").digest, "0" * 64))
        with pytest.raises(DatasetUnreadableError, match="digest"):
            RealSet.load(folder, dataset_info("digits"), device=CPU)

    def test_takes_any_data_of_a_set_without_a_digest(self, digits_dir: Path, digits: RealSet) -> None:
        unverified = RealSet.load(digits_dir, dataset_info("digits").model_copy(update={"digest": None}), device=CPU)
        assert unverified.digest == digits.digest == dataset_info("digits").digest
        assert torch.equal(unverified.images, digits.images)

    def test_is_sorted_by_class_with_offsets(self, digits: RealSet) -> None:
        assert digits.counts == digits.info.train_per_class
        assert digits.images.dtype == torch.uint8
        for label, (offset, count) in enumerate(zip(digits.offsets, digits.counts, strict=True)):
            assert (digits.labels[offset : offset + count] == label).all()

    def test_keeps_images_with_their_labels(self, digits: RealSet, digits_dir: Path) -> None:
        splits, _ = canonical.read(digits_dir)
        for label in range(10):
            first = digits.images[digits.offsets[label]].numpy()
            assert np.array_equal(first, splits.train_images[splits.train_labels == label][0])

    def test_gathers_normalised_images(self, digits: RealSet) -> None:
        index = torch.tensor([[3, 700], [5, 1]])
        found = digits.gather(index)
        assert found.shape == (2, 2, 1, 8, 8)
        assert found.dtype == torch.float32
        expected = (digits.images[700].double() / 255 - 0.3054) / 0.3760
        torch.testing.assert_close(found[0, 1].double(), expected, rtol=0, atol=1e-6)

    def test_eight_bit_is_the_inverse_of_normalising(self, digits: RealSet) -> None:
        every_value = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
        assert torch.equal(digits.to_8bit(digits.normalise(every_value)), every_value)

    def test_eight_bit_clamps(self, digits: RealSet) -> None:
        assert digits.to_8bit(torch.tensor([-9.0, 9.0]).view(2, 1, 1, 1)).flatten().tolist() == [0, 255]


class TestDrawPerClass:
    def test_different_images_of_each_class_that_follow_the_generator(self, digits: RealSet) -> None:
        first, again, other = (digits.draw_per_class(9, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
        assert torch.equal(digits.labels[first], torch.arange(10)[:, None].expand(10, 9))
        assert all(len(set(row)) == 9 for row in first.tolist())
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_clips_to_the_smallest_class(self, digits: RealSet) -> None:
        assert digits.draw_per_class(1000, torch.Generator()).shape == (10, min(digits.counts))


class TestHeldOut:
    def test_is_disjoint_stratified_and_complete(self, digits_dir: Path, digits: RealSet) -> None:
        info = dataset_info("digits")
        split = RealSet.load(digits_dir, info, device=CPU, seed=3, held_out_fraction=0.1)
        assert split.counts == info.train_per_class_after(0.1)
        assert split.held_out_labels.bincount().tolist() == [int(n * 0.1) for n in info.train_per_class]

        def keys(images: torch.Tensor, labels: torch.Tensor) -> list[bytes]:
            return sorted(bytes([int(y)]) + x.numpy().tobytes() for x, y in zip(images, labels, strict=True))

        together = keys(split.images, split.labels) + keys(split.held_out_images, split.held_out_labels)
        assert sorted(together) == keys(digits.images, digits.labels)

    def test_follows_the_seed(self, digits_dir: Path) -> None:
        info = dataset_info("digits")
        a, b, c = (RealSet.load(digits_dir, info, device=CPU, seed=s, held_out_fraction=0.2) for s in (1, 1, 2))
        assert torch.equal(a.held_out_images, b.held_out_images)
        assert not torch.equal(a.held_out_images, c.held_out_images)

    def test_is_empty_by_default(self, digits: RealSet) -> None:
        assert len(digits.held_out_images) == 0
