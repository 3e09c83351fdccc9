"""A recording as a 64 x 64 picture: its magnitude spectrogram, frequency upwards, time to the right, brightness the logarithm.

Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022, arXiv:2205.14959, whose released
code (`speech/`) is the one source that gives the numbers; Li et al., "Diversified Semantic Distribution Matching for Dataset
Distillation", ACM MM 2024, report on the same 64 x 64 magnitude spectrograms without code. As there: one second, shorter
recordings padded with silence; a periodic Hann window of 255 samples at 16 kHz every 128, centred; 128 frequencies to 8 kHz;
125 frames with one empty frame before and two after; averages of 2 x 2; log(magnitude + 0.001).

Chosen here:
- Standardising comes later, with the data set's own statistics, so the logarithm is put into 0 to 255 by one fixed map: 0 is
  silence, 255 the loudest that samples in [-1, 1] can be, a step 0.4 dB. Loudness stays comparable between recordings.
- Low frequencies are at the bottom, as people draw it; the reference has them in its first row and turns its pictures over.
- Other rates are not resampled. Window and step keep their durations, and magnitudes are those of 16 kHz. Above 16 kHz the
  frequencies beyond 8 kHz are left out, which is what resampling would do; below it the picture ends at half the rate,
  because its upper part would be empty.
- A recording longer than a second is not cut: the picture holds all of it, its columns averages over more frames.
- Frames that reach over an end see silence there.

Shapes: N samples, F frames, B frequencies.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIDE = 64
"""Height and width in pixels."""
MIN_RATE = 8_000
"""Hz; 64 different frequencies need it."""

REFERENCE_RATE = 16_000
WINDOW = 255
STEPS_PER_SECOND = 125
BINS = 128
"""Frequencies of the reference, 62.7 Hz apart: those of a window of 255 samples at 16 kHz."""
EMPTY_BEFORE, EMPTY_AFTER = 1, 2
FLOOR = 1e-3
LOUDEST = WINDOW / 2
"""Sum of the window: the magnitude of a constant 1."""
FRAMES_AT_ONCE = 1024


def top_frequency(rate: int) -> float:
    """Hz at the upper edge of the picture. Pictures with different ones do not belong into one data set."""
    return min(rate, REFERENCE_RATE) / 2


def spectrogram(samples: NDArray[np.float32], rate: int) -> NDArray[np.uint8]:
    """Draw a recording.

    Args:
        samples: (N,) float32 in [-1, 1], finite, at least one; not changed.
        rate: samples per second, at least 8000.

    Returns:
        (64, 64) uint8. Row 63 starts at 0 Hz, row 0 ends at `top_frequency`; column 0 is the beginning. The columns cover one
        second, or the whole recording where that is longer.

    Raises:
        ValueError: no samples, or a rate below 8000.
    """
    if len(samples) == 0 or rate < MIN_RATE:
        raise ValueError(f"{len(samples)} samples at {rate} Hz; at least one, at {MIN_RATE} Hz or more, is needed")
    magnitudes_FB = _magnitudes(np.pad(samples, (0, max(0, rate - len(samples)))), rate)
    padded = np.pad(magnitudes_FB, ((EMPTY_BEFORE, EMPTY_AFTER), (0, 0)))
    picture = _averaged(_averaged(padded).T)
    brightness = np.log(picture + FLOOR) - np.log(FLOOR)
    scaled = np.rint(255 * brightness / (np.log(LOUDEST + FLOOR) - np.log(FLOOR)))
    return np.ascontiguousarray(np.clip(scaled, 0, 255)[::-1].astype(np.uint8))


def _magnitudes(samples: NDArray[np.float32], rate: int) -> NDArray[np.float64]:
    """(F, B) of frames 1/125 s apart, the first centred on the first sample; B is 64 to 128."""
    length = int(WINDOW * rate / REFERENCE_RATE) | 1  # odd, so that a frame has a middle
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    bins = min(BINS, length // 2 + 1)
    padded = np.pad(samples, (length // 2, length // 2))
    num_frames = 1 + (len(samples) - 1) * STEPS_PER_SECOND // rate
    starts = np.arange(num_frames) * rate // STEPS_PER_SECOND  # exact: a rounded step would drift at 44.1 kHz
    magnitudes = np.empty((num_frames, bins))
    views = np.lib.stride_tricks.sliding_window_view(padded, length)
    for first in range(0, num_frames, FRAMES_AT_ONCE):
        frames = views[starts[first : first + FRAMES_AT_ONCE]] * window
        magnitudes[first : first + FRAMES_AT_ONCE] = np.abs(np.fft.rfft(frames, axis=1)[:, :bins])
    magnitudes *= LOUDEST / window.sum()
    return magnitudes


def _averaged(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shrink the first axis to 64 by averages over equal, possibly fractional pieces; 128 become averages of pairs."""
    cells = len(values)
    sums = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])
    edges = np.linspace(0, cells, SIDE + 1)
    whole = np.minimum(edges.astype(np.intp), cells - 1)
    at_edges = sums[whole] + (edges - whole)[:, None] * values[whole]
    averages: NDArray[np.float64] = np.diff(at_edges, axis=0) * (SIDE / cells)
    return averages
