"""CIFAR-10's first images as PNG, one row an image, to the binary batches that CIFAR-10 is published in."""

from pathlib import Path

import numpy as np
from PIL import Image

from ottt_loihi.data.cifar import write_binary


def rows(path):
    """uint8 (n, 3, 32, 32) of a PNG (n, 1024, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)


def convert(subset: Path, folder: Path):
    """4,000 training images in five batches, 1,000 test images in one."""
    x = np.concatenate([rows(subset / f"cifar10_batch_{number}.png") for number in range(4)])
    y = np.load(subset / "labels_train_0_3999.npy", allow_pickle=False)
    for number, chosen in enumerate(np.array_split(np.arange(len(x)), 5), 1):
        write_binary(folder / f"data_batch_{number}.bin", x[chosen], y[chosen])
    test = np.load(subset / "labels_test_0_999.npy", allow_pickle=False)
    write_binary(folder / "test_batch.bin", rows(subset / "cifar10_batch_50.png"), test)
