"""WAV files in folders that name their class, and maybe their split; each becomes a 64 x 64 spectrogram.

See `core.data.spectrogram` for what the picture shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.data.spectrogram import SIDE, spectrogram, top_frequency
from core.ingest.folders import FolderRule, SideFiles
from core.ingest.members import Container, open_members
from core.ingest.samples import Corrupt, Refused, Sample, Size, Split
from core.ingest.wav import Wav, parse_wav
from core.specs.ingest import ConversionSpec, IngestLimits

SUFFIXES = (".wav",)


class AudioReader:
    """`CLASS/FILE.wav` or `SPLIT/CLASS/FILE.wav`, in one common top folder or in none."""

    class_names: tuple[str, ...] = ()

    def __init__(self, path: Path, container: Container, _conversion: ConversionSpec, limits: IngestLimits) -> None:
        self._path, self._container, self._limits = path, container, limits
        self.notes: tuple[str, ...] = ()

    def samples(self) -> Iterator[Sample]:
        """Every recording in the order of the archive.

        Raises:
            Refused: the archive or a folder breaks a rule; a recording is too long, of a kind that is not read, or of a rate
                that does not fit those before it.
        """
        rule, side_files = FolderRule(), SideFiles()
        top: float | None = None
        for member in open_members(self._path, self._container, self._limits):
            if not member.name.lower().endswith(SUFFIXES):
                side_files.leave_out(member.name, SUFFIXES)
                continue
            split, label = rule.split_and_label(member.name)
            try:
                wav = parse_wav(member.name, member.read())
            except Corrupt as error:
                yield _corrupt_sample(member.name, label, split, error)
                continue
            top = top or top_frequency(wav.rate)
            if top_frequency(wav.rate) != top:
                raise Refused(
                    "mixed_rates",
                    f"the picture would end at {top_frequency(wav.rate):g} Hz, that of the first recording does at {top:g} Hz; "
                    "give all recordings one rate, or rates of 16000 and more",
                    member.name,
                )
            yield Sample(member.name, label, split, Size(SIDE, SIDE, 1), partial(_drawn, wav))
        self.notes = rule.notes + side_files.notes


def _drawn(wav: Wav) -> NDArray[np.uint8]:
    return spectrogram(wav.samples(), wav.rate)[:, :, None]


def _corrupt_sample(name: str, label: str, split: Split, error: Corrupt) -> Sample:
    def fail() -> NDArray[np.uint8]:
        raise error

    return Sample(name, label, split, Size(0, 0, 0), fail)
