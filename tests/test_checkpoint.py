import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils import prune

from ottt_loihi.errors import FileError, UnsafeFileError, UsageError
from ottt_loihi.nn.description import describe
from ottt_loihi.nn.models import mlp
from ottt_loihi.nn.neurons import Neuron
from ottt_loihi.training.checkpoint import FORMAT, load, save, tensors_of


def small(seed=0, **settings):
    return mlp((4, 3, 2), bias=True, input_shape=(2, 2), seed=seed, **settings)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.pt"
    save(small(), path, {"seed": 7})
    return path


class Strange(Neuron):
    constants = ("beta",)

    def __init__(self, beta):
        super().__init__()
        self.beta = beta


def same(a, b):
    return str(a) == str(b) and all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def payload(net=None, **changes):
    net = net or small()
    metadata = json.dumps({"architecture": describe(net), "provenance": {}})
    return {"format": FORMAT, "version": 2, "metadata": metadata, "weights": tensors_of(net), **changes}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_survives(tmp_path, dtype):
    net = mlp((4, 5, 3, 2), beta=0.25, reset="zero", surrogate="sigmoid", convention="authors", bias=True).to(dtype)
    save(net, tmp_path / "deep" / "model.pt", {"seed": 7})
    again = load(tmp_path / "deep" / "model.pt")
    assert same(net, again)
    assert again.provenance["seed"] == 7
    assert set(again.provenance["versions"]) == {"ottt_loihi", "torch"}
    assert again.readout.weight.dtype == dtype
    assert all(p.requires_grad for p in again.parameters())


def test_equal_networks_give_equal_bytes_wherever_they_are_written(saved, tmp_path):
    save(small(), tmp_path / "other name.pt", {"seed": 7})
    assert saved.read_bytes() == (tmp_path / "other name.pt").read_bytes()


def test_every_flipped_byte_is_noticed_or_harmless(saved):
    content, net = saved.read_bytes(), load(saved)
    refused = 0
    for position in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        saved.write_bytes(damaged)
        try:
            assert same(load(saved), net), position
        except FileError:
            refused += 1
    assert refused > 0.1 * len(content) / 3


def test_every_truncation_is_noticed(saved):
    content = saved.read_bytes()
    for length in range(0, len(content), 7):
        saved.write_bytes(content[:length])
        with pytest.raises(FileError):
            load(saved)


def test_what_was_frozen_stays_frozen(tmp_path):
    net, path = small(), tmp_path / "model.pt"
    net.blocks[0].connection.weight.requires_grad_(False)
    save(net, path)
    frozen = [name for name, p in load(path).named_parameters() if not p.requires_grad]
    assert frozen == ["blocks.0.connection.weight"]
    assert all(p.requires_grad for p in load(path, net=small()).parameters())  # a network of one's own decides itself
    broken = payload(small())
    for names in (["blocks.7.weight"], "all", [3]):
        metadata = json.loads(broken["metadata"]) | {"frozen": names}
        torch.save(broken | {"metadata": json.dumps(metadata)}, path)
        with pytest.raises(FileError, match="damaged, its frozen parameters are not the network's"):
            load(path)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_would_run_code_does_not(tmp_path, saved, protocol):
    trap = tmp_path / "trap"
    with zipfile.ZipFile(saved) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries["archive/data.pkl"] = pickle.dumps({"format": FORMAT, "weights": Hostile(trap)}, protocol)
    with zipfile.ZipFile(saved, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    with pytest.raises(UnsafeFileError, match="nothing"):
        load(saved)
    assert not trap.exists()
    pickle.loads(entries["archive/data.pkl"])  # the trap is a real one
    assert trap.exists()


def test_a_bare_pickle_is_not_unpickled(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Hostile(tmp_path / "trap")))
    with pytest.raises(FileError, match=r"not a model\.pt"):
        load(path)
    assert not (tmp_path / "trap").exists()


def test_a_compressed_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (1 << 24))
    with pytest.raises(UnsafeFileError, match="compressed"):
        load(path)


