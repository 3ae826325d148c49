"""Folders of images, one per class, as for ImageNet: ``train/<class>/….jpeg`` and ``val/<class>/….jpeg``.

An :class:`ImageFolder` reads images when they are asked for, because ImageNet does not fit into memory;
:func:`load_image_folder` reads small ones as a whole.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ottt_loihi import checks
from ottt_loihi.data.class_folders import classes_of, require_the_same_classes
from ottt_loihi.data.pixels import PixelArray, intensities
from ottt_loihi.data.split import Split
from ottt_loihi.errors import FileError, UnsafeFileError, UsageError
from ottt_loihi.files import refuse_pointer

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm")
FORMATS = ("JPEG", "PNG", "BMP", "PPM")
MAX_PIXELS = 1 << 26  # of one image; ImageNet's largest has 19 million
MAX_BYTES = 1 << 33  # of a data set in memory
PARTS = (("train",), ("val", "test"))


class ImageFolder:
    """The images below ``folder/<class>/``; classes are numbered in the alphabetical order of their names.

    Parameters
    ----------
    folder
        with one folder per class
    size
        height and width of what is returned, in pixels
    short_side
        the image's shorter side is resized to it before a central ``size × size`` is cut out; default size·8/7,
        rounded: 256 for 224

    Raises
    ------
    FileError
        for a folder without classes, or a class without images
    UsageError
        for sizes out of range
    """

    def __init__(self, folder: str | os.PathLike[str], size: int, short_side: int | None = None) -> None:
        self.folder, self.size = Path(folder), size
        self.short_side = round(size * 8 / 7) if short_side is None else short_side
        if size < 1 or self.short_side < size:
            raise UsageError(f"ImageFolder: expected 1 ≤ size ≤ short_side, got {size} and {self.short_side}")
        classes = classes_of(self.folder, SUFFIXES)
        self.class_names = tuple(classes)
        self.paths = list(chain.from_iterable(classes.values()))
        self.labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in classes.values()])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Return the centre of an image, float32 ``(3, size, size)``, and its label."""
        return intensities(self._image(self.paths[index], None)), int(self.labels[index])

    def draw(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """Return a random part of an image as :meth:`read` with ``rng``, and its label; a Trainer learns from these."""
        return np.ascontiguousarray(intensities(self._image(self.paths[index], rng))), int(self.labels[index])

    def read(self, indices: Iterable[int], rng: np.random.Generator | None = None) -> np.ndarray:
        """Return images, float32 ``(n, 3, size, size)`` in [0, 1].

        Without ``rng`` the centre; with it, as for training on ImageNet, a random part (area 8 … 100 %, sides 3:4 …
        4:3) resized to size, mirrored in half of the cases.

        Raises
        ------
        FileError
            for a file that is no image, or damaged
        UnsafeFileError
            for one of more than ``MAX_PIXELS`` pixels
        """
        return intensities(self.read_pixels(indices, rng))

    def read_pixels(self, indices: Iterable[int], rng: np.random.Generator | None = None) -> np.ndarray:
        """Return :meth:`read` as the bytes that it divides by 255, uint8."""
        images = [self._image(self.paths[index], rng) for index in indices]
        return np.stack(images) if images else np.empty((0, 3, self.size, self.size), np.uint8)

    def _image(self, path: Path, rng: np.random.Generator | None) -> np.ndarray:
        """Return the centre of an image, or with ``rng`` a random part, uint8 ``(3, size, size)``."""
        import PIL.Image

        try:
            with _open_image(path) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise UnsafeFileError(f"{path}: has {opened.size} pixels, at most {MAX_PIXELS} are allowed")
                image = opened.convert("RGB")
        except FileError:
            raise
        except (OSError, SyntaxError, ValueError, EOFError, PIL.Image.DecompressionBombError) as error:
            reason = " ".join(str(error).split())[:200]
            raise FileError(f"{path}: not a readable image, or damaged ({reason})") from error
        image = self._centre(image) if rng is None else self._random_part(image, rng)
        pixels = np.asarray(image).transpose(2, 0, 1)
        return pixels[..., ::-1] if rng is not None and rng.random() < 0.5 else pixels

    def _centre(self, image: Image) -> Image:
        import PIL.Image

        scale = self.short_side / min(image.size)
        width, height = (max(round(side * scale), self.size) for side in image.size)
        if width * height > MAX_PIXELS:
            raise FileError(f"an image of {image.size} is too narrow to be resized")
        left, top = (width - self.size) // 2, (height - self.size) // 2
        resized = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
        return resized.crop((left, top, left + self.size, top + self.size))

    def _random_part(self, image: Image, rng: np.random.Generator) -> Image:
        import PIL.Image

        for _ in range(10):
            area = rng.uniform(0.08, 1.0) * image.width * image.height
            ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            width, height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if 0 < width <= image.width and 0 < height <= image.height:
                left = int(rng.integers(0, image.width - width, endpoint=True))
                top = int(rng.integers(0, image.height - height, endpoint=True))
                box = (left, top, left + width, top + height)
                return image.resize((self.size, self.size), PIL.Image.Resampling.BILINEAR, box=box)
        return self._centre(image)


def _open_image(path: Path) -> Image:
    """Return an image whose pixels are not read yet.

    PIL's warning about large images is silenced, because our own limit is checked next.
    """
    import PIL.Image

    refuse_pointer(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        return PIL.Image.open(path, formats=FORMATS)


def open_image_folders(folder: str | os.PathLike[str], size: int) -> tuple[ImageFolder, ImageFolder]:
    """The training and the test images of a folder with ``train/`` and ``val/`` (or ``test/``); same classes in both.

    Raises
    ------
    FileError
        when one is missing, or their classes differ
    """
    halves = []
    for names in PARTS:
        found = [Path(folder) / name for name in names if (Path(folder) / name).is_dir()]
        if not found:
            raise FileError(
                f"{folder}: expected a folder {' or '.join(names)} with one folder per class in it, of images; or one "
                "folder per class, of recordings: .wav, or events as .csv or .npy"
            )
        halves.append(ImageFolder(found[0], size))
    train, test = halves
    require_the_same_classes(Path(folder), train.class_names, test.class_names)
    return train, test


@dataclass(frozen=True)
class ImageSplit:
    """A folder of images that are read when they are needed: a random part of each to train on, the centre to test.

    Attributes
    ----------
    train, test
        the two halves, of the same classes
    name
        of the folder
    """

    train: ImageFolder
    test: ImageFolder
    name: str = ""
    time_axis: ClassVar[bool] = False
    num_steps: ClassVar[None] = None
    notes: ClassVar[tuple[str, ...]] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes."""
        return self.train.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.train.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """``(3, size, size)``."""
        return 3, self.train.size, self.train.size

    def with_channels(self) -> ImageSplit:
        """Return the same; images have channels."""
        return self


def load_image_folder(folder: str | os.PathLike[str], size: int = 32, stream: bool = False) -> Split | ImageSplit:
    """Return all images of :func:`open_image_folders`: float32 ``(n, 3, size, size)``, kept as bytes.

    With ``stream`` none is read before it is needed.

    Raises
    ------
    UsageError
        when they would not fit into 8 GiB, and ``stream`` is not asked for
    """
    train, test = open_image_folders(folder, size)
    if checks.flag(stream, "stream"):
        return ImageSplit(train, test, Path(folder).resolve().name)
    needed = (len(train) + len(test)) * 3 * size * size
    if needed > MAX_BYTES:
        raise UsageError(
            f"{folder}: its {len(train) + len(test)} images take {needed >> 30} GiB at {size}×{size}; "
            "set stream = true, or read them smaller"
        )
    x_train, x_test = (PixelArray(half.read_pixels(range(len(half)))) for half in (train, test))
    names, title = train.class_names, Path(folder).resolve().name
    return Split(x_train, train.labels, x_test, test.labels, len(names), name=title, class_names=names)
