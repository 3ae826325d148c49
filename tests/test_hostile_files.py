"""Files made to exhaust memory: read in a process that may have little of it, they end in our errors alone."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
from corruption import damaged
from ottt_loihi.converters.netx import write as netx
from ottt_loihi.converters.nir import write as nir_writer
from ottt_loihi.sim import storage
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Dense

pytest.importorskip("resource")
HEADROOM = 1 << 29  # bytes of address space beyond what the imports take
READ = """
import json, resource, sys
from pathlib import Path

from ottt_loihi.converters.netx import read as netx
from ottt_loihi.converters.nir import read as nir
from ottt_loihi.errors import ChipError, FileError
from ottt_loihi.sim import storage

READERS = {".h5": storage.load, ".net": lambda path: netx.read(path, 4), ".nir": lambda path: nir.read(path, 4, 1e-3)}
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[1]),) * 2)
said = {}
for path in sorted(Path(sys.argv[2]).iterdir()):
    try:
        READERS[path.suffix](path)
        said[path.name] = "read"
    except (FileError, ChipError) as error:
        said[path.name] = str(error)
    except BaseException as error:
        said[path.name] = f"not ours: {type(error).__name__}: {error}"
print(json.dumps(said))
"""


def read_all(folder):
    """name → what reading each file of a folder said, under the limit; the process must survive them all."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(HEADROOM), str(folder)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def network():
    weight = np.array([[200, -200, 100, 2]] * 3)
    layers = LIF((3,), 4095, 1024, 100, name="hidden"), LIF((2,), 4095, 2048, 90, name="readout")
    connections = Dense(INPUT, 0, weight), Dense(0, 1, weight[:2, :3])
    return ChipNetwork((4,), layers, connections, 4, "spike_count")


@pytest.fixture
def files(tmp_path):
    """One sound file of each format."""
    folder = tmp_path / "sound"
    folder.mkdir()
    storage.save(network(), folder / "a.h5")
    netx.write(network(), folder / "a.net")
    nir_writer.write(network(), folder / "a.nir")
    return folder


def replaced(source, path, place, shape, dtype=np.int64):
    """A copy whose dataset is zeros of another shape, which compress to a thousandth."""
    path.write_bytes(source.read_bytes())
    with h5py.File(path, "a") as file:
        del file[place]
        file.create_dataset(place, shape, dtype, compression="gzip", chunks=(1, min(shape[-1], 1 << 22)), fillvalue=0)
        for start in range(0, shape[-1], 1 << 22):
            file[place][..., start : start + (1 << 22)] = 0


def test_sound_files_are_read_within_the_limit(files):
    assert set(read_all(files).values()) == {"read"}


@pytest.mark.slow
def test_files_that_unpack_to_gigabytes(files, tmp_path):
    folder = tmp_path / "bombs"
    folder.mkdir()
    for name, place, dtype in (
        ("a.h5", "connections/0/weight", np.int64),
        ("a.net", "layer/0/weight", np.float32),
        ("a.nir", "node/nodes/connection_0/weight", np.float32),
    ):
        replaced(files / name, folder / name, place, (3, 1 << 25), dtype)
        assert (folder / name).stat().st_size < 1 << 21
    for name, said in read_all(folder).items():
        assert said.startswith(f"{folder / name}: takes more memory than there is"), said
        assert "\n" not in said


def test_files_that_claim_many_neurons(files, tmp_path):
    """A shape is a few bytes, and what is made for each of its neurons is not."""
    folder = tmp_path / "claims"
    folder.mkdir()
    for number, shape in enumerate(([2**31 - 1], [2**31 - 1] * 3, [2**16, 2**16], [2**28])):
        for suffix in (".h5", ".net"):
            path = folder / f"{number}{suffix}"
            path.write_bytes((files / f"a{suffix}").read_bytes())
            with h5py.File(path, "a") as file:
                if suffix == ".h5":
                    file["layers/0"].attrs["shape"] = np.array(shape)
                else:
                    del file["layer/0/shape"]
                    file["layer/0/shape"] = np.array(shape)
    for name, said in read_all(folder).items():
        assert said.startswith(str(folder / name)), said
        assert "\n" not in said


@pytest.mark.parametrize("suffix", [".h5", ".net", ".nir"])
def test_damage_of_all_kinds(files, tmp_path, suffix):
    folder = tmp_path / "damaged"
    folder.mkdir()
    content = (files / f"a{suffix}").read_bytes()
    for number, broken in enumerate(damaged(content, seed=5, count=120)):
        (folder / f"{number:03}{suffix}").write_bytes(broken)
    said = read_all(folder)
    assert not [text for text in said.values() if text.startswith("not ours")]
    assert sum(text != "read" for text in said.values()) > 10
