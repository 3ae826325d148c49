"""Files of earlier versions are read, and mean what they meant (tests/fixtures/make.py wrote them)."""

from pathlib import Path

import numpy as np
import pytest
from fixtures import make
from ottt_loihi.converters.netx import read as netx_reader
from ottt_loihi.converters.nir import read as nir_reader
from ottt_loihi.converters.nir import write as nir
from ottt_loihi.sim import storage

FIXTURES = Path(make.__file__).parent


def test_there_is_a_file_of_every_version():
    kinds = (".h5", ".nir", ".net", ".pt")
    names = {path.name for path in FIXTURES.iterdir() if path.suffix in kinds}
    chips = {
        "chip-v1.h5",
        "hosted-v2.h5",
        "thresholds-v3.h5",
        "used-v4.h5",
        "used-v3.nir",
        "chip-v1.nir",
        "thresholds-v2.nir",
    }
    assert names == chips | {"plain-v1.net", "mlp-v1.pt", "conv-v1.pt", "mlp-v2.pt", "conv-v2.pt"}
    assert storage.VERSION == 4, "write a fixture with the new version"
    assert nir.VERSION == 3, "write a fixture with the new version"


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("chip-*.h5")), ids=lambda p: p.name)
def test_chip_networks(path):
    assert storage.load(path) == make.chip()


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("chip-*.nir")), ids=lambda p: p.name)
def test_nir(path):
    assert nir_reader.read(path) == make.chip()


def test_chip_networks_with_a_hosts_part():
    assert storage.load(FIXTURES / "hosted-v2.h5") == make.hosted()


def test_thresholds_of_neurons():
    assert storage.load(FIXTURES / "thresholds-v3.h5") == make.thresholds()
    assert nir_reader.read(FIXTURES / "thresholds-v2.nir") == make.thresholds()


def test_what_a_network_is_for():
    """Before version 4 the provenance had it: as chip-v1 has its data set."""
    assert storage.load(FIXTURES / "used-v4.h5") == make.used()
    assert nir_reader.read(FIXTURES / "used-v3.nir") == make.used()


def test_netx():
    chip = netx_reader.read(FIXTURES / "plain-v1.net", 6).chip
    assert chip.layers[0].vth == 200
    np.testing.assert_array_equal(chip.connections[0].weight, make.integers((3, 4), 1))


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_trained_networks(name):
    torch = pytest.importorskip("torch")
    from ottt_loihi.nn.description import describe
    from ottt_loihi.training.checkpoint import VERSION, load

    expected = make.network()[name]
    paths = sorted(FIXTURES.glob(f"{name}-*.pt"))
    assert len(paths) == VERSION, "write a fixture with the new version"
    for path in paths:
        net = load(path)
        assert describe(net) == describe(expected)
        assert net.provenance["data"] == "digits"
        for (key, weight), (_, other) in zip(net.state_dict().items(), expected.state_dict().items(), strict=True):
            assert torch.equal(weight, other), key
