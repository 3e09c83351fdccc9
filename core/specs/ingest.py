"""A job of kind `ingest`: from a user's files to a data set that jobs can distil. Torch-free.

The files are hostile until they are read: the child that reads them is locked down, and these limits are its own.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, field_validator

from core.catalogue import DatasetInfo
from core.specs.base import Spec
from core.specs.run_options import RunOptions

Format = Literal[
    "imagefolder_zip", "imagefolder_tar", "labels_zip", "labels_tar", "webdataset_tar", "npz", "safetensors", "parquet",
    "parquet_tar", "audiofolder_zip", "audiofolder_tar",
]
"""What an upload holds; a tar may be compressed with gzip, bzip2 or xz.

- `imagefolder_*`: `CLASS/FILE`, or `SPLIT/CLASS/FILE` with `train` and `test` (or `val`, `valid`, `validation`).
- `labels_*`: images and one list of labels, `labels.csv` or `labels.json`, with the columns (keys) of `file_column`,
  `label_column` and optionally `split`.
- `webdataset_tar`: members `KEY.jpg|png|webp` and `KEY.cls` (or `KEY.json` with the `label_column`), side by side; a key may
  begin with its split, `train/` or `test/`.
- `npz`, `safetensors`: arrays `train_images` and `train_labels`, optionally `test_images` and `test_labels`; or `images` and
  `labels`. Images (N, H, W), (N, H, W, C) or (N, C, H, W) uint8, or floating-point in [0, 1].
- `parquet`, `parquet_tar`: rows with `image_column` (encoded bytes, or a struct with `bytes`) and `label_column`; in a tar,
  a folder named like a split, or the beginning of the file's name (`train-00000.parquet`), is its split.
- `audiofolder_*`: as `imagefolder_*` with WAV files, which become 64 x 64 spectrograms of magnitudes.
"""


MIN_SIDE, MAX_SIDE = 8, 224
"""Pixels of the images of a data set."""


class ConversionSpec(Spec):
    """How files become the images of a data set."""

    size: int = Field(default=0, ge=0, le=MAX_SIDE)
    """Height and width in pixels, 8 to 224; 0: that of the images where all have the same square one in that range, else the
    largest of 28, 32 and 64 that most of them fill."""

    resize: Literal["centre_crop", "fit"] = "centre_crop"
    """Images that are not square lose their longer ends, or keep everything and get bars of their mean colour."""

    colour: Literal["auto", "grey", "rgb"] = "auto"
    """`auto`: grey where every image is."""

    test_fraction: float = Field(default=0.2, gt=0.0, le=0.5)
    """Part of every class that becomes the test split (rounded, at least one image) where the files name no split."""

    split_seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Decides which images these are."""

    max_corrupt: int = Field(default=0, ge=0, le=1_000_000)
    """Images that may be unreadable; they are left out and counted. One more refuses the whole."""

    mirrored: bool = True
    """Whether a mirrored image still shows its class, so that `flip` is a fair augmentation."""

    file_column: str = Field(default="file", min_length=1, max_length=128)
    """Column (key) of a list of labels that names the image."""

    image_column: str = Field(default="image", min_length=1, max_length=128)
    """Column of a parquet file with the image."""

    label_column: str = Field(default="label", min_length=1, max_length=128)
    """Column (key) with the class: text, or a number."""

    @field_validator("size")
    @classmethod
    def _is_a_size(cls, size: int) -> int:
        if 0 < size < MIN_SIDE:
            raise ValueError(f"size must be 0, or {MIN_SIDE} to {MAX_SIDE} pixels")
        return size


class IngestLimits(BaseModel):
    """What an installation allows one set of files to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_members: PositiveInt = 2_000_000
    """Entries of an archive, or images."""
    max_member_bytes: PositiveInt = 64 << 20
    """Inflated."""
    max_inflated_bytes: PositiveInt = 60 << 30
    """All members together."""
    max_inflation: PositiveInt = 4
    """All members together, as a multiple of the file. Small files may inflate to `always_inflated_bytes`."""
    always_inflated_bytes: NonNegativeInt = 256 << 20
    max_member_ratio: PositiveInt = 200
    """Inflated size of a member, as a multiple of what it takes in the archive. Members up to 1 MiB are not looked at."""
    max_side: PositiveInt = 4096
    """Pixels."""
    max_pixels: PositiveInt = 16_000_000
    max_classes: PositiveInt = 1000
    max_class_name: PositiveInt = 128
    """Characters."""
    max_arrays: PositiveInt = 16
    max_canonical_bytes: PositiveInt = 16 << 30
    """The finished data set."""
    max_memory_bytes: PositiveInt = 8 << 30
    max_cpu_seconds: int = Field(default=3600, ge=1, le=15 * 86_400)
    max_problems: PositiveInt = 20
    """Refusals that are told of one set of files."""


class IngestProblem(BaseModel):
    """Why files were refused."""

    model_config = ConfigDict(frozen=True)

    code: str
    """Stable, for example `unsafe_name`."""
    message: str
    """A sentence for a person, which names the rule."""
    member: str = ""
    """The entry of the archive, row or array that breaks it, printable and cut to 200 characters; empty: the whole file."""


class IngestSpec(RunOptions):
    """Read a complete upload into a data set. Clients do not send it: registering a data set makes it."""

    kind: Literal["ingest"] = "ingest"
    spec_version: Literal[1] = 1
    dataset_id: str
    title: str
    """The user's name for it."""
    upload_id: str = ""
    """The upload that holds the files; empty where they lie in a store."""

    store_uri: str = ""
    """Where the files lie; empty where they were uploaded."""

    filename: str
    size_bytes: int = 0
    sha256: str = ""
    """Of the whole file, in hex, as the client stated it; empty where it was not uploaded."""
    format: Format
    conversion: ConversionSpec = ConversionSpec()


class IngestSummary(BaseModel):
    """What became of the files: the summary of an `ingest` job, and what is known of its data set."""

    model_config = ConfigDict(frozen=True)

    info: DatasetInfo
    size_bytes: int
    """Of the canonical arrays."""
    num_corrupt: int = 0
    """Unreadable images that were left out."""
    num_duplicates: int = 0
    """Images that look like an earlier one: the same 64-bit difference hash of luminance, and nearly the same pixels."""
    num_leaked: int = 0
    """Test images that look like a training image."""
    notes: tuple[str, ...] = ()
    """What was done to the images, and what the user should know: conversion, imbalance, small classes."""


UPLOAD_FILE = "upload"
"""Name in a job directory of the user's file."""

SAMPLES_FILE = "samples.json"
"""Artifact of an ingest job: a list of `Sample` for people, at most 16 of each class and split and 4000 in all."""


class SampleView(BaseModel):
    """One image of a data set, for a person."""

    model_config = ConfigDict(frozen=True)

    split: Literal["train", "test"]
    label: int
    png: str
    """The file, in base64."""
