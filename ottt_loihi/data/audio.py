"""Sound: WAV files as log-mel frames, folders of them, and the Free Spoken Digit Dataset."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.class_folders import load_class_folder
from ottt_loihi.data.folder import Layout, contents, find, read_bytes
from ottt_loihi.data.lengths import same_length
from ottt_loihi.data.split import Split
from ottt_loihi.errors import FileError, UsageError

MAX_BYTES = 1 << 28  # of one recording
WINDOW = 0.032  # seconds of sound in a frame
HOP = 0.010  # seconds between two frames
DECIBELS = 60.0  # what lies further below the loudest band of a recording is silence
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUM_TEST = 5  # recordings 0 … 4 of each speaker and digit, as published
FSDD = (
    Layout("archive", ("fsdd",), {"archive": ("fsdd.tar.xz",)}),
    Layout(
        "folder",
        ("fsdd", "free-spoken-digit-dataset", "fsdd/fsdd"),
        {"recordings": ("recordings/",)},
        "with .wav files",
    ),
)


def load_fsdd(
    folder: str | os.PathLike[str] | None = None,
    bands: int = 40,
    num_steps: int = 40,
    lengths: str = "stretch",
    held_out: str = "",
) -> Split:
    """Spoken digits as log-mel frames, float32 ``(n, num_steps, bands)`` in [0, 1]; 2,700 + 300 recordings at 8 kHz.

    Parameters
    ----------
    bands, num_steps, lengths
        of :func:`log_mel` and :func:`~ottt_loihi.data.lengths.same_length`
    held_out
        a speaker's name: all of this speaker's recordings are the test part, in place of the published split (the
        recordings 0 … 4 of every speaker and digit)
    """
    found = find("fsdd", FSDD, folder)
    files = contents(found, "recordings/*.wav")
    named = {name: re.fullmatch(r"recordings/(\d)_([a-z]+)_(\d+)\.wav", name) for name in sorted(files)}
    named = {name: match.groups() for name, match in named.items() if match}
    if not named:
        raise FileError(f"{found.folder}: no recordings digit_speaker_number.wav")
    speakers = sorted({speaker for _, speaker, _ in named.values()})
    if held_out and held_out not in speakers:
        raise UsageError(f"held_out: expected one of {', '.join(speakers)}, got {held_out!r}")
    frames = [log_mel(*read_wav(files[name], name)[:2], bands) for name in named]
    x, notes = same_length(frames, lengths, "fsdd", num_steps)
    y = np.array([int(digit) for digit, _, _ in named.values()], np.int64)
    test = np.array([s == held_out if held_out else int(n) < NUM_TEST for _, s, n in named.values()])
    if test.all() or not test.any():
        raise FileError(f"{found.folder}: expected recordings of both parts, found {int(test.sum())} for testing")
    return Split(x[~test], y[~test], x[test], y[test], 10, time_axis=True, name="fsdd", class_names=DIGITS, notes=notes)


def load_wav_folder(
    folder: str | os.PathLike[str],
    bands: int = 40,
    num_steps: int = 40,
    rate: int = 16_000,
    lengths: str = "stretch",
    test_share: float = 0.2,
    seed: int = 0,
) -> Split:
    """A folder of recordings, ``<class>/*.wav``, or ``train/<class>`` and ``test/<class>``, as log-mel frames.

    Parameters
    ----------
    bands, num_steps, lengths
        of :func:`log_mel` and :func:`~ottt_loihi.data.lengths.same_length`
    rate
        in Hz; recordings of another rate are resampled, and ``notes`` say how many
    test_share, seed
        of each class, where the folder has no parts of its own

    Returns
    -------
    float32 ``(n, num_steps, bands)`` in [0, 1]
    """
    checks.integer(rate, "rate", 100, 1 << 20)
    folder = Path(folder)

    def read(parts: list[list[Path]]) -> tuple[list[np.ndarray], list[str]]:
        samples, notes = [], []
        for paths in parts:
            frames, said = _recordings(paths, bands, rate)
            x, more = same_length(frames, lengths, folder.name, num_steps)
            samples.append(x)
            notes += [*said, *more]
        return samples, notes

    return load_class_folder(folder, (".wav",), read, test_share, seed)


def read_wav(content: bytes, where: str) -> tuple[np.ndarray, int, int]:
    """Return samples float64 ``(n,)`` in [−1, 1], the rate in Hz, and the number of channels, which are averaged.

    Raises
    ------
    FileError
        for anything but a WAV file of PCM or floats, a truncated one, or one without samples
    """
    from scipy.io import wavfile

    if not content.startswith((b"RIFF", b"RIFX", b"RF64")):
        raise FileError(f"{where}: no WAV file, it starts with {content[:4]!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # scipy warns of a file that ends early, and reads on
            rate, data = wavfile.read(io.BytesIO(content))
    except Exception as error:  # scipy fails in many ways on damaged files
        reason = " ".join(str(error).split())[:120]
        raise FileError(f"{where}: not a readable WAV file, or damaged ({reason})") from None
    if data.size == 0 or data.ndim > 2 or rate < 1:
        raise FileError(f"{where}: a WAV file without samples")
    channels = 1 if data.ndim == 1 else data.shape[1]
    sound = data.astype(np.float64)
    if data.dtype.kind == "u":
        sound = (sound - 128) / 128
    elif data.dtype.kind == "i":
        sound = sound / -float(np.iinfo(data.dtype).min)
    if not np.isfinite(sound).all():
        raise FileError(f"{where}: its samples are not finite")
    return (sound if channels == 1 else sound.mean(axis=1)), int(rate), channels


def log_mel(sound: np.ndarray, rate: int, bands: int = 40) -> np.ndarray:
    """Return the log-mel frames of a sound, float64 ``(frames, bands)`` in [0, 1], one every 10 ms of 32 ms.

    ``1 + dB/60``, where 0 dB is the loudest band and frame of this recording; what lies more than 60 dB below is 0.
    So a recording's loudness has no influence.

    Parameters
    ----------
    sound
        ``(n,)``
    rate
        in Hz
    bands
        triangles on the mel scale ``2595·log10(1 + f/700)`` (O'Shaughnessy 1987), up to half the rate
    """
    checks.integer(bands, "bands", 1, 1024)
    width, hop = max(2, round(WINDOW * rate)), max(1, round(HOP * rate))
    padded = np.pad(sound, (0, max(0, width - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, width)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(width), axis=1)) ** 2
    energy = power @ mel_filters(bands, width, rate).T
    loudest = energy.max()
    if loudest <= 0:
        return np.zeros(energy.shape)
    decibels = 10 * np.log10(np.maximum(energy / loudest, 10 ** (-DECIBELS / 10)))
    return 1 + decibels / DECIBELS


def mel_filters(bands: int, width: int, rate: int) -> np.ndarray:
    """Return the triangular filters float64 ``(bands, width // 2 + 1)`` over the frequencies of a window."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), bands + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(width, 1 / rate)
    distance = max(rate / width, 1e-12)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - low) / np.maximum(middle - low, distance)  # a triangle is as wide as two frequencies at least
    falling = (high - bins) / np.maximum(high - middle, distance)
    filters = np.maximum(0, np.minimum(rising, falling))
    empty = filters.sum(axis=1) == 0
    filters[empty, np.abs(bins - middle[empty]).argmin(axis=1)] = 1
    return filters


def resampled(sound: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Return a sound at another rate, by scipy's polyphase filter."""
    from math import gcd

    from scipy.signal import resample_poly

    common = gcd(rate, wanted)
    return resample_poly(sound, wanted // common, rate // common)


def _recordings(paths: Sequence[Path], bands: int, rate: int) -> tuple[list[np.ndarray], list[str]]:
    frames, others, resampled_count, stereo = [], set(), 0, 0
    for path in paths:
        sound, found, channels = read_wav(read_bytes(path, MAX_BYTES), str(path))
        stereo += channels > 1
        if found != rate:
            resampled_count += 1
            others.add(found)
            sound = resampled(sound, found, rate)
        frames.append(log_mel(sound, rate, bands))
    notes = []
    if resampled_count:
        rates = ", ".join(f"{r:,}" for r in sorted(others)[:5])
        notes.append(f"{resampled_count} of {len(frames)} recordings of {rates} Hz were resampled to {rate:,} Hz")
    if stereo:
        notes.append(f"the channels of {stereo} of {len(frames)} recordings were averaged")
    return frames, notes
