"""Readers of spoken words, on generated WAV files of the published layouts."""

from __future__ import annotations

import logging
import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from core.catalogue import CATALOGUE
from core.class_names import MINI_SPEECH_COMMANDS
from core.data import canonical
from core.data.prepare import prepare
from core.data.sources import READERS
from core.data.spectrogram import spectrogram
from core.errors import DatasetUnreadableError

pytestmark = pytest.mark.unit


def write_wav(path: Path, rate: int, *, frequency: float = 1000.0, channels: int = 1, width: int = 2) -> NDArray[np.float32]:
    """A tenth of a second of a tone; the samples as a reader should give them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.rint(20_000 * np.sin(2 * np.pi * frequency * np.arange(rate // 10) / rate)).astype("<i2")
    with wave.open(str(path), "wb") as clip:
        clip.setnchannels(channels)
        clip.setsampwidth(width)
        clip.setframerate(rate)
        clip.writeframes(samples.tobytes())
    return (samples / 32768).astype(np.float32)


def write_fsdd(root: Path) -> dict[str, NDArray[np.float32]]:
    """Digits 0 and 9 by two speakers, takes 0, 4, 5, 10 and 49."""
    return {
        f"{digit}_{speaker}_{take}": write_wav(
            root / "fsdd" / "recordings" / f"{digit}_{speaker}_{take}.wav", 8000, frequency=500 + 100 * digit + 10 * take
        )
        for digit in (0, 9) for speaker in ("theo", "jackson") for take in (0, 4, 5, 10, 49)
    }


def write_mini_speech_commands(root: Path) -> dict[str, NDArray[np.float32]]:
    """Ten clips of each word, and what else the archive holds."""
    folder = root / "mini_speech_commands"
    found = {
        f"{word}/{i}": write_wav(folder / word / f"{i:08x}_nohash_0.wav", 16_000, frequency=300 * (label + 1) + 20 * i)
        for label, word in enumerate(MINI_SPEECH_COMMANDS) for i in range(10)
    }
    (folder / "README.md").write_text("Eight words.")
    return found


class TestFSDD:
    def test_refuses_a_file_of_another_name(self, tmp_path: Path) -> None:
        write_fsdd(tmp_path)
        write_wav(tmp_path / "fsdd" / "recordings" / "theo.wav", 8000)
        with pytest.raises(DatasetUnreadableError, match=r"theo\.wav is not named DIGIT_SPEAKER_TAKE\.wav"):
            READERS["fsdd"](tmp_path)

    @pytest.mark.parametrize(("rate", "channels", "width"), [(16_000, 1, 2), (8000, 2, 2), (8000, 1, 1)])
    def test_refuses_another_form(self, rate: int, channels: int, width: int, tmp_path: Path) -> None:
        write_fsdd(tmp_path)
        write_wav(tmp_path / "fsdd" / "recordings" / "3_theo_7.wav", rate, channels=channels, width=width)
        with pytest.raises(DatasetUnreadableError, match=r"3_theo_7\.wav is not mono, 16 bit, 8000 Hz"):
            READERS["fsdd"](tmp_path)

    @pytest.mark.parametrize("content", [b"", b"RIFF\0\0\0\0WAVE", b"no sound"])
    def test_refuses_what_is_no_sound(self, content: bytes, tmp_path: Path) -> None:
        write_fsdd(tmp_path)
        (tmp_path / "fsdd" / "recordings" / "3_theo_7.wav").write_bytes(content)
        with pytest.raises(DatasetUnreadableError, match=r"3_theo_7\.wav is no WAV file"):
            READERS["fsdd"](tmp_path)

    def test_splits_by_takes_in_the_order_of_the_names(self, tmp_path: Path) -> None:
        samples = write_fsdd(tmp_path)
        splits = READERS["fsdd"](tmp_path)
        assert splits.train_images.shape == (12, 1, 64, 64)
        assert splits.train_labels.tolist() == [0] * 6 + [9] * 6
        assert splits.test_labels.tolist() == [0] * 4 + [9] * 4
        order = [f"{digit}_{speaker}_{take}" for digit in (0, 9) for speaker in ("jackson", "theo") for take in (10, 49, 5)]
        assert all(
            np.array_equal(image[0], spectrogram(samples[name], 8000))
            for image, name in zip(splits.train_images, order, strict=True)
        )

    def test_other_recordings_are_refused_by_their_digest(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_fsdd(tmp_path)
        counts = {"train_per_class": (6, *(0,) * 8, 6), "test_per_class": (4, *(0,) * 8, 4)}
        monkeypatch.setitem(CATALOGUE, "fsdd", CATALOGUE["fsdd"].model_copy(update=counts))
        with pytest.raises(DatasetUnreadableError, match="the catalogue says 0725f9aa2bb90fa8"):
            prepare("fsdd", tmp_path, tmp_path / "out")


class TestMiniSpeechCommands:
    def test_every_eighth_clip_of_a_word_is_a_test_image(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        samples = write_mini_speech_commands(tmp_path)
        counts = {"train_per_class": (8,) * 8, "test_per_class": (2,) * 8}
        monkeypatch.setitem(CATALOGUE, "mini-speech-commands", CATALOGUE["mini-speech-commands"].model_copy(update=counts))
        with caplog.at_level(logging.WARNING):
            prepare("mini-speech-commands", tmp_path, tmp_path / "out")
        assert "not verified" in caplog.text
        splits, _ = canonical.read(tmp_path / "out")
        assert splits.train_labels.tolist() == np.repeat(np.arange(8), 8).tolist()
        order = [f"{word}/{i}" for word in MINI_SPEECH_COMMANDS for i in (0, 8)]
        assert all(
            np.array_equal(image[0], spectrogram(samples[name], 16_000))
            for image, name in zip(splits.test_images, order, strict=True)
        )
