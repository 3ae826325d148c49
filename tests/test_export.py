import json
import math
from dataclasses import replace

import numpy as np
import pytest
from ottt_loihi.converters import export as exporter
from ottt_loihi.converters.budget import activity, budget
from ottt_loihi.converters.limits import LOIHI1, LOIHI2
from ottt_loihi.converters.quantize.float_network import from_torch
from ottt_loihi.sim import storage
from ottt_loihi.sim.network import INPUT, LIF, ChipNetwork, Conv, Dense, Diagonal
from test_lava import mlp as chip_mlp

from ottt_loihi.errors import ChipError, FileError, UsageError, VerificationError
from ottt_loihi.report import report
from ottt_loihi.report.export_section import section

torch = pytest.importorskip("torch")
from ottt_loihi.nn.models import mlp  # noqa: E402


@pytest.fixture
def net():
    net = mlp((64, 24, 10), input_shape=(8, 8), seed=1)
    net.provenance["data"] = "digits"
    return net


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("bias", [False, True])
def test_integer_network_agrees_with_torch(reset, bias):
    """The float network with the integers' own weights fires the same spikes in torch: the hop in between is exact."""
    net = mlp((64, 24, 24, 10), input_shape=(8, 8), reset=reset, bias=bias, seed=2).double()
    net.provenance["data"] = "digits"
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3)
    result = exporter.export(net, exporter.Options(check=60))
    assert result.agreement.predictions >= 0.9  # it is not trained: scores are nearly equal
    assert min(result.agreement.spikes_equal) > 0.98
    assert min(result.agreement.spike_rates_chip) > 0.005


def test_files_and_report(net, tmp_path):
    result = exporter.export(net, exporter.Options(check=20))
    files = exporter.write(result, tmp_path)
    report.add(tmp_path, section(result, files))
    assert storage.load(files["chip"]) == result.quantized.chip
    assert (tmp_path / "model.net").exists()
    page = (tmp_path / "report.html").read_text()
    for expected in ("hidden 1", "20 test samples", "<svg", "lava-nc"):
        assert expected in page
    for outside in ("<script", "src=", "<link", "@import", "url(h"):
        assert outside not in page


@pytest.mark.parametrize("bits", ["ternary", "binary"])
def test_report_of_a_network_whose_layers_fill_different_resources(net, tmp_path, bits):
    """The hidden neurons have thresholds of their own, the readout has none."""
    result = exporter.export(net, exporter.Options(check=20, num_weight_bits=bits, allow_dead=True))
    resources = [set(layer.used) for layer in result.budget.layers]
    assert resources[0] - resources[1] == {"thresholds"}
    report.add(tmp_path, section(result, exporter.write(result, tmp_path)))
    assert "How full the cores of each layer are" in (tmp_path / "report.html").read_text()


def test_disagreement_past_the_limit_fails(net):
    result = exporter.export(net, exporter.Options(check=30))
    exporter.require_agreement(result, 1.0)
    broken = exporter.Export(
        result.trained,
        result.quantized,
        result.budget,
        type(result.agreement)(**(vars(result.agreement) | {"predictions": 0.5})),
    )
    with pytest.raises(VerificationError, match=r"differ on 50\.0% of 30 samples"):
        exporter.require_agreement(broken, 0.4)


def test_bad_weights_are_named(net):
    with torch.no_grad():
        net.blocks[0].connection.weight[3, 5] = float("nan")
    with pytest.raises(ChipError, match=r"hidden 1.weight: nan at \(3, 5\)"):
        from_torch(net)
    with torch.no_grad():
        net.blocks[0].connection.weight.zero_()
    with pytest.raises(ChipError, match=r"hidden 1\.weight: all weights are zero"):
        from_torch(net)


def test_what_cannot_be_mapped_is_named(net):
    net.blocks[0].connection = torch.nn.ConvTranspose2d(1, 1, 3)
    with pytest.raises(ChipError, match="hidden 1: a ConvTranspose2d"):
        from_torch(net)


def test_budget_by_hand():
    """64 → 128: 64 axons of 128 synapses, 2 entries of 64·8 + 10 → 9 words each, and 128 diagonal ones of 1 word."""
    weight = np.full((128, 64), -2) + 4 * np.eye(128, 64, dtype=int)
    chip = ChipNetwork(
        (64,), (LIF((128,), 0, 4096, 9),), (Dense(INPUT, 0, weight), Diagonal(0, 0, np.full(128, -4))), 6
    )
    layer = budget(chip, LOIHI1).layers[0]
    assert layer.synapse_bits == 64 * 2 * 9 * 64 + 128 * 64
    assert layer.cores == 1
    assert layer.used["compartments"] == 128 / 1024
    assert layer.used["incoming axons"] == (64 + 128) / 4096
    assert budget(chip).latency_steps == 7


def test_budget_of_a_convolution_by_hand():
    """16×24×24 → 5×5, stride 2 → 32×10×10: the whole input has too many axons for one core."""
    conv = Conv(INPUT, 0, np.full((32, 16, 5, 5), 254), (16, 24, 24), stride=(2, 2))
    layer = budget(ChipNetwork((16, 24, 24), (LIF((32, 10, 10), 0, 0, 1),), (conv,), 1), LOIHI1).layers[0]
    # 3200 neurons in 4 cores: 25 positions are 3 rows of 10, which see 9 of 24 rows and 23 of 24 columns
    assert layer.cores == 4
    assert layer.used["incoming axons"] == 16 * 9 * 23 / 4096
    # 16 channels · 4 phases of the stride, each with 32·9 synapses of 8 + 10 bits in entries of 64
    words = 4 * math.ceil((64 * 18 + 10) / 64) + math.ceil((32 * 18 + 10) / 64)
    assert layer.synapse_bits == 4 * 64 * words * 64