def test_an_archive_with_other_files_is_refused(saved):
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr("archive/code/run.py", "print(1)")
    with pytest.raises(UnsafeFileError, match=r"run\.py"):
        load(saved)


def test_an_architecture_larger_than_its_weights_allocates_nothing(tmp_path):
    of_name = {"name": "mlp", "arguments": {"sizes": [4, 10**9, 2], "bias": True}}
    of_blocks = describe(small())
    of_blocks["blocks"][0]["connection"]["settings"]["out_features"] = 10**9
    of_blocks["readout"]["settings"]["in_features"] = 10**9
    path = tmp_path / "model.pt"
    for huge in (of_name, of_blocks):
        torch.save(payload(metadata=json.dumps({"architecture": huge, "provenance": {}})), path)
        with pytest.raises(FileError, match=r"blocks\.0\.connection\.\w+: expected shape \(1000000000"):
            load(path)


HOSTILE = [  # of version 1, then of version 2
    ({"name": "nf_resnet34", "arguments": {"stages": []}}, "stages: expected"),
    ({"name": "nf_resnet34", "arguments": {"stages": [[8, 1, 1]]}}, "stages: expected"),
    ({"name": "nf_resnet34", "arguments": {"stages": [[1, 10**6]]}}, "stages: expected .* at most 1000"),
    ({"name": "conv", "arguments": {"input_shape": [1]}}, "input_shape: expected"),
    ({"name": ["mlp"], "arguments": {}}, "architecture: expected one of"),
    ({"name": "mlp", "arguments": [1, 2]}, "arguments do not fit"),
    ({}, "network: input_shape, time_steps, .* is missing"),
    ({"blocks": 10**9}, "network: input_shape, time_steps"),
    (lambda d: d.update(blocks={}), "blocks: expected a list"),
    (lambda d: d.update(blocks=d["blocks"] * 10), "more connections than it has weights"),
    (lambda d: d["blocks"][0].update(branches=[{"a": d["readout"]}] * 10), "more connections than it has weights"),
    (lambda d: d["blocks"][0].update(branches=[{}] * 10), "block 1, branch 1: connection, source, delay is missing"),
    (lambda d: d.update(more=1), "'more' is none of input_shape"),
    (lambda d: d.update(readout=None), "readout: expected class, settings, got None"),
    (lambda d: d.update(input_shape=[2, 10**400]), "input_shape: expected an integer"),
    (lambda d: d.update(time_steps=0), "network: time_steps: expected"),
    (lambda d: d["blocks"][0].update(skip={"source": 0, "factor": 1}), "block 1: its skip must come from"),
    (lambda d: d["blocks"][0].update(dropout="much"), "block 1: dropout: expected"),
    (lambda d: d["blocks"][0].update(neuron=d["readout"]), "neuron: expected one of LIF, .* got 'Readout'"),
    (lambda d: d["blocks"][0]["neuron"]["settings"].update(beta="x"), "neuron: beta: expected a number"),
    (lambda d: d["blocks"][0]["neuron"]["settings"].update(surrogate=[[[[[[]]]]]]), "nested too deeply"),
    (lambda d: d["blocks"][0]["neuron"]["settings"].update(gamma=1), "these settings do not fit .*gamma"),
    (
        lambda d: d["blocks"][0]["connection"]["settings"].update(generator=5),
        r"connection: generator: expected a Generator, or nothing",
    ),
    (lambda d: d["blocks"][0]["connection"]["settings"].update(pool=[1]), "connection: pool: expected"),
    (
        lambda d: d["blocks"][0]["connection"]["settings"].update(in_features=2**31 - 1, out_features=2**31 - 1),
        "expected|fit",
    ),
    (lambda d: d["blocks"][0]["neuron"].update(settings={}), "neuron.beta: expected 0.5, got nothing"),
]


@pytest.mark.parametrize(("architecture", "message"), HOSTILE)
def test_hostile_descriptions_give_our_errors_at_once(tmp_path, architecture, message):
    if callable(architecture):
        change, architecture = architecture, describe(small())
        change(architecture)
    torch.save(payload(metadata=json.dumps({"architecture": architecture, "provenance": {}})), tmp_path / "model.pt")
    with pytest.raises(FileError, match=message):
        load(tmp_path / "model.pt")


