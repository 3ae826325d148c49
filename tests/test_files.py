"""Files that are written whole, and what every loader says of a file that stands for another one."""

import os

import pytest
from ottt_loihi.converters.netx import read as netx_reader
from ottt_loihi.converters.nir import read as nir_reader
from ottt_loihi.sim import storage

from ottt_loihi.data.arrays import load_npz
from ottt_loihi.data.folder import read_archive, read_bytes
from ottt_loihi.data.idx import read_idx
from ottt_loihi.data.images import ImageFolder
from ottt_loihi.errors import FileError
from ottt_loihi.files import atomic_write
from ottt_loihi.training.checkpoint import load

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
LOADERS = {
    "model.h5": storage.load,
    "model.net": lambda path: netx_reader.read(path, 4),
    "model.nir": lambda path: nir_reader.read(path, 4, 1e-3),
    "model.pt": load,
    "data.npz": load_npz,
    "images-idx3-ubyte.gz": lambda path: read_idx(path, 3),
    "events.bin": lambda path: read_bytes(path, 1 << 20),
    "events.tar": read_archive,
    "class/image.png": lambda path: ImageFolder(path.parent.parent, 8).read([0]),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_pointer_of_git_lfs_is_named(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(POINTER)
    with pytest.raises(FileError, match=f"{path.name}: a pointer of Git LFS, not the file itself; `git lfs pull`"):
        LOADERS[name](path)


def test_a_file_gets_the_users_mode_and_no_umask_is_set(tmp_path, monkeypatch):
    """To read the umask is to set it, for every thread: their new files could be written by anybody meanwhile."""
    (tmp_path / "like").write_text("")
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("set the umask"))
    with atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "like").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "like"]


def test_an_error_of_another_file_is_not_taken_for_a_disk_that_is_full(tmp_path):
    with pytest.raises(FileNotFoundError, match="input"), atomic_write(tmp_path / "file"):
        (tmp_path / "input").read_bytes()
    assert not list(tmp_path.iterdir())