def test_budget_cuts_a_large_layer():
    weight = np.full((3000, 10), 2)
    chip = ChipNetwork((10,), (LIF((3000,), 0, 0, 9),), (Dense(INPUT, 0, weight),), 6)
    assert budget(chip, LOIHI1).layers[0].cores == 3
    assert max(budget(chip, LOIHI1).layers[0].used.values()) <= 1


def too_wide():
    """Two layers that no core can receive, the first through learning synapses."""
    plastic = Dense(INPUT, 0, np.full((5000, 3000), 2), weight_format="learning9")
    layers = (LIF((5000,), 0, 0, 9, name="wide"), LIF((2,), 0, 0, 9, name="last"))
    return ChipNetwork((3000,), layers, (plastic, Dense(0, 1, np.full((2, 5000), 2))), 6)


def test_all_violations_are_listed_with_what_to_do():
    found = budget(too_wide(), LOIHI1)
    assert [(v.layer, v.limit, v.used) for v in found.violations] == [
        ("wide", "incoming_axons", 6000),  # learning takes twice the slots
        ("last", "incoming_axons", 5000),
    ]
    with pytest.raises(ChipError, match=r"on loihi1: wide: 6,000 .* 4,096; pool .*; last: 5,000 incoming axons"):
        found.raise_if_broken()


def test_a_limit_that_is_only_assumed_warns_until_somebody_sets_it():
    found = budget(too_wide(), LOIHI2)
    assert len(found.violations) == 2
    assert "assumed are 4,096" in str(found.violations[0])
    found.raise_if_broken()
    assert not budget(too_wide(), LOIHI2.overridden({"incoming_axons": 6000})).violations
    with pytest.raises(ChipError, match="last"):
        budget(too_wide(), LOIHI2.overridden({"incoming_axons": 4096})).raise_if_broken()
    with pytest.raises(UsageError, match="limit 'axons': expected one of cores_per_chip"):
        LOIHI2.overridden({"axons": 1})


def test_activity_by_hand():
    """10 inputs → 4 → 2: a spike of the input reaches 4 synapses, one of the first layer 2."""
    layers = (LIF((4,), 0, 0, 9), LIF((2,), 0, 0, 9))
    chip = ChipNetwork((10,), layers, (Dense(INPUT, 0, np.full((4, 10), 2)), Dense(0, 1, np.full((2, 4), 2))), 5)
    found = activity(chip, 30, [7, 1], samples=2)
    assert found.synaptic_operations == (30 * 4 + 7 * 2) / 2
    assert found.spikes == 38 / 2
    assert found.energy_nj == pytest.approx((134 * 23.6 + 8 * 81 + (2 * 5 * 6 - 8) * 52) / 2000)


def test_report_sections_replace_and_keep_their_order(tmp_path):
    report.add(tmp_path, report.Section("run", "Ran", "second"))
    report.add(tmp_path, report.Section("export", "Exported", "<b>old</b>"))
    report.add(tmp_path, report.Section("export", "Exported", "first"))
    page = (tmp_path / "report.html").read_text()
    assert page.index("first") < page.index("second")
    assert "old" not in page
    (tmp_path / "sections" / "10-export.json").write_text(json.dumps([1])[:-1])
    with pytest.raises(FileError, match=r"10-export\.json"):
        report.render(tmp_path)


def test_an_older_net_file_is_not_left_beside_a_network_without_one(tmp_path, net):
    result = exporter.export(net)
    exporter.write(result, tmp_path)
    layers = tuple(LIF(layer.shape, layer.du, layer.dv, layer.vth) for layer in chip_mlp("zero").layers)
    delayed = Dense(INPUT, 1, np.full((10, 16), 2), delay=1)
    chip = ChipNetwork((16,), layers, (*chip_mlp("zero").connections, delayed), 6)
    odd = exporter.Export(result.trained, replace(result.quantized, chip=chip), result.budget)
    files = exporter.write(odd, tmp_path)
    assert "net" not in files
    assert not (tmp_path / "model.net").exists()


def picture(svg):
    return {"figures": [{"svg": svg, "caption": ""}]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1], "expected an object, found list"),
        ({"tabels": []}, "unexpected keyword"),
        ({"summary": 3}, "expected texts"),
        (picture("<svg><script/></svg>"), "<script>"),
        (picture("<svg onload='x'/>"), "onload"),
        (picture("no picture"), "syntax error"),
        ({"tables": [{"title": "", "columns": ["a"], "rows": [["b", "c"]]}]}, "another length"),
    ],
)
def test_a_file_that_is_no_section_is_named(tmp_path, content, said):
    if isinstance(content, dict):
        content = {"name": "run", "title": "t", "summary": "s"} | content
    (tmp_path / "sections").mkdir()
    (tmp_path / "sections" / "20-run.json").write_text(json.dumps(content))
    with pytest.raises(FileError, match=rf"20-run\.json: not a report section \(.*{said}"):
        report.render(tmp_path)


def test_a_layer_may_have_any_name(net, tmp_path):
    """Names come from NIR nodes and model.h5; matplotlib reads $…$ as mathematics."""
    result = exporter.export(net, exporter.Options(check=5))
    chip = result.quantized.chip
    named = replace(chip, layers=tuple(replace(layer, name=r"layer $\foo$ <b>&") for layer in chip.layers))
    odd = replace(result, quantized=replace(result.quantized, chip=named))
    report.add(tmp_path, section(odd, exporter.write(odd, tmp_path)))
    assert "<b>&" not in (tmp_path / "report.html").read_text()
