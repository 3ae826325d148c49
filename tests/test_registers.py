"""The chip's registers: what a network asks too much of them is said, and can be avoided."""

import json

import numpy as np
import pytest
from commands import run_here
from ottt_loihi.converters import export as exporter
from ottt_loihi.converters import registers
from ottt_loihi.converters.budget import budget
from ottt_loihi.converters.limits import LOIHI1, LOIHI2
from ottt_loihi.sim import storage
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Dense

from ottt_loihi import sim
from ottt_loihi.errors import ChipError, UsageError
from ottt_loihi.report.export_section import tables

torch = pytest.importorskip("torch")
from ottt_loihi.nn.models import mlp  # noqa: E402


def chip(**changes):
    weight = 2 * np.random.default_rng(0).integers(-100, 128, (6, 8))
    hidden = LIF((6,), **{"du": 4095, "dv": 2048, "vth": 100, "name": "hidden"} | changes)
    readout = LIF((3,), 4095, 4096, 131071, name="readout")
    connections = Dense(INPUT, 0, weight), Dense(0, 1, weight[:3, :6])
    return ChipNetwork((8,), (hidden, readout), connections, 5)


@pytest.mark.parametrize("limits", [LOIHI1, LOIHI2], ids=lambda limits: limits.name)
def test_values_outside_the_registers_are_named(limits):
    found = budget(chip(du=-1), limits).registers
    assert [(m.register, m.value, m.lowest, m.highest, m.layers) for m in found] == [
        ("du", -1, 0, 4095, ("hidden",)),
        ("dv", 4096, 0, 4095, ("readout",)),
    ]
    text = " ".join(part.note for part in tables(exporter.export_chip(chip(du=-1))))
    assert "du = -1 (hidden); the register holds 0 … 4,095" in text
    assert "dv = 4,096 (readout)" in text


def test_every_register_has_a_limit():
    """Whatever a ChipNetwork may hold is inside, but for the two decays; less can be asked for."""
    full = chip(bias_mant=np.array([-4096, 4095, 0, 0, 0, 0]), vth=131071)
    assert [m.register for m in registers.misfits(full, LOIHI2)] == ["dv"]
    few = LOIHI2.overridden({"bias_bits": 8, "threshold_bits": 16, "decay_bits": 11})
    assert {m.register: m.value for m in registers.misfits(full, few)} == {
        "du": 4095,
        "dv": 4096,
        "bias_mant": -4096,
        "vth": 131071,
    }
    with pytest.raises(UsageError, match="limit decay_bits: expected an integer 1 … 30, got True"):
        LOIHI2.overridden({"decay_bits": True})


def test_fitting_changes_the_decays_of_4096_alone():
    before = chip()
    after, fitted = registers.fit(before, LOIHI2)
    assert [layer.dv for layer in after.layers] == [2048, 4095]
    assert after.connections == before.connections
    assert fitted.changes == {"dv": ("readout",)}
    assert not registers.misfits(after, LOIHI2)
    again, nothing = registers.fit(after, LOIHI2)
    assert again == after
    assert str(nothing) == "registers: nothing had to change"


def test_a_current_that_is_kept_for_ever_is_refused():
    with pytest.raises(ChipError, match=r"du = -1 \(hidden\).*--input graded"):
        registers.fit(chip(du=-1), LOIHI2)


def test_changes_are_counted_over_batches(monkeypatch):
    """By hand: two neurons of the same input, one of which fires at 64·(vth + 1) only with what v kept."""
    weight = np.array([[100], [50]])
    layer = LIF((2,), 4095, 4096, 101, name="only")
    before = ChipNetwork((1,), (layer,), (Dense(INPUT, 0, weight),), 3, "spike_count")
    after, fitted = registers.fit(before, LOIHI2)
    x = np.ones((5, 3, 1), np.uint8)
    assert registers.count(fitted, before, after, x).changed_spikes == 0
    # v = 6400, then 6400 + 6400 // 4096 = 6401; vth·64 = 6400 is passed at the second step, after which v is 0
    lower = ChipNetwork((1,), (LIF((2,), 4095, 4096, 100, name="only"),), before.connections, 3, "spike_count")
    fitted_lower, changes = registers.fit(lower, LOIHI2)
    monkeypatch.setattr(registers, "BATCH", 2)
    found = registers.count(changes, lower, fitted_lower, x)
    assert (found.samples, found.spikes, found.changed_spikes, found.changed_predictions) == (5, 0, 5, 0)


UNTRAINED = ("--max-disagreement", 0.2)  # scores are nearly equal


def test_the_command_fits_and_says_what_that_changed(tmp_path):
    from ottt_loihi.training.checkpoint import save

    net = mlp((64, 24, 10), input_shape=(8, 8), reset="subtract", seed=1)
    net.provenance["data"] = "digits"
    save(net, tmp_path / "model.pt")
    done = run_here("ottt-export", tmp_path / "model.pt", "--fit-registers", "--check", 40, "--json", *UNTRAINED)
    fitted = json.loads(done.stdout)["fitted"]
    assert fitted["changes"] == {"dv": ["hidden 1", "readout"]}
    assert fitted["samples"] == 40
    exported = storage.load(tmp_path / "model.h5")
    assert [layer.dv for layer in exported.layers] == [4095, 4095]
    exact = exporter.export(net, exporter.Options()).quantized.chip
    x, _ = exporter.chip_samples(exact, "digits", 40)
    a, b = (sim.run(c, x, record=("s",)) for c in (exact, exported))
    assert fitted["changed_spikes"] == sum(int((s != t).sum()) for s, t in zip(a.states["s"], b.states["s"]))
    assert "Fitted registers: dv = 4095 for 4096" in (tmp_path / "report.html").read_text()
    again = run_here("ottt-export", tmp_path / "model.h5", "--fit-registers", "--dry-run")
    assert "registers: nothing had to change" in again.stdout