def test_weights_that_are_one_number_repeated_allocate_nothing(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(payload(weights={"readout.weight": torch.zeros(1).expand(10**6, 10**6)}), path)
    with pytest.raises(UnsafeFileError, match="share memory"):
        load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    net = small()
    net.blocks[0].connection.weight.data[1, 2] = value
    torch.save(payload(net), tmp_path / "model.pt")
    with pytest.raises(FileError, match=r"blocks\.0\.connection\.weight: 1 of 12 values are NaN or infinite"):
        load(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(version=3), "made by a newer ottt-loihi; this one reads up to 2"),
        (dict(version="1"), "its version is '1'"),
        (dict(version=0), "its version is 0"),
        (dict(format="other"), "not a model saved by"),
        (dict(metadata="{"), "lacks the architecture"),
        (dict(metadata="[" * 100_000), "lacks the architecture"),
        (dict(metadata='{"architecture": [], "provenance": {}}'), "lacks the architecture"),
        (dict(metadata='{"architecture": {"name": "vgg99"}, "provenance": {}}'), "expected one of mlp, .* got 'vgg99'"),
        (dict(metadata='{"architecture": {"name": "mlp", "arguments": {"n": 1}}, "provenance": {}}'), "do not fit"),
        (dict(metadata='{"architecture": {"name": "mlp"}, "provenance": {}}'), "do not fit"),
        (dict(weights={}), "more connections than it has weights"),
        (dict(weights={"a": 1}), "lacks the architecture, the provenance or the weights"),
        (dict(weights=None), "lacks the architecture"),
    ],
)
def test_what_is_not_a_model_is_refused(tmp_path, changes, message):
    torch.save(payload(**changes), tmp_path / "model.pt")
    with pytest.raises(FileError, match=message) as caught:
        load(tmp_path / "model.pt")
    assert str(caught.value).startswith(str(tmp_path / "model.pt"))


def test_weights_of_another_shape_or_order_of_memory_are_refused(tmp_path):
    weights = tensors_of(small())
    weights["readout.weight"] = weights["readout.weight"].t().contiguous().t()
    torch.save(payload(weights=weights), tmp_path / "model.pt")
    with pytest.raises(FileError, match=r"readout\.weight: expected a contiguous tensor"):
        load(tmp_path / "model.pt")
    weights["readout.weight"] = torch.zeros(2, 5)
    torch.save(payload(weights=weights), tmp_path / "model.pt")
    with pytest.raises(FileError, match=r"readout\.weight: expected shape \(2, 3\), got \(2, 5\)"):
        load(tmp_path / "model.pt")


