"""A network is described as plain data and built again from it; classes of a user's own are named, not imported."""

import json

import pytest
import torch
from torch import nn

from ottt_loihi.errors import ChipError, FileError, UsageError
from ottt_loihi.nn.blocks import Block, Branch, Skip
from ottt_loihi.nn.connections import Conv2d, Elementwise, Linear, Readout
from ottt_loihi.nn.description import construct, describe, differences, foreign
from ottt_loihi.nn.models import conv, dsr, mlp, nf_resnet34, vgg_f
from ottt_loihi.nn.network import Network
from ottt_loihi.nn.neurons import LIF, LIFStep, Neuron
from ottt_loihi.nn.surrogates import Sigmoid
from ottt_loihi.rules import OTTT
from ottt_loihi.rules.losses import SquaredError
from ottt_loihi.training.checkpoint import load, save


def by_hand(neuron=None, seed=0):
    """A network that no function of nn.models makes: mixed neurons, a shortcut, feedback, a residual stream."""
    generator = torch.Generator().manual_seed(seed)
    first = Block(
        Conv2d(1, 3, 3, True, generator, padding=1),
        LIF(0.9, 0.7, "zero"),
        branches=[Branch(Conv2d(3, 3, 1, False, generator), 0, 1)],
    )
    second = Block(Linear(48, 6, False, generator), neuron or LIF(0.5, surrogate=Sigmoid(2.0)))
    third = Block(
        Linear(6, 6, True, generator, standardized=True, input_scale=2.0),
        LIF(0.25),
        branches=[Branch(Linear(48, 6, False, generator), 0, 0), Branch(Linear(6, 6, False, generator), 2, 3)],
        skip=Skip(1, 0.5),
        dropout=0.25,
    )
    return Network([first, second, third], Readout(6, 4, True, generator), input_shape=(1, 4, 4), time_steps=5)


def of_torch():
    """A network of torch's own layers, and a recurrence of each neuron with itself."""
    first = Block(nn.Conv2d(1, 4, 3, stride=2, padding=(1, 0), groups=1, bias=False), LIF(0.9))
    second = Block(
        Conv2d(4, 5, (2, 1)), LIF(), branches=[Branch(Elementwise((5, 1, 1)), 1, 1), Branch(nn.Conv2d(5, 5, 1), 1, 2)]
    )
    third = Block(Linear(5, 6), LIF(), branches=[Branch(Elementwise(6), 2, 1)])
    return Network([first, second, third, Block(nn.Linear(6, 5), LIF())], nn.Linear(5, 3, bias=False), **SIZES)


SIZES = {"input_shape": (1, 4, 4), "time_steps": 5}
NETWORKS = {
    "of torch": of_torch,
    "mlp": lambda: mlp((4, 3, 3, 2), recurrent=True, shortcuts=True, v_init=0.25, binary="channel", dropout=0.1),
    "authors": lambda: mlp((4, 3, 2), convention="authors", standardized=True),
    "conv": lambda: conv("4C3G2-AP2-6F", input_shape=(2, 6, 6), standardized=True, feedback=True, num_classes=3),
    "vgg_f": lambda: vgg_f(10, input_shape=(3, 16, 16)),
    "resnet": lambda: nf_resnet34(4, input_shape=(3, 32, 32), stages=((4, 2), (6, 1)), convention="authors"),
    "dsr": lambda: dsr((5,), kind="lif", input_shape=(4,), v_threshold=0.3),
    "by hand": by_hand,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_built_again_from_its_description(name):
    net = NETWORKS[name]()
    description = describe(net)
    assert description == json.loads(json.dumps(description))
    again = construct(description)
    assert describe(again) == description
    assert str(again) == str(net)
    again.load_state_dict(net.state_dict())
    x = (torch.rand(2, 3, *net.input_shape) > 0.5).float()
    assert torch.equal(again.eval().run(x).scores, net.eval().run(x).scores)


def test_every_setting_is_in_the_description():
    """A default that is changed must change the description: one network with no default where there is a choice."""
    choices = {
        Linear: dict(bias=True, standardized=True, skip_gain=True, input_scale=2.0, output_scale=0.5, pool=2),
        LIF: dict(beta=0.9, v_threshold=2.0, reset="zero", convention="authors", v_init=0.5, surrogate="triangle"),
    }
    for part, plain in ((Linear(4, 3, **choices[Linear]), Linear(4, 3)), (LIF(**choices[LIF]), LIF())):
        for name in choices[type(part)]:
            assert part.settings()[name] != plain.settings()[name], name


def test_a_network_by_hand_is_saved_and_read(tmp_path):
    net = by_hand()
    save(net, tmp_path / "model.pt", {"note": 1})
    again = load(tmp_path / "model.pt")
    assert describe(again) == describe(net)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in net.state_dict().items())
    assert again.provenance["note"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda part: part["settings"].pop("bias"), r"bias: expected true, got nothing"),
        (lambda part: part["settings"].update(device="cuda"), r"these settings do not fit|device: expected nothing"),
        (lambda part: part["settings"].update(out_features=10**9), r"readout: Linear does not take an input of shape"),
        (lambda part: part.update({"class": "torch.nn.Bilinear"}), r"torch.nn.Bilinear is a class that no file can"),
    ],
)
def test_a_file_makes_no_other_layer_of_torchs(tmp_path, change, message):
    net = of_torch()
    save(net, tmp_path / "model.pt")
    assert describe(load(tmp_path / "model.pt")) == describe(net)
    payload = torch.load(tmp_path / "model.pt", weights_only=True)
    metadata = json.loads(payload["metadata"])
    change(metadata["architecture"]["blocks"][3]["connection"])
    torch.save(payload | {"metadata": json.dumps(metadata)}, tmp_path / "model.pt")
    with pytest.raises(FileError, match=message):
        load(tmp_path / "model.pt")


