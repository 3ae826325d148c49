"""Training with the chip's few bits in every product: less is lost when they come for good."""

import subprocess
import sys

import numpy as np
import pytest
from commands import run_here

torch = pytest.importorskip("torch")
from ottt_loihi.converters import export as exporter  # noqa: E402
from ottt_loihi.converters.quantize.float_network import from_torch  # noqa: E402
from ottt_loihi.converters.quantize.quantize import quantize  # noqa: E402

from ottt_loihi.data import load_data  # noqa: E402
from ottt_loihi.errors import UsageError  # noqa: E402
from ottt_loihi.nn.connections import fake_quantize  # noqa: E402
from ottt_loihi.nn.models import conv, mlp  # noqa: E402
from ottt_loihi.rules import make_rule  # noqa: E402
from ottt_loihi.training.checkpoint import load, save  # noqa: E402
from ottt_loihi.training.trainer import Trainer  # noqa: E402


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_lie_on_the_chips_grid(bits):
    weight = torch.randn(40, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    seen = fake_quantize(weight, bits)
    integers = seen * 254 / weight.detach().abs().max()
    step = 2 ** (9 - bits)
    assert torch.allclose(integers / step, torch.round(integers / step), atol=1e-9)
    assert len(torch.unique(torch.round(integers))) <= 2**bits
    seen.sum().backward()
    assert (weight.grad == 1).all()  # straight through


def test_the_chip_gets_the_weights_that_were_trained_with():
    """reset="zero" leaves S free, so the quantiser's integers are those of the forward pass."""
    net = conv("4C3-AP2-12F", input_shape=(1, 6, 6), reset="zero", bias=False, seed=2)
    net.quantize(4)
    chip = quantize(from_torch(net), 4).chip
    for connection, c in zip(net.connections(), chip.connections):
        seen = connection.effective().weight.detach()
        scale = 254 / connection.weight.abs().max()
        ours = torch.unique(torch.round(seen * scale)).tolist()
        assert set(ours) == set(np.unique(c.weight).tolist())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Digits, a few epochs, real weights."""
    split = load_data("digits")
    net = mlp((64, 64, 10), input_shape=(8, 8), reset="zero", seed=1)
    net.provenance["data"] = "digits"
    Trainer(net, make_rule("ottt"), learning_rate=5e-3).fit(split.x_train, split.y_train, 8)
    path = tmp_path_factory.mktemp("trained") / "model.pt"
    save(net, path)
    return path


@pytest.mark.slow
def test_fine_tuning_brings_back_what_three_bits_lose(trained, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ottt_loihi.cli.train", "--init", str(trained), "--quantize", "3", "--epochs", "8"]
        + ["--lr", "2e-3", "-o", str(tmp_path), "--json"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    tuned = load(tmp_path / "model.pt")
    assert tuned.provenance["weight_bits"] == 3
    assert {connection.weight_bits for connection in tuned.connections()} == {3}
    options = exporter.Options(num_weight_bits=3, check=360)
    after = exporter.export(tuned, options).agreement
    before = exporter.export(load(trained), options).agreement
    assert after.accuracy_chip > before.accuracy_chip + 0.02
    assert after.accuracy_chip > 0.93
    assert after.predictions > before.predictions


def test_what_is_refused(trained, tmp_path):
    with pytest.raises(UsageError, match="weight_bits: expected an integer 2 … 8, got 9"):
        load(trained).quantize(9)
    done = run_here("ottt-train", "--init", trained, "--hidden", "5", "-o", tmp_path)
    assert done.returncode == 2
    assert "the network comes from the model.pt" in done.stderr