def test_other_pytorch_files_and_no_files(tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(FileError, match=r"cannot be read .*ottt-train makes one"):
        load(path)
    with pytest.raises(FileError, match="not a file"):
        load(tmp_path)
    torch.save([1, 2], path)
    with pytest.raises(FileError, match=r"EMPTY_LIST|not a model"):
        load(path)
    torch.save(small(), path)  # a whole module
    with pytest.raises(UnsafeFileError, match=r"its pickle (calls|uses)"):
        load(path)
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(FileError, match="damaged or not a model"):
        load(path)


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(FileError, match="No space left on device"):
        save(small(seed=1), saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == ["model.pt"]


def test_what_cannot_be_saved(tmp_path):
    net = small()
    with pytest.raises(UsageError, match="provenance must be JSON"):
        save(net, tmp_path / "model.pt", {"x": object()})
    net = small()
    prune.random_unstructured(net.readout, "weight", 0.5)
    with pytest.raises(UsageError, match=r"save: readout\.weight.*prune\.remove"):
        save(net, tmp_path / "model.pt")
    net = small()
    net.blocks[0].neuron = Strange(torch.zeros(2))
    with pytest.raises(UsageError, match="settings of a class of your own must be finite JSON values"):
        save(net, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_what_is_saved_can_be_read(tmp_path):
    """Files were written that load called unsafe or damaged afterwards."""
    path = tmp_path / "model.pt"
    net = small()
    net.readout.double()
    with pytest.raises(UsageError, match=r"save: .* and readout\.bias is torch\.float64; bring them to one dtype"):
        save(net, path)
    with pytest.raises(UsageError, match=r"model\.pt: .*weight is torch\.float8_e4m3fn, which no file of ours holds"):
        save(small().to(torch.float8_e4m3fn), path)
    assert not list(tmp_path.iterdir())
    net = small()
    net.readout.weight = torch.nn.Parameter(net.readout.weight.detach().t().contiguous().t())
    save(net, path)
    assert same(load(path), net)


class Counting(Neuron):
    beta = 0.5

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("alive", torch.ones(3, dtype=torch.bool))


def test_buffers_of_ones_own_neurons_are_of_any_type(tmp_path):
    made = []
    for steps in (7, 0):
        made.append(small())
        made[-1].blocks[0].neuron = Counting()
        made[-1].blocks[0].neuron.steps += steps
    save(made[0], tmp_path / "model.pt")
    assert int(load(tmp_path / "model.pt", net=made[1]).blocks[0].neuron.steps) == 7
    broken = payload(made[0])
    broken["weights"]["readout.weight"] = broken["weights"]["readout.weight"].long()
    torch.save(broken, tmp_path / "model.pt")
    with pytest.raises(FileError, match=r"readout\.weight: expected a contiguous tensor of floats"):
        load(tmp_path / "model.pt", net=made[1])


def tied():
    net = mlp((4, 4, 4, 2))
    net.blocks[1].connection.weight = net.blocks[0].connection.weight
    return net


def test_a_parameter_that_two_layers_share_stays_one(tmp_path):
    net, path = tied(), tmp_path / "model.pt"
    net.blocks[0].connection.weight.requires_grad_(False)
    save(net, path)
    found = load(path)
    assert found.blocks[1].connection.weight is found.blocks[0].connection.weight
    assert [p.requires_grad for p in found.parameters()] == [False, True]
    assert same(found, net)
    assert same(load(path, net=tied()), net)
    save(mlp((4, 4, 4, 2)), path)
    with pytest.raises(UsageError, match="are one parameter of the network to be filled, and differ here"):
        load(path, net=tied())
    whole = payload(tied())
    for shared in (
        {"readout.weight": "blocks.0.connection.weight"},
        {"blocks.7.weight": "readout.weight"},
        "all",
        {"readout.weight": []},
    ):
        metadata = json.loads(whole["metadata"]) | {"shared": shared}
        torch.save(whole | {"metadata": json.dumps(metadata)}, path)
        with pytest.raises(FileError, match="damaged, "):
            load(path)


def test_a_model_from_memory_has_the_same_format(saved):
    """What the oldest files look like: if this fails, raise VERSION and keep reading them."""
    with zipfile.ZipFile(io.BytesIO(saved.read_bytes())) as archive:
        assert {name for name in archive.namelist() if "/data/" not in name} >= {"archive/data.pkl", "archive/version"}
    content = torch.load(saved, weights_only=True)
    assert set(content) == {"format", "version", "metadata", "weights"}
    assert (content["format"], content["version"]) == ("ottt-loihi model", 2)


def test_reading_needs_no_lava(saved):
    code = f"""
import sys
from ottt_loihi.training.checkpoint import load
load({str(saved)!r})
sys.exit(any(name.split('.')[0] == 'lava' for name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_file_of_version_1_makes_no_more_layers_than_it_has_weights(tmp_path):
    """5.13: such a file of 300 kB took minutes and a gigabyte."""
    shape = {"input_shape": [1, 2, 2], "num_classes": 2}
    for name, arguments in (
        ("mlp", {"sizes": [1] * 100_000}),
        ("conv", {"features": "-".join(["1C1", "AP1"] * 20_000), **shape}),
    ):
        metadata = json.dumps({"architecture": {"name": name, "arguments": arguments}, "provenance": {}})
        torch.save(payload(metadata=metadata, version=1), tmp_path / "model.pt")
        with pytest.raises(FileError, match="damaged, it describes more layers than it has weights"):
            load(tmp_path / "model.pt")
