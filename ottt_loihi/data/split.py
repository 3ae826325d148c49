"""Training and test samples with their labels: the result of every loader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.sparse import SampleArray, some
from ottt_loihi.errors import UsageError

HELD_OUT = 2**31 - 1  # beside the seed: no epoch's number


@dataclass(frozen=True, eq=False)
class Split:
    """A data set, in memory.

    ===============  ==========================================================================================
    field            meaning
    ===============  ==========================================================================================
    x_train, x_test  float32 ``(n, *input_shape)``: images in [0, 1], or features in any unit. With ``time_axis`` one
                     frame per time step, ``(n, T, *input_shape)``: uint8 counts (0 and 1 are spikes), or float32.
                     Images of bytes are a :class:`~ottt_loihi.data.pixels.PixelArray`, and frames with few events a
                     :class:`~ottt_loihi.data.sparse.SparseArray`; both can be used like arrays
    y_train, y_test  labels, int64 ``(n,)``, 0 … num_classes − 1
    num_classes      number of classes of the data set, also of those without samples; 0: the largest label plus 1
    time_axis        whether the second axis of x is time; then x is not rate coded
    name             name of the data set
    class_names      names of the classes, or empty
    notes            sentences about what the loader changed or left out, such as clipped events
    dt               seconds per time step; None: unknown
    ===============  ==========================================================================================

    Raises
    ------
    UsageError
        for arrays that do not fit together, or labels that are no integers or outside the classes
    """

    x_train: SampleArray
    y_train: np.ndarray
    x_test: SampleArray
    y_test: np.ndarray
    num_classes: int = 0
    time_axis: bool = False
    name: str = ""
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    dt: float | None = None

    def __post_init__(self) -> None:
        checks.flag(self.time_axis, f"{self._where()}time_axis")
        checks.integer(self.num_classes, f"{self._where()}num_classes", 0)
        checks.items(self.class_names, f"{self._where()}class_names", str)
        for part in ("train", "test"):
            self._check(part, getattr(self, f"x_{part}"), getattr(self, f"y_{part}"))
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise UsageError(
                f"{self._where()}x_test: expected samples {self.x_train.shape[1:]} like x_train's, "
                f"got {self.x_test.shape[1:]}"
            )
        largest = int(max(self.y_train.max(initial=0), self.y_test.max(initial=0)))
        if self.num_classes == 0:
            object.__setattr__(self, "num_classes", largest + 1)
        if largest >= self.num_classes:
            raise UsageError(
                f"{self._where()}labels: expected 0 … {self.num_classes - 1} for {self.num_classes} classes, "
                f"got {largest}"
            )
        if self.class_names and len(self.class_names) != self.num_classes:
            raise UsageError(
                f"{self._where()}class_names: expected {self.num_classes} names, got {len(self.class_names)}"
            )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one image, or of one time step's frame."""
        return self.x_train.shape[2 if self.time_axis else 1 :]

    @property
    def num_steps(self) -> int | None:
        """The samples' own time steps T; None for images, which have no time."""
        return self.x_train.shape[1] if self.time_axis else None

    @property
    def train(self) -> tuple[SampleArray, np.ndarray]:
        """The training samples and their labels."""
        return self.x_train, self.y_train

    @property
    def test(self) -> tuple[SampleArray, np.ndarray]:
        """The test samples and their labels."""
        return self.x_test, self.y_test

    def with_channels(self) -> Split:
        """Return the same data for convolutions: grey images ``(height, width)`` become ``(1, height, width)``."""
        return self.reshaped((1, *self.input_shape)) if len(self.input_shape) == 2 else self

    def reshaped(self, shape: tuple[int, ...]) -> Split:
        """Return samples of another shape of as many values: grey images get and lose their channel so."""
        lead = 2 if self.time_axis else 1
        return self.with_samples(lambda x: x.reshape(*x.shape[:lead], *shape))

    def with_samples(self, change: Callable[[SampleArray], SampleArray]) -> Split:
        """Return the data set with the results of ``change`` in place of x_train and x_test."""
        return replace(self, x_train=change(self.x_train), x_test=change(self.x_test))

    def first(self, num_train: int, num_test: int) -> Split:
        """Return the first samples of each half, for a quick trial."""
        if num_train < 1 or num_test < 1:
            raise UsageError(f"{self._where()}expected at least 1 sample of each half, got {num_train}, {num_test}")
        x = {"x_train": some(self.x_train, slice(num_train)), "x_test": some(self.x_test, slice(num_test))}
        return replace(self, **x, y_train=self.y_train[:num_train], y_test=self.y_test[:num_test])

    def _check(self, part: str, x: SampleArray, y: np.ndarray) -> None:
        for name, array in (("x", x), ("y", y)):
            if not isinstance(getattr(array, "dtype", None), np.dtype) or not hasattr(array, "shape"):
                raise UsageError(f"{self._where()}{name}_{part}: expected an array, got {type(array).__name__}")
        least = 3 if self.time_axis else 2
        if x.ndim < least or x.size == 0:
            shape = "(n, T, *input_shape)" if self.time_axis else "(n, *input_shape)"
            raise UsageError(f"{self._where()}x_{part}: expected a filled array {shape}, got shape {x.shape}")
        if y.dtype.kind not in "iu" or y.shape != (len(x),):
            raise UsageError(
                f"{self._where()}y_{part}: expected {len(x)} integers, one per sample, got {y.dtype} {y.shape}"
            )
        if y.min() < 0:
            raise UsageError(f"{self._where()}y_{part}: expected labels ≥ 0, got {y.min()}")

    def _where(self) -> str:
        return f"{self.name}: " if self.name else ""


def held_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return which training samples choose the best network, bool ``(n,)``: ``⌈share · n_c⌉`` of each class.

    The same seed draws the same samples.

    Raises
    ------
    UsageError
        for a share outside (0, 1), or where no class has two samples
    """
    checks.number(share, "validation", 0, 1, above=True, below=True)
    held = drawn(labels, share, np.random.default_rng([seed, HELD_OUT]))
    if not held.any():
        raise UsageError(f"validation: no class has two samples, so that {share:g} of them is none; give samples")
    return held


def draw_test(labels: np.ndarray, share: float, seed: int, where: str) -> np.ndarray:
    """Return which samples are for testing, as :func:`held_out`; ``where``: begins the message."""
    share = checks.number(share, f"{where}test_share", 0, 1, above=True, below=True)
    chosen = drawn(labels, share, np.random.default_rng(checks.integer(seed, f"{where}seed", 0)))
    if not chosen.any():
        count = len(labels)
        raise UsageError(f"{where}expected at least two samples of a class to hold one out for testing, got {count}")
    return chosen


def drawn(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return bool ``(n,)``: of each class ``⌈share · n_c⌉`` samples drawn at random, but never all."""
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        chosen[members[: min(int(np.ceil(share * len(members))), len(members) - 1)]] = True
    return chosen