class Slow(Neuron):
    """A neuron of a user's own."""

    constants = ("beta", "scale")

    def __init__(self, scale=1.0):
        super().__init__()
        self.beta, self.scale = 0.5, scale

    def forward(self, current, v=None, paths=None):
        u = current if v is None else self.beta * v + current
        s = torch.sigmoid(self.scale * u)
        return LIFStep(s, u, u - s.detach())


def mine_surrogate(u, v_threshold):
    return torch.ones_like(u)


def test_a_class_of_ones_own_is_named_and_not_imported(tmp_path):
    net = by_hand(Slow(2.0))
    save(net, tmp_path / "model.pt")
    assert foreign(describe(net)) == [f"block 2, neuron: {__name__}.Slow"]
    with pytest.raises(FileError, match=r"block 2, neuron: .*\.Slow is a class that no file can bring.*net=mine"):
        load(tmp_path / "model.pt")
    mine = by_hand(Slow(2.0), seed=1)
    assert load(tmp_path / "model.pt", net=mine) is mine
    assert all(torch.equal(v, mine.state_dict()[k]) for k, v in net.state_dict().items())


def test_a_surrogate_of_ones_own_is_named(tmp_path):
    save(by_hand(LIF(surrogate=mine_surrogate)), tmp_path / "model.pt")
    with pytest.raises(FileError, match=r"block 2, neuron, surrogate: .*mine_surrogate is a class that no file"):
        load(tmp_path / "model.pt")
    with pytest.raises(UsageError, match=r"blocks\[1\].neuron.settings.surrogate.name: expected .*mine_surrogate"):
        load(tmp_path / "model.pt", net=by_hand())
    load(tmp_path / "model.pt", net=by_hand(LIF(surrogate=mine_surrogate)))


def test_another_network_is_not_filled(tmp_path):
    save(by_hand(Slow(2.0)), tmp_path / "model.pt")
    mine = by_hand(Slow(3.0), seed=1)
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    with pytest.raises(
        UsageError, match=r"another one: network.blocks\[1\].neuron.settings.scale: expected 2.0, got 3"
    ):
        load(tmp_path / "model.pt", net=mine)
    with pytest.raises(UsageError, match=r"is another one: .*more differences"):
        load(tmp_path / "model.pt", net=mlp())
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())


@pytest.mark.parametrize("version", ["by name", "by blocks"])
def test_a_given_network_is_filled_from_any_file(tmp_path, version):
    from fixtures import make

    path = tmp_path / "model.pt" if version == "by blocks" else next(iter(make.HERE.glob("mlp-v1.pt")))
    if version == "by blocks":
        save(make.network()["mlp"], path)
    mine = mlp((6, 4, 3), recurrent=True, bias=True, time_steps=5, surrogate="triangle", seed=9)
    assert torch.equal(load(path, net=mine).readout.weight, make.network()["mlp"].readout.weight)


def test_a_plain_module_is_filled(tmp_path):
    def module(beta=0.5):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), LIF(beta), nn.Linear(5, 3))

    net = module()
    save(net, tmp_path / "model.pt")
    with pytest.raises(FileError, match=r"network: torch.nn.modules.container.Sequential is a class that no file"):
        load(tmp_path / "model.pt")
    with pytest.raises(UsageError, match=r"network.parts.2.settings.beta: expected 0.5, got 0.9"):
        load(tmp_path / "model.pt", net=module(0.9))
    assert torch.equal(load(tmp_path / "model.pt", net=module())[1].weight, net[1].weight)


def test_a_network_by_hand_is_trained_saved_and_exported(tmp_path):
    from ottt_loihi.converters.quantize.float_network import from_torch
    from ottt_loihi.converters.quantize.quantize import quantize

    net = by_hand()
    x, y = torch.rand(4, 5, 1, 4, 4), torch.tensor([0, 1, 2, 3])
    OTTT(update="sequence").backward(net, x, y, SquaredError())
    with torch.no_grad():
        for p in net.parameters():
            p -= 0.1 * p.grad
    save(net, tmp_path / "model.pt")
    assert quantize(from_torch(load(tmp_path / "model.pt"))).chip == quantize(from_torch(net)).chip
    save(by_hand(Slow()), tmp_path / "own.pt")
    with pytest.raises(ChipError, match="neurons of type Slow cannot be exported"):
        from_torch(load(tmp_path / "own.pt", net=by_hand(Slow())))


def test_differences_name_the_place():
    mine, other = describe(mlp((4, 3, 2))), describe(mlp((4, 3, 2), beta=0.9, time_steps=4))
    assert list(differences(mine, other)) == [
        "network.blocks[0].neuron.settings.beta: expected 0.5, got 0.9",
        "network.time_steps: expected 6, got 4",
    ]
