"""Folders of images, as ImageNet's, on generated pictures."""

from pathlib import Path

import numpy as np
import pytest
from corruption import assert_only_our_errors
from PIL import Image

from ottt_loihi.data import load_data
from ottt_loihi.data.images import ImageFolder, load_image_folder, open_image_folders
from ottt_loihi.errors import FileError, UnsafeFileError, UsageError

COLOURS = {"ant": (255, 0, 0), "bee": (0, 255, 0)}


@pytest.fixture
def folder(tmp_path):
    """Two classes in one colour each, images of many shapes and kinds."""
    for part, shapes in (("train", ((40, 30), (30, 50), (64, 64))), ("val", ((33, 47),))):
        for name, colour in COLOURS.items():
            (tmp_path / part / name).mkdir(parents=True)
            for number, size in enumerate(shapes):
                suffix = ("png", "jpeg", "bmp")[number]
                Image.new("RGB", size, colour).save(tmp_path / part / name / f"{number}.{suffix}")
    (tmp_path / "train" / "ant" / "README.txt").write_text("not an image")
    return tmp_path


def test_a_small_folder_in_memory(folder):
    split = load_data(folder, size=16)
    assert (split.x_train.shape, split.x_test.shape) == ((6, 3, 16, 16), (2, 3, 16, 16))
    assert (split.num_classes, split.class_names, split.input_shape) == (2, ("ant", "bee"), (3, 16, 16))
    assert split.y_train.tolist() == [0, 0, 0, 1, 1, 1]
    for image, label in zip(split.x_train, split.y_train):
        np.testing.assert_allclose(image.mean((1, 2)), np.array(list(COLOURS.values()))[label] / 255, atol=0.02)


def test_the_centre_is_cut_out(tmp_path):
    """A picture whose left third is red, middle third green, right third blue."""
    (tmp_path / "a").mkdir()
    pixels = np.zeros((32, 96, 3), np.uint8)
    for third in range(3):
        pixels[:, third * 32 : third * 32 + 32, third] = 255
    Image.fromarray(pixels).save(tmp_path / "a" / "x.png")
    images = ImageFolder(tmp_path, 32, short_side=32)
    (image,) = images.read([0])
    np.testing.assert_array_equal(image.mean((1, 2)), [0, 1, 0])
    assert ImageFolder(tmp_path, 224).short_side == 256


def test_random_parts(folder):
    train, _ = open_image_folders(folder, 16)
    one = train.read(range(6), np.random.default_rng(0))
    np.testing.assert_array_equal(one, train.read(range(6), np.random.default_rng(0)))
    assert one.shape == (6, 3, 16, 16)
    assert one.dtype == np.float32
    (folder / "train" / "ant" / "3.png").write_bytes(gradient())
    image = ImageFolder(folder / "train", 8).read([3] * 40, np.random.default_rng(1))[:, 0]
    rising = image[:, 0, -1] > image[:, 0, 0]
    assert 8 < rising.sum() < 32  # mirrored in about half of the cases
    assert len(np.unique(image.max((1, 2)))) > 20  # another part each time


def gradient():
    import io

    stream = io.BytesIO()
    Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (200, 1))).save(stream, "png")
    return stream.getvalue()


def test_grey_and_transparent_images_become_rgb(tmp_path):
    (tmp_path / "a").mkdir()
    for mode in ("L", "1", "RGBA", "P", "CMYK"):
        suffix = "jpeg" if mode == "CMYK" else "png"
        Image.new(mode, (20, 20)).save(tmp_path / "a" / f"{mode}.{suffix}")
    assert ImageFolder(tmp_path, 10).read(range(5)).shape == (5, 3, 10, 10)
    assert ImageFolder(tmp_path, 10).read([]).shape == (0, 3, 10, 10)


def test_folders_that_do_not_fit(folder, tmp_path_factory):
    with pytest.raises(UsageError, match="1 ≤ size ≤ short_side"):
        ImageFolder(folder / "train", 0)
    with pytest.raises(FileError, match="no such folder"):
        ImageFolder(folder / "nowhere", 8)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(FileError, match="expected a folder train with one folder per class"):
        load_image_folder(empty)
    with pytest.raises(FileError, match="expected one folder per class, found none"):
        ImageFolder(empty, 8)
    (folder / "val" / "cat").mkdir()
    with pytest.raises(FileError, match=r"cat: no \.bmp, \.jpeg"):
        load_image_folder(folder)
    (folder / "val" / "cat" / "0.png").write_bytes(gradient())
    with pytest.raises(FileError, match="the same classes in both parts; only one has cat"):
        load_image_folder(folder)


def test_too_large(folder, monkeypatch):
    with pytest.raises(UsageError, match=r"8 images take .* GiB at 40000×40000; set stream = true"):
        load_image_folder(folder, 40000)
    monkeypatch.setattr("ottt_loihi.data.images.MAX_PIXELS", 1000)
    with pytest.raises(UnsafeFileError, match=r"0\.png: has \(40, 30\) pixels, at most 1000 are allowed"):
        load_image_folder(folder, 8)


@pytest.mark.parametrize("suffix", ["png", "jpeg", "bmp", "ppm"])
def test_damaged_images(tmp_path, suffix):
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / f"x.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)).save(path)
    images = ImageFolder(tmp_path, 8)
    assert assert_only_our_errors(lambda _: images.read([0]), path, path.read_bytes(), count=150) > 10


def test_a_folder_is_trained_on_without_reading_it_whole(tmp_path, monkeypatch):
    """As configs/imagenet-nf-resnet34.toml does, small: random parts of images to train on, the centre to test."""
    from ottt_loihi.training.config import override, read_config
    from ottt_loihi.training.run import run

    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "imagenet" / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "imagenet" / part / name / f"{index}.png")
    read, centres = ImageFolder._image, []

    def watched(self, path, rng):
        centres.append(rng is None)
        return read(self, path, rng)

    monkeypatch.setattr(ImageFolder, "_image", watched)
    config = read_config(Path(__file__).parents[1] / "configs" / "imagenet-nf-resnet34.toml")
    network = {"network.stages": [[4, 1], [6, 1]], "network.time_steps": 2, "data.size": 16}
    small = {"training.epochs": 1, "training.batch_size": 4, "training.device": "cpu", "training.workers": 0}
    monkeypatch.setenv("OTTT_DATA_DIR", str(tmp_path))
    result = run(override(config, network | small), tmp_path / "run")
    assert 0 <= result["test_accuracy"] <= 1
    assert centres.count(False) == 12  # each training image once, by chance
    assert centres.count(True) == 2 * 4 + 2  # the test images in both tests, and the first of each half


def test_a_folder_larger_than_memory_says_what_to_do(tmp_path, monkeypatch):
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / part / "a" / "0.png")
    monkeypatch.setattr("ottt_loihi.data.images.MAX_BYTES", 100)
    with pytest.raises(UsageError, match="set stream = true, or read them smaller"):
        load_image_folder(tmp_path, size=8)
    assert load_image_folder(tmp_path, size=8, stream=True).input_shape == (3, 8, 8)
