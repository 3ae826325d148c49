"""Identity 9: the memory of online learning does not grow with the number of time steps; in bytes, as torch counts."""

import pytest
import torch
from test_engine import KINDS, networks
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from ottt_loihi.nn.inputs import ConstantInput
from ottt_loihi.nn.models import conv, mlp
from ottt_loihi.rules import make_rule
from ottt_loihi.rules.losses import SquaredError
from ottt_loihi.training.engine import choose


def peak(net, rule, num_steps, constant=False, optimizer=None, products=None, engine="plain", chunk=None):
    """Bytes allocated at most at one time while one batch is learnt from, the input and the gradients not counted."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(64, num_steps, *net.input_shape, generator=generator) < 0.3).float()
    x = ConstantInput(x[:, 0], num_steps) if constant else x
    labels = torch.zeros(64, dtype=torch.int64)
    chosen = choose(net, rule, SquaredError(), num_steps, engine, chunk)

    def learn():
        if optimizer is None:
            return chosen.backward(net, rule, x, labels, SquaredError())
        return chosen.train_batch(net, rule, x, labels, SquaredError(), optimizer)

    with torch.autocast("cpu", products, enabled=products is not None):
        learn()  # the first time fills caches
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
            learn()
    return _most_at_one_time(prof.profiler.kineto_results.experimental_event_tree())


def _most_at_one_time(events):
    """From the profiler's allocations; its own totals take blocks that were there before for older ones."""
    allocations = [event for event in _all(events) if event.tag == _EventType.Allocation]
    live, now, most = {}, 0, 0
    for event in sorted(allocations, key=lambda event: event.start_time_ns):
        size, place = event.typed[1].alloc_size, event.typed[1].ptr
        if size > 0:
            live[place] = size
        now += size if size > 0 else -live.pop(place, 0)
        most = max(most, now)
    assert most > 0
    return most


def _all(events):
    for event in events:
        yield event
        yield from _all(event.children)


QUICK = ("dense", "conv", "sws", "recurrent")  # without the profiler's minutes of the others
SOME_SLOW = [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]


def float_net(kind):
    return networks()[kind].float()


@pytest.mark.parametrize("constant", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("update", ["step", "sequence"])
@pytest.mark.parametrize("kind", SOME_SLOW)
@pytest.mark.parametrize("steps", [12, pytest.param(48, marks=pytest.mark.slow)])  # the profiler is slow
def test_ottt_is_constant_in_the_number_of_time_steps(kind, update, constant, steps):
    net = float_net(kind)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    rule = make_rule("ottt", update=update)
    least = 3 + max(net.delays.values(), default=0)  # until then traces and slow connections fill
    few, many = (peak(net, rule, n, constant, optimizer) for n in (least, steps))
    assert many <= 1.05 * few


@pytest.mark.parametrize("update", ["step", "sequence"])
@pytest.mark.parametrize("kind", ["dense", "sws"])
def test_an_input_constant_in_time_is_folded_once_at_a_time(kind, update):
    """The same in every test run, for what this input has beyond others: the first layer's current."""
    test_ottt_is_constant_in_the_number_of_time_steps(kind, update, True, 12)


@pytest.mark.slow
def test_nor_do_the_16_bits_of_weights_of_earlier_steps_stay():
    net = conv("32C3-64C3-64C3-GAP", input_shape=(2, 4, 4), num_classes=3, standardized=True)
    rule = make_rule("ottt", update="step")
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    few, many = (peak(net, rule, steps, False, optimizer, torch.bfloat16) for steps in (4, 12))
    assert many <= 1.05 * few


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("kind", ["dense", "conv", "sws"])
def test_a_chunk_needs_the_memory_of_its_steps_whatever_their_number(kind, constant):
    net, rule = float_net(kind), make_rule("ottt", update="sequence")

    def bytes_of(num_steps, chunk):
        return peak(net, rule, num_steps, constant, engine="fast", chunk=chunk)

    assert bytes_of(24, 3) <= 1.25 * bytes_of(3, 3)  # nothing of a chunk is there while the next one is computed
    assert bytes_of(24, 12) > 2 * bytes_of(24, 3)
    assert bytes_of(24, 1) <= 1.05 * bytes_of(6, 1)


@pytest.mark.parametrize("kind", ["dense", "conv", "sws"])
def test_single_steps_of_the_fast_engine_need_the_memory_of_one(kind):
    net, rule = float_net(kind), make_rule("ottt", update="step")
    optimizer = torch.optim.SGD(net.parameters(), 1e-4, momentum=0.9)
    few, many = (peak(net, rule, steps, optimizer=optimizer, engine="fast") for steps in (4, 12))
    assert many <= 1.05 * few


@pytest.mark.parametrize("rule", ["sltt", "saf-e", "saf-f", "s-tllr", "tess", "a-otpe"])
@pytest.mark.parametrize("kind", ["dense", "sws"])
def test_the_relatives_are_constant_too(kind, rule):
    net = float_net(kind)
    assert peak(net, make_rule(rule), 12) <= 1.05 * peak(net, make_rule(rule), 4)


def test_otpe_is_constant_too():
    net = float_net("dense")
    assert peak(net, make_rule("otpe"), 12) <= 1.05 * peak(net, make_rule("otpe"), 4)


@pytest.mark.parametrize("trace", ["exact", "synapse"])
def test_current_based_neurons_are_constant_too(trace):
    net = mlp((20, 30, 30, 4), alpha=0.4, reset="zero", learn=["alpha", "beta", "v_threshold"], trace=trace)
    rule = make_rule("ottt", update="sequence")
    assert peak(net, rule, 12) <= 1.05 * peak(net, rule, 4)


@pytest.mark.parametrize("kind", SOME_SLOW)
def test_bptt_is_not(kind):
    net = float_net(kind)
    few, many = peak(net, make_rule("bptt"), 8), peak(net, make_rule("bptt"), 24)
    assert many > 2 * few
    assert many > 2 * peak(net, make_rule("ottt", update="sequence"), 24)


# a layer that feeds itself keeps two traces
@pytest.mark.parametrize("kind", [kind for kind in SOME_SLOW if kind != "recurrent"])
def test_saf_needs_less_than_ottt(kind):
    net = float_net(kind)
    assert peak(net, make_rule("saf-e", update="sequence"), 12) < peak(net, make_rule("ottt", update="sequence"), 12)
