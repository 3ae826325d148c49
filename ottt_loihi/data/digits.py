"""scikit-learn's handwritten digits: 1,797 images of 8×8 pixels, bundled with scikit-learn, so they work offline."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NUM_TEST = 360  # one test image is 0.28 %


class Split(NamedTuple):
    """Images float32 in [0, 1], ``(n, height, width)``; labels int64 ``(n,)``."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load_digits() -> Split:
    """1,437 training and 360 test images, always the same split, classes in equal shares."""
    from sklearn.datasets import load_digits as bundled
    from sklearn.model_selection import train_test_split

    digits = bundled()
    images = (digits.images / 16.0).astype(np.float32)
    labels = digits.target.astype(np.int64)
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=NUM_TEST, random_state=0, stratify=labels
    )
    return Split(x_train, y_train, x_test, y_test)
