"""Sensor data sets with their published splits: gas sensors that drift, muscles, hearts, and a fingertip."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from numbers import Integral

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.arrays import read_arrays, read_npy
from ottt_loihi.data.folder import Found, Layout, contents, find
from ottt_loihi.data.split import Split, draw_test
from ottt_loihi.errors import FileError, UsageError

GASES = ("Ethanol", "Ethylene", "Ammonia", "Acetaldehyde", "Acetone", "Toluene")
GAS_FEATURES = 128
GAS_DRIFT = (
    Layout("archive", ("gas-drift",), {"archive": ("gas_drift_8of10.tar.xz",)}),
    Layout("folder", ("gas-drift", "gas-drift/gas-drift"), {"batch1": ("batch1.dat",)}, "with batch2.dat …"),
)

GESTURES = ("rest", "flexion", "extension", "radial deviation", "ulnar deviation", "pronation", "supination", "fist")
EMG_RATE = 200  # Hz
MYO_EMG = (
    Layout("archive", ("myo-emg",), {"archive": ("myo_emg_10x3.tar.xz",)}),
    Layout("folder", ("myo-emg", "myo-emg/myo-emg"), {"12345-1": ("12345-1/",)}, "with 0.npy … 7.npy, and the others"),
)

BEATS = {"N": "NLRej", "S": "AaJS", "V": "VE", "F": "F"}  # AAMI classes; Q has 15 beats in all and is left out
DS1 = (101, 106, 108, 109, 112, 114, 115, 116, 118, 119, 122, 124, 201, 203, 205, 207, 208, 209, 215, 220, 223, 230)
DS2 = (100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210, 212, 213, 214, 219, 221, 222, 228, 231, 232, 233, 234)
ECG_RATE = 360  # Hz
BEFORE, AFTER = 90, 144  # samples around a beat: 250 ms and 400 ms
MITBIH = (
    Layout("archive", ("mitbih",), {"archive": ("mitbih.tar.xz",)}),
    Layout("folder", ("mitbih", "mitbih/mitbih"), {"annotations": ("annotations.csv",)}, "with signals/100.i16 …"),
)

BRAILLE = (Layout("letters", ("braille",), {"7": ("braille7_nir_events.npz",), "27": ("braille27_th10.npz",)}),)
BRAILLE_SECONDS = {7: 1.28, 27: 1.3}


def load_gas_drift(
    folder: str | os.PathLike[str] | None = None, train: Sequence[int] = (1,), test: Sequence[int] = (2,)
) -> Split:
    """Gas sensors over 36 months (UCI 270), features float32 ``(n, 128)``: ``sign(v)·log(1 + |v|)`` of each value.

    Parameters
    ----------
    train, test
        batches in the order of months; the published settings train on the first, or on the one before. Where both are
        the same, every second sample is for testing

    Raises
    ------
    FileError
        for missing batches, and lines of another form
    """
    found = find("gas-drift", GAS_DRIFT, folder)
    files = contents(found, "*.dat")
    parts = {}
    for name, batches in (("train", train), ("test", test)):
        chosen = [checks.integer(batch, name, 1, 10) for batch in checks.items(batches, name, Integral)]
        if not chosen:
            raise UsageError(f"gas-drift: {name}: expected batches 1 … 10, got none")
        read = [_gas_batch(files, batch, found) for batch in chosen]
        parts[name] = tuple(np.concatenate(arrays) for arrays in zip(*read))
    (x, y), (x_test, y_test) = parts["train"], parts["test"]
    if tuple(train) == tuple(test):
        x, y, x_test, y_test = x[::2], y[::2], x[1::2], y[1::2]
    return Split(x, y, x_test, y_test, len(GASES), name="gas-drift", class_names=GASES)


def _gas_batch(files: Mapping[str, bytes], batch: int, found: Found) -> tuple[np.ndarray, np.ndarray]:
    name = f"batch{batch}.dat"
    if name not in files:
        raise FileError(f"{found.folder}: lacks {name}; there are {', '.join(sorted(files))}")
    x, y = [], []
    for number, line in enumerate(files[name].decode("ascii", "replace").splitlines(), 1):
        words = line.replace(";", " ").split()
        if not words:
            continue
        try:
            label = int(words[0])
            pairs = [word.split(":") for word in words if ":" in word]
            values = [float(value) for _, value in pairs]
            if not 1 <= label <= len(GASES) or [int(n) for n, _ in pairs] != list(range(1, GAS_FEATURES + 1)):
                raise ValueError
        except ValueError:
            raise FileError(
                f"{found.folder}, {name}, line {number}: expected class;concentration 1:v … 128:v"
            ) from None
        x.append(values)
        y.append(label - 1)
    values = np.array(x)
    return (np.sign(values) * np.log1p(np.abs(values))).astype(np.float32), np.array(y, np.int64)


def load_myo_emg(
    folder: str | os.PathLike[str] | None = None,
    participant: str = "12345",
    sessions: Sequence[int] = (1,),
    test_sessions: Sequence[int] = (),
    window: int = 40,
    num_steps: int = 8,
) -> Split:
    """Wrist gestures from eight electrodes of a Myo armband at 200 Hz, float32 ``(n, num_steps, 16)``.

    A step holds, of each electrode, ``log(1 + mean |x|)`` and ``log(1 + mean |difference|)``. Windows do not overlap.

    Parameters
    ----------
    participant
        a number, or ``"all"``
    sessions
        1 … 3, for training; and for testing where ``test_sessions`` is empty: then the first 66 % of each recording
        are for training, the rest for testing
    test_sessions
        1 … 3: electrodes shift between sessions
    window
        samples in a window, a multiple of num_steps: 40 are 200 ms
    """
    steps, width = checks.integer(num_steps, "num_steps"), checks.integer(window, "window", 2)
    if width % steps or width // steps < 2:
        raise UsageError(
            f"myo-emg: expected a window of a multiple of {steps} samples, two a step at least; got {width}"
        )
    sessions = checks.items(sessions, "sessions", Integral)
    test_sessions = checks.items(test_sessions, "test_sessions", Integral)
    found = find("myo-emg", MYO_EMG, folder)
    files = contents(found, "*/*.npy")
    people = sorted({name.split("-")[0] for name in files})
    if participant != "all" and str(participant) not in people:
        raise UsageError(f"participant: expected one of {', '.join(people)}, or all; got {participant!r}")
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"train": [], "test": []}
    for person in people if participant == "all" else [str(participant)]:
        for session in dict.fromkeys((*sessions, *test_sessions)):
            for gesture in range(len(GESTURES)):
                name = f"{person}-{checks.integer(session, 'sessions', 1, 3)}/{gesture}.npy"
                if name not in files:
                    raise FileError(f"{found.folder}: lacks {name}")
                rows = _npy(files[name], f"{found.folder}: {name}")
                cut = round(0.66 * len(rows))
                if session in sessions:
                    parts["train"].append(_emg_windows(rows if test_sessions else rows[:cut], gesture, width, steps))
                if session in test_sessions or not test_sessions:
                    parts["test"].append(_emg_windows(rows if test_sessions else rows[cut:], gesture, width, steps))
    halves = [np.concatenate(arrays) for part in parts.values() for arrays in zip(*part)]
    dt = width / steps / EMG_RATE
    return Split(*halves, len(GESTURES), time_axis=True, name="myo-emg", class_names=GESTURES, dt=dt)


def _npy(content: bytes, where: str) -> np.ndarray:
    rows = read_npy(io.BytesIO(content), len(content), where)
    if rows.dtype != np.int8 or rows.ndim != 2 or rows.shape[1] != 9:
        raise FileError(f"{where}: expected int8 of 9 columns")
    return rows


def _emg_windows(rows: np.ndarray, gesture: int, width: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of each step, and the gesture, of all windows whose label never changes."""
    count = len(rows) // width
    windows = rows[: count * width].reshape(count, width, 9).astype(np.float64)
    windows = windows[(windows[:, :, 8] == gesture).all(axis=1), :, :8]
    parts = windows.reshape(len(windows), steps, width // steps, 8)
    size = np.abs(parts).mean(axis=2)
    change = np.abs(np.diff(parts, axis=2)).mean(axis=2)
    x = np.log1p(np.concatenate([size, change], axis=2)).astype(np.float32)
    return x, np.full(len(x), gesture, np.int64)


def load_mitbih(
    folder: str | os.PathLike[str] | None = None,
    form: str = "features",
    num_points: int = 39,
    train: Sequence[int] = DS1,
    test: Sequence[int] = DS2,
) -> Split:
    """Heart beats of the MIT-BIH Arrhythmia Database, split by patient (de Chazal 2004): DS1 to train, DS2 to test.

    Parameters
    ----------
    train, test
        records, 100 … 234, each of one patient (201 and 202 of the same one); their beats are in the order of time
    form
        ``"features"``: float32 ``(n, num_points + 3)``, the beat and three distances to its neighbours; ``"series"``:
        ``(n, num_points, 1)``, the beat alone, with a time axis
    num_points
        means of equally many of the 234 samples from 250 ms before a beat's peak to 400 ms after it; a divisor of 234

    Classes N, S, V, F of AAMI; Q, 15 beats, is left out. The beat is scaled to its record's quantiles of 1 and 99 %.
    The distances: to the beat before, to the beat behind, and their ratio to the mean of the ten beats before.
    """
    checks.one_of(form, "form", ("features", "series"))
    length = BEFORE + AFTER
    if length % checks.integer(num_points, "num_points"):
        raise UsageError(f"num_points: expected a divisor of {length} (39, 78, 117), got {num_points}")
    found = find("mitbih", MITBIH, folder)
    files = contents(found, "signals/*.i16", "annotations.csv")
    beats = _annotations(files.get("annotations.csv", b""), str(found.folder))
    halves = []
    for name, records in (("train", train), ("test", test)):
        chosen = [checks.integer(record, name, 100, 234) for record in checks.items(records, name, Integral)]
        if not chosen:
            raise UsageError(f"mitbih: {name}: expected records, 100 … 234, got none")
        parts = [_beats(files, record, beats, found, num_points) for record in chosen]
        waves, distances, labels = (np.concatenate(arrays) for arrays in zip(*parts))
        x = waves[:, :, None] if form == "series" else np.concatenate([waves, distances], axis=1)
        halves += [x.astype(np.float32), labels]
    dt = length / num_points / ECG_RATE if form == "series" else None
    notes = (f"{len(halves[1]):,} beats of {len(train)} records to train, {len(halves[3]):,} of {len(test)} to test",)
    return Split(
        *halves, len(BEATS), time_axis=form == "series", name="mitbih", class_names=tuple(BEATS), notes=notes, dt=dt
    )


def _annotations(content: bytes, where: str) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return record → the places of its beats and their classes, −1 for other beats."""
    classes = {symbol: label for label, symbols in enumerate(BEATS.values()) for symbol in symbols}
    found: dict[int, list[tuple[int, int]]] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines()[1:], 2):
        words = line.split(",", 3)
        if len(words) < 3 or not (words[0].isdigit() and words[1].isdigit()):
            raise FileError(f"{where}: annotations.csv, line {number}: expected record,sample,symbol,aux")
        if words[2] in classes or words[2] in ("/", "f", "Q"):
            found.setdefault(int(words[0]), []).append((int(words[1]), classes.get(words[2], -1)))
    return {record: tuple(np.array(column) for column in zip(*beats)) for record, beats in found.items()}


def _beats(
    files: Mapping[str, bytes],
    record: int,
    beats: Mapping[int, tuple[np.ndarray, np.ndarray]],
    found: Found,
    num_points: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    name = f"signals/{record}.i16"
    if name not in files or record not in beats:
        raise FileError(f"{found.folder}: lacks {name}, or its annotations")
    if len(files[name]) % 2:
        raise FileError(f"{found.folder}: {name} is truncated")
    signal = np.frombuffer(files[name], "<i2").astype(np.float64)
    low, high = np.quantile(signal, (0.01, 0.99))
    signal = (signal - low) / max(high - low, 1.0)
    places, labels = beats[record]
    gaps = np.diff(places, prepend=places[0], append=places[-1]) / ECG_RATE
    before, behind = gaps[:-1], gaps[1:]
    sums = np.concatenate([[0.0], np.cumsum(before)])
    counts = np.minimum(np.arange(1, len(places) + 1), 10)
    first = np.arange(len(places)) - counts + 1
    usual = (sums[1:] - sums[1:][first] + before[first]) / counts
    ratio = before / np.maximum(usual, 1e-3)
    inside = (places >= BEFORE) & (places + AFTER <= len(signal)) & (labels >= 0)
    index = places[inside, None] + np.arange(-BEFORE, AFTER)
    waves = signal[index].reshape(int(inside.sum()), num_points, -1).mean(axis=2)
    distances = np.stack([before, behind, ratio], axis=1)[inside]
    return waves, np.clip(distances, 0, 3), labels[inside].astype(np.int64)


def load_braille(
    folder: str | os.PathLike[str] | None = None,
    letters: int = 7,
    num_steps: int = 64,
    test_share: float = 0.2,
    seed: int = 0,
) -> Split:
    """Braille letters under a sliding fingertip of 12 taxels, spikes uint8 ``(n, num_steps, channels)``.

    Parameters
    ----------
    letters
        7: the events of the NIR paper, 12 channels, 1,158 samples (its test file is not here: the split is ours); 27:
        threshold 10, 24 channels (ON and OFF), 5,400 samples
    num_steps
        frames of equal duration of 1.28 s and 1.3 s; a channel that fires several times in one fires once. 7 letters:
        a divisor of 256
    test_share, seed
        of each letter, drawn: no split is published for these files
    """
    if letters not in BRAILLE_SECONDS:
        raise UsageError(f"letters: expected 7 or 27, got {letters!r}")
    found = find("braille", BRAILLE, folder)
    path = found.paths[str(letters)]
    arrays = read_arrays(path)
    steps = checks.integer(num_steps, "num_steps", 1, 4096)
    try:
        names = tuple(str(name) for name in arrays["letters"])
        y = arrays["label"].astype(np.int64)
        x, lost = _packed(arrays, steps) if letters == 7 else _events(arrays, steps)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise FileError(
            f"{path}: expected the arrays of this data set ({' '.join(str(error).split())[:100]})"
        ) from None
    if len(x) != len(y) or y.min() < 0 or y.max() >= len(names):
        raise FileError(f"{path}: samples and labels do not belong together")
    test = draw_test(y, test_share, seed, "braille: ")
    notes = (f"{lost:.1%} of the events were lost where a channel fired several times in a step",) if lost else ()
    dt = BRAILLE_SECONDS[letters] / steps
    return Split(x[~test], y[~test], x[test], y[test], len(names), True, "braille", names, notes, dt)


def _packed(arrays: Mapping[str, np.ndarray], steps: int) -> tuple[np.ndarray, float]:
    samples, length, channels = (int(n) for n in arrays["shape"])
    if length % steps:
        raise UsageError(f"num_steps: expected a divisor of {length}, got {steps}")
    bits = np.unpackbits(arrays["x_packed"], axis=1)[:, : length * channels].reshape(samples, steps, -1, channels)
    frames = bits.max(axis=2)
    return frames, 1 - float(frames.sum()) / float(bits.sum())


def _events(arrays: Mapping[str, np.ndarray], steps: int) -> tuple[np.ndarray, float]:
    offset = arrays["offset"].astype(np.int64)
    sample = np.repeat(np.arange(len(offset) - 1), np.diff(offset))
    step = np.minimum((arrays["t"] / BRAILLE_SECONDS[27] * steps).astype(np.int64), steps - 1)
    frames = np.zeros((len(offset) - 1, steps, 24), np.uint8)
    frames[sample, step, arrays["channel"]] = 1
    return frames, 1 - float(frames.sum()) / len(sample)
