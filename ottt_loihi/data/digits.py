"""scikit-learn's handwritten digits: 1,797 images of 8×8 pixels, bundled with scikit-learn, so they work offline."""

from __future__ import annotations

import numpy as np

from ottt_loihi.data.split import Split

NUM_TEST = 360  # one test image is 0.28 %


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
    return Split(x_train, y_train, x_test, y_test, num_classes=10, name="digits")
