"""What is known of a data set when it is finished: the facts of a built-in one, and what its owner should know."""

from __future__ import annotations

import numpy as np

from core.catalogue import DatasetInfo
from core.data.named.raw import RawSplits
from core.ingest.convert import Converted
from core.ingest.statistics import Statistics
from core.specs.ingest import IngestSpec, IngestSummary

IMBALANCE = 3
"""Classes that differ in size by more than this factor are worth a note."""
FEW = 10
"""Classes with fewer training images are worth a note."""


def summary_of(spec: IngestSpec, converted: Converted, counted: Statistics, digest: str) -> IngestSummary:
    """The summary of the job; `digest` is that of the canonical form."""
    splits, classes = converted.splits, converted.classes
    _, channels, height, width = splits.train_images.shape
    train = np.bincount(splits.train_labels, minlength=len(classes)).tolist()
    test = np.bincount(splits.test_labels, minlength=len(classes)).tolist()
    sound = spec.format in ("audiofolder_zip", "audiofolder_tar")  # a spectrogram that is mirrored runs backwards
    info = DatasetInfo(
        name=spec.dataset_id, title=spec.title, channels=channels, height=height, width=width, classes=classes,
        train_per_class=tuple(train), test_per_class=tuple(test), mean=counted.mean, std=counted.std,
        mirrored=spec.conversion.mirrored and not sound, split_rule=converted.split_rule, digest=digest,
        source=f"uploaded as {spec.filename}" if spec.upload_id else f"read from {spec.store_uri}", time_axis=sound,
    )
    return IngestSummary(
        info=info, size_bytes=size_of(splits), num_corrupt=converted.num_corrupt, num_duplicates=counted.num_duplicates,
        num_leaked=counted.num_leaked, notes=converted.notes + _warnings(info, counted),
    )


def size_of(splits: RawSplits) -> int:
    """Bytes of the canonical arrays."""
    return sum(array.nbytes for array in (splits.train_images, splits.train_labels, splits.test_images, splits.test_labels))


def _warnings(info: DatasetInfo, counted: Statistics) -> tuple[str, ...]:
    said = []
    counts = info.train_per_class
    most, least = counts.index(max(counts)), counts.index(min(counts))
    if counts[most] > IMBALANCE * counts[least]:
        said.append(
            f"The classes are not balanced: {info.classes[most]!r} has {counts[most]} training images, "
            f"{info.classes[least]!r} {counts[least]}."
        )
    if few := sum(count < FEW for count in counts):
        said.append(f"{few} class(es) have fewer than {FEW} training images; {info.classes[least]!r} has {counts[least]}.")
    if counted.num_leaked:
        said.append(
            f"{counted.num_leaked} test image(s) look like a training image, so that accuracies may come out too high."
        )
    if counted.num_duplicates:
        said.append(f"{counted.num_duplicates} image(s) look like another one.")
    return tuple(said)
