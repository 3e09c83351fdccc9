"""Readers of spoken words: WAV files become 64 x 64 spectrograms of magnitudes, time to the right.

The spectrograms are those of the literature (`core/data/spectrogram.py`), computed in float64 and rounded to 8 bits, so that a
digest of them holds on other machines: a transform by another algorithm gave the same bytes for all of `fsdd`.
"""

from __future__ import annotations

import re
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.class_names import MINI_SPEECH_COMMANDS
from core.data.named.raw import RawSplits, missing
from core.data.spectrogram import SIDE, spectrogram
from core.errors import DatasetUnreadableError

FSDD_RATE, MINI_SPEECH_COMMANDS_RATE = 8_000, 16_000
"""Samples per second."""

FSDD_TEST_TAKES = 5
EVERY_TEST_CLIP = 8

Clips = Sequence[tuple[Path, int]]


def fsdd(root: Path) -> RawSplits:
    """The Free Spoken Digit Dataset: DIGIT_SPEAKER_TAKE.wav in the order of the names; takes 0 to 4 are the test split."""
    train: list[tuple[Path, int]] = []
    test: list[tuple[Path, int]] = []
    for path in sorted((root / "fsdd" / "recordings").glob("*.wav")):
        named = re.fullmatch(r"([0-9])_[a-z]+_([0-9]+)", path.stem)
        if named is None:
            raise DatasetUnreadableError(f"{path} is not named DIGIT_SPEAKER_TAKE.wav")
        (test if int(named[2]) < FSDD_TEST_TAKES else train).append((path, int(named[1])))
    if not train or not test:
        raise missing(
            "fsdd", root, "and is not downloaded",
            "fsdd/recordings/*.wav (the folder of that name of the repository Jakobovski/free-spoken-digit-dataset)",
        )
    return RawSplits(*_drawn(train, FSDD_RATE), *_drawn(test, FSDD_RATE))


def mini_speech_commands(root: Path) -> RawSplits:
    """Eight words; of the sorted files of each word, the first and every eighth after it are the test split."""
    folder = root / "mini_speech_commands"
    train: list[tuple[Path, int]] = []
    test: list[tuple[Path, int]] = []
    for label, word in enumerate(MINI_SPEECH_COMMANDS):
        for i, path in enumerate(sorted((folder / word).glob("*.wav"))):
            (train if i % EVERY_TEST_CLIP else test).append((path, label))
    if not train or not test:
        raise missing(
            "mini-speech-commands", root, "and is not downloaded",
            "mini_speech_commands/<word>/*.wav (the unpacked mini_speech_commands.zip)",
        )
    return RawSplits(*_drawn(train, MINI_SPEECH_COMMANDS_RATE), *_drawn(test, MINI_SPEECH_COMMANDS_RATE))


def _drawn(clips: Clips, rate: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images = np.empty((len(clips), 1, SIDE, SIDE), np.uint8)
    for i, (path, _) in enumerate(clips):
        images[i, 0] = spectrogram(_samples(path, rate), rate)
    return images, np.array([label for _, label in clips], np.int64)


def _samples(path: Path, rate: int) -> NDArray[np.float32]:
    """(N,) in [-1, 1) of a file of 16-bit integers in one channel."""
    try:
        with wave.open(str(path), "rb") as clip:
            form = clip.getnchannels(), clip.getsampwidth(), clip.getframerate()
            data = clip.readframes(clip.getnframes())
    except (wave.Error, EOFError) as error:
        raise DatasetUnreadableError(f"{path} is no WAV file: {error}") from error
    if form != (1, 2, rate):
        raise DatasetUnreadableError(f"{path} is not mono, 16 bit, {rate} Hz")
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
