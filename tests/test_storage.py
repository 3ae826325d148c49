import dataclasses
import os
import random
import signal

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import chip_networks, conv_networks, mixed_networks
from ottt_loihi.onchip.network.trainable import has_logit_scale
from ottt_loihi.sim import storage
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Dense

from ottt_loihi import safe_hdf5
from ottt_loihi.data import DataDescription, Step
from ottt_loihi.errors import FileError, UnsafeFileError


@pytest.fixture
def saved(tmp_path):
    weight = np.random.default_rng(0).integers(-128, 128, (10, 8)) * 2
    chip = ChipNetwork((8,), (LIF((10,), 2047, 4096, 400, name="hidden"),), (Dense(INPUT, 0, weight),), 6)
    storage.save(chip, tmp_path / "chip.h5")
    return chip, tmp_path / "chip.h5"


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chip=st.one_of(chip_networks(), conv_networks(), mixed_networks()))
def test_round_trip(chip, tmp_path):
    storage.save(chip, tmp_path / "chip.h5")
    assert storage.load(tmp_path / "chip.h5") == chip
    assert [p.name for p in tmp_path.iterdir()] == ["chip.h5"]


def test_the_hosts_part_is_kept(tmp_path):
    """And only a file that has one needs a reader of version 2."""
    host = ChipNetwork((3,), (LIF((2,), 4095, 4096, 131071),), (Dense(INPUT, 0, np.full((2, 3), 4)),), 1, "last_v")
    arriving = Dense(INPUT, 0, np.eye(2, dtype=int), num_message_bits=12)
    chip = ChipNetwork((2,), (LIF((2,), 4095, 2048, 100),), (arriving,), 5, "spike_count", host=host)
    storage.save(chip, tmp_path / "chip.h5")
    assert storage.load(tmp_path / "chip.h5") == chip
    assert storage.load(tmp_path / "chip.h5").host == host
    with h5py.File(tmp_path / "chip.h5") as file:
        assert file.attrs["version"] == 2
    storage.save(dataclasses.replace(chip, host=None), tmp_path / "chip.h5")
    with h5py.File(tmp_path / "chip.h5") as file:
        assert file.attrs["version"] == 1


def test_odd_plastic_weights_survive(tmp_path):
    chip = ChipNetwork(
        (1,), (LIF((1,), 0, 0, 1),), (Dense(INPUT, 0, np.array([[-255]]), weight_format="learning9"),), 1
    )
    storage.save(chip, tmp_path / "chip.h5")
    assert storage.load(tmp_path / "chip.h5").connections[0].weight.tolist() == [[-255]]


def test_damaged_files_give_only_our_errors(saved, tmp_path):
    _, path = saved
    data, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for trial in range(400):
        damaged = bytearray(data[: rng.randrange(len(data))] if trial % 4 == 0 else data)
        for _ in range(trial % 4):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        (tmp_path / "damaged.h5").write_bytes(damaged)
        try:
            storage.load(tmp_path / "damaged.h5")
        except FileError as error:
            refused += "damaged.h5" in str(error)
    assert refused > 100


def test_a_flipped_weight_is_noticed(saved):
    _, path = saved
    with h5py.File(path) as file:
        offset = file["connections/0/weight"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(FileError):
        storage.load(path)


def test_links_out_of_the_file_are_refused(saved, tmp_path):
    _, path = saved
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["weight"] = np.zeros((10, 8), np.int32)
    for link in (h5py.ExternalLink(str(secret), "/weight"), h5py.SoftLink("/layers/0/bias_mant")):
        with h5py.File(path, "r+") as file:
            del file["connections/0/weight"]
            file["connections/0/weight"] = link
        with pytest.raises(UnsafeFileError, match="link"):
            storage.load(path)


def test_absurd_sizes_are_refused_before_reading(saved):
    _, path = saved
    with h5py.File(path, "r+") as file:
        del file["connections/0/weight"]
        file["connections/0"].create_dataset("weight", shape=(1 << 20, 1 << 20), dtype="i4", chunks=(64, 64))
    with pytest.raises(UnsafeFileError, match="elements"):
        storage.load(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.attrs.__setitem__("version", 99), "version 99"),
        (lambda f: f.attrs.__setitem__("format", np.bytes_(b"other")), "not a ChipNetwork"),
        (lambda f: f.attrs.__delitem__("readout"), "readout"),
        (lambda f: f["layers/0"].attrs.__setitem__("vth", -1), "vth"),
        (lambda f: f["connections/0"].attrs.__setitem__("kind", np.bytes_(b"Magic")), "Magic"),
    ],
)
def test_wrong_content_is_named(saved, change, says):
    _, path = saved
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(FileError, match=says):
        storage.load(path)


