"""A network by hand, with a neuron, surrogate and loss of a user's own: trained, saved, resumed, exported."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import ottt_loihi as ol
from ottt_loihi.errors import ChipError
from ottt_loihi.nn.neurons import LIFStep


def wide(u, v_threshold):
    """A surrogate: any function of the membrane and the threshold, which gives the derivative."""
    return (u - v_threshold).abs().lt(0.8).to(u.dtype)


class Leaky(ol.Neuron):
    """A neuron that keeps four fifths of its membrane and fires at most half a spike."""

    beta = 0.8

    def forward(self, current, v=None, paths=None):
        u = current if v is None else self.beta * v + current
        s = torch.sigmoid(5 * (u - 1))
        return LIFStep(s, u, u - s.detach())


def margin(o, labels, time_steps):
    return torch.nn.functional.multi_margin_loss(o, labels) / time_steps


def network(neuron, surrogate):
    torch.manual_seed(0)
    slow = ol.LIF(beta=0.75, surrogate=surrogate)
    blocks = [
        ol.Block(ol.Linear(64, 20), slow, branches=[ol.Branch(ol.Linear(20, 20), source=0, delay=1)]),
        ol.Block(ol.Linear(20, 16), neuron()),
    ]
    return ol.Network(blocks, ol.Readout(16, 10), input_shape=(8, 8), time_steps=4)


DIGITS = ol.load_data("digits").first(160, 80)


def loader():
    return DataLoader(TensorDataset(*map(torch.tensor, DIGITS.train)), batch_size=16, shuffle=True)


class Stop(Exception):
    pass


class StopsAfter(ol.Callback):
    def __init__(self, *place):
        self.place = place

    def on_batch_end(self, fit):
        if (fit.progress.epoch, fit.progress.batch) == self.place:
            raise Stop


@pytest.mark.parametrize(("neuron", "surrogate"), [(ol.LIF, wide), (Leaky, "triangle")])
def test_from_a_loader_to_the_chip(tmp_path, neuron, surrogate):
    def trainer(*callbacks):
        rule, more = ol.OTTT("sequence"), dict(optimizer="adamw", learning_rate=0.01, callbacks=callbacks)
        return ol.Trainer(network(neuron, surrogate), rule, loss=margin, **more)

    def fit(one, **settings):
        return one.fit(loader(), epochs=3, validation=DIGITS.test, **settings)

    whole, broken, again = trainer(StopsAfter()), trainer(StopsAfter(2, 1)), trainer(StopsAfter())
    history = fit(whole)
    assert history[-1].loss < history[0].loss
    with pytest.raises(Stop):
        fit(broken, run=ol.RunFolder(tmp_path))
    resumed = fit(again, run=ol.RunFolder(tmp_path), resume=True)
    assert [e.validation_accuracy for e in resumed] == [e.validation_accuracy for e in history]
    assert all(torch.equal(a, b) for a, b in zip(whole.net.parameters(), again.net.parameters(), strict=True))

    mine = network(neuron, surrogate)
    net = ol.load(tmp_path / "model.pt", net=mine)
    assert ol.evaluate(net, *DIGITS.test).accuracy == ol.evaluate(again.net, *DIGITS.test).accuracy
    if neuron is Leaky:
        with pytest.raises(ChipError, match="hidden 2: neurons of type Leaky cannot be exported"):
            ol.export(net)
    else:
        chip = ol.export(net).chip
        spikes = ol.rate_code(DIGITS.x_test, num_steps=4)
        agreement = (ol.sim.run(chip, spikes).predictions == net.predict(torch.from_numpy(spikes)).numpy()).mean()
        assert agreement > 0.7
