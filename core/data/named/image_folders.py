"""Readers of unpacked archives of JPEG files: TinyImageNet, Imagenette, Imagewoof.

Labels follow the sorted WordNet ids of the folders, images the sorted file names; grey files become three equal channels. A
digest of their canonical form would be one of decoded pixels, and decoders of JPEG may differ in a last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.class_names import TINY_IMAGENET
from core.data.named.raw import RawSplits, missing
from core.data.named.torchvision_sets import download
from core.errors import DatasetUnreadableError

TINY_IMAGENET_SIDE, IMAGENETTE_SIDE = 64, 128
TINY_IMAGENET_FILES = (
    "tiny-imagenet-200/train/<wnid>/images/*.JPEG, tiny-imagenet-200/val/val_annotations.txt and "
    "tiny-imagenet-200/val/images/*.JPEG (the unpacked tiny-imagenet-200.zip)"
)


def tiny_imagenet(root: Path) -> RawSplits:
    """The validation images, as annotated, are the test split."""
    folder = root / "tiny-imagenet-200"
    labels = {wnid: label for label, wnid in enumerate(TINY_IMAGENET)}
    train = [
        (path, label) for wnid, label in labels.items() for path in sorted((folder / "train" / wnid / "images").glob("*.JPEG"))
    ]
    annotations = folder / "val" / "val_annotations.txt"
    if not train or not annotations.is_file():
        raise missing("tiny-imagenet", root, "and is not downloaded", TINY_IMAGENET_FILES)
    test: list[tuple[Path, int]] = []
    for line in annotations.read_text().splitlines():
        file, wnid, *_box = line.split("\t")
        if wnid not in labels:
            raise DatasetUnreadableError(f"{annotations} names the class {wnid!r}, which TinyImageNet does not have")
        test.append((folder / "val" / "images" / file, labels[wnid]))
    return RawSplits(*_decoded(train, TINY_IMAGENET_SIDE, squared=False), *_decoded(test, TINY_IMAGENET_SIDE, squared=False))


def imagenette(name: str, classes: Mapping[str, str], *, downloaded: bool) -> Callable[[Path], RawSplits]:
    """Reader of one of fast.ai's subsets in its second edition, from the archive whose shorter sides are 160 px.

    The validation images are the test split. As MTT and HaBa read their ImageNet subsets, images are resized to a shorter side
    of 128 px and lose their longer ends.
    """
    archive = f"{name}2-160"
    files = f"{archive}/train/<wnid>/*.JPEG and {archive}/val/<wnid>/*.JPEG (the unpacked {archive}.tgz)"

    def read(root: Path) -> RawSplits:
        if downloaded and not (root / archive).is_dir():
            download(_imagenette_part, root, name, files)
        parts = [
            [(path, i) for i, wnid in enumerate(classes) for path in sorted((root / archive / split / wnid).glob("*.JPEG"))]
            for split in ("train", "val")
        ]
        if not all(parts):
            raise missing(name, root, "as a whole" if downloaded else "and is not downloaded", files)
        train, test = (_decoded(part, IMAGENETTE_SIDE, squared=True) for part in parts)
        return RawSplits(*train, *test)

    return read


def _imagenette_part(root: str, *, train: bool, download: bool) -> Any:
    from core.data.vision import datasets

    return datasets.Imagenette(root, split="train" if train else "val", size="160px", download=download)


def _decoded(
    files: Sequence[tuple[Path, int]], side: int, *, squared: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images = np.empty((len(files), 3, side, side), np.uint8)
    for i, (path, _) in enumerate(files):
        with Image.open(path) as image:
            colour = _square(image.convert("RGB"), side) if squared else image.convert("RGB")
        if colour.size != (side, side):
            raise DatasetUnreadableError(f"{path} is not {side} x {side} pixels")
        images[i] = np.asarray(colour).transpose(2, 0, 1)
    return images, np.array([label for _, label in files], np.int64)


def _square(image: Image.Image, side: int) -> Image.Image:
    """Bilinear with the longer side rounded down, then the middle, as torchvision's `Resize` and `CenterCrop` do."""
    width, height = (int(side * length / min(image.size)) for length in image.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + side, top + side))