def test_missing_file_and_unwritable_folder(saved, tmp_path):
    chip, _ = saved
    with pytest.raises(FileError, match="no such file"):
        storage.load(tmp_path / "none.h5")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match="cannot be written"):
        storage.save(chip, tmp_path / "file" / "chip.h5")


def test_the_datasets_of_a_file_are_limited_in_sum(tmp_path, monkeypatch):
    """Each one may be small enough, and thousands of them are not."""
    path = tmp_path / "sum.h5"
    with safe_hdf5.new_hdf5(path) as file:
        for index in range(5):
            file.create_dataset(str(index), data=np.zeros(1000, np.int64), compression="gzip")
    monkeypatch.setattr(safe_hdf5, "MAX_BYTES", 4 * 8000)

    def read(count):
        with safe_hdf5.open_hdf5(path) as file:
            return [safe_hdf5.numbers(file, str(index)) for index in range(count)]

    assert len(read(4)) == len(read(4)) == 4  # the sum is of one file, not of all that are read
    with pytest.raises(UnsafeFileError, match="declare more than 32,000 bytes together"):
        read(5)


@pytest.mark.parametrize(
    "provenance",
    [
        {"training": None},
        {"training": [1]},
        {"training": {"data": 5, "data_options": [], "training": {"loss": "name"}}},
        {"scales": 3},
        {"scales": ["a"]},
        {"scales": []},
        {"scales": [-1.0]},
        {"input_form": 3, "input_transform": [1, 2]},
    ],
)
def test_provenance_of_another_type_is_as_none(saved, tmp_path, provenance):
    """Nothing about the notes of a foreign file, of a version that has them for fields, may end a command."""
    chip = dataclasses.replace(saved[0], provenance=provenance, **NOT_KNOWN)
    storage.save(chip, tmp_path / "chip.h5")
    with h5py.File(tmp_path / "chip.h5") as file:
        assert file.attrs["version"] < 4
    assert storage.load(tmp_path / "chip.h5") == chip
    assert not has_logit_scale(chip)


NOT_KNOWN = {"input_form": "spikes", "logit_scale": None, "loss": None, "data": None, "data_set": None}
USE = {
    "input_form": "graded",
    "input_transform": (2.5, -3.0),
    "logit_scale": 312.5,
    "loss": "cross-entropy",
    "data": DataDescription(
        (2, 3), 2, Step("rate"), class_names=("λ", "b"), preprocessing=(Step("z", {"mean": [1.5]}),)
    ),
    "data_set": Step("digits", {"num_steps": 3}),
}


@pytest.mark.parametrize("name", list(USE))
def test_what_a_network_is_for_is_kept(saved, tmp_path, name):
    chip = dataclasses.replace(saved[0], **NOT_KNOWN | {name: USE[name]})
    storage.save(chip, tmp_path / "chip.h5")
    found = storage.load(tmp_path / "chip.h5")
    assert found == chip
    assert getattr(found, name) == USE[name]


def test_notes_that_are_no_fields_stay_notes(saved, tmp_path):
    """The fields count, whatever the provenance says."""
    chip = dataclasses.replace(saved[0], provenance={"scales": [7.0], "input_form": "graded"}, **NOT_KNOWN)
    storage.save(chip, tmp_path / "chip.h5")
    assert storage.load(tmp_path / "chip.h5") == chip


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"new": 1}',
        '{"input_form": 3}',
        '{"input_transform": [1]}',
        '{"logit_scale": "a"}',
        '{"logit_scale": 0}',
        '{"loss": 3}',
        '{"data": {}}',
        '{"data": {"shape": [1], "num_classes": 1000, "coding": {"name": "rate"}}}',
        '{"data_set": "digits"}',
        "[" * 100_000,
        "\xff",
    ],
)
def test_use_of_another_type_is_refused(saved, tmp_path, text):
    chip = dataclasses.replace(saved[0], **NOT_KNOWN | {"loss": "mse"})
    storage.save(chip, tmp_path / "chip.h5")
    with h5py.File(tmp_path / "chip.h5", "a") as file:
        del file["use"]
        file["use"] = np.frombuffer(text.encode("latin-1"), np.uint8)
    with pytest.raises(FileError):
        storage.load(tmp_path / "chip.h5")


def test_ctrl_c_while_a_file_is_written_is_not_lost(tmp_path):
    """h5py drops an exception that is raised in its callbacks; the file is finished, then the interrupt is raised."""

    def write():
        with safe_hdf5.new_hdf5(tmp_path / "a.h5") as file:
            os.kill(os.getpid(), signal.SIGINT)
            file.attrs["whole"] = 1

    def read():
        with safe_hdf5.open_hdf5(tmp_path / "a.h5") as file:
            os.kill(os.getpid(), signal.SIGINT)
            assert file.attrs["whole"] == 1

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # workers of pytest-xdist ignore it
    try:
        for work in (write, read):
            with pytest.raises(KeyboardInterrupt):
                work()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
