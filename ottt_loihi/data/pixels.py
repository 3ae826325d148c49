"""Images whose pixels are bytes: kept as they are in their file, and read as float32 in [0, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np

from ottt_loihi.data.compact import CompactArray


class PixelArray(CompactArray):
    """Images float32 ``(n, *shape)`` in [0, 1], kept as bytes, a quarter of the memory: value v is v/255.

    An index (``x[3]``, ``x[8:16]``, ``x[[5, 2]]``) makes floats of these images alone.

    Parameters
    ----------
    pixels
        uint8 ``(n, *shape)``, not copied
    """

    dtype = np.dtype(np.float32)

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels, self.shape = pixels, pixels.shape

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes

    def __getitem__(self, key: Any) -> Any:
        return intensities(self.pixels[key])

    def only(self, chosen: Any) -> PixelArray:
        return PixelArray(self.pixels[chosen])

    def _extreme(self, name: str) -> Any:
        return intensities(getattr(self.pixels, name)())

    def _in_shape(self, shape: tuple[int, ...]) -> PixelArray:
        return PixelArray(self.pixels.reshape(shape))


def intensities(images: Any) -> Any:
    """Return images of uint8, 0 … 255, as float32 in [0, 1]; others as they are."""
    return images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images
