"""The pieces of ``benchmarks/peers.py`` that need no other toolkit: processes, gradients that are claimed, pictures."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def command(program):
    return [sys.executable, "-c", program]


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("print('ready')", ("ready\n", "")),
        ("print('half'); raise ValueError('no such chip')", ("half\n", "ValueError: no such chip")),
        ("import sys; sys.exit(3)", ("", "it printed nothing")),
    ],
)
def test_a_process_says_in_its_last_line_why_it_failed(program, found):
    import peers_process

    assert peers_process.output_of(command(program)) == found


def test_a_slow_process_ends_with_those_that_it_started(tmp_path):
    import peers_process

    sleeper = tmp_path / "sleeper"
    started = ["sh", "-c", f"sleep 60 & echo $! > '{sleeper}'; wait"]
    began = time.monotonic()
    assert peers_process.output_of(started, 1.0) == ("", "not ready after 1 s")

    def runs():
        try:
            return Path(f"/proc/{sleeper.read_text().strip()}/stat").read_text().split()[2] != "Z"
        except OSError:
            return False

    while runs() and time.monotonic() - began < 30:
        time.sleep(0.01)
    assert not runs()


def test_only_a_package_that_is_not_there_is_missing():
    import peers_process

    assert peers_process.verdict(peers_process.output_of(command("import no_such_toolkit"))[1]) == "missing"
    assert peers_process.verdict("AttributeError: module 'numpy' has no attribute 'float'") == "failed"


def peer(monkeypatch, tmp_path, program, name="a peer"):
    """Return a peer whose worker is another program; it is closed by the caller."""
    import peers_process

    (tmp_path / "peers_worker.py").write_text(program)
    monkeypatch.setattr(peers_process, "HERE", tmp_path)
    found = peers_process.Peer(name, tmp_path, 1)
    found.wait()
    return found


def test_a_worker_that_dies_is_named_with_its_last_line(monkeypatch, tmp_path):
    program = "import sys\nprint('{}', flush=True)\ninput()\nsys.exit('out of memory')"
    found = peer(monkeypatch, tmp_path, program)
    assert not found.unavailable
    wanted = {"failed": "its process ended with status 1: out of memory"}
    assert [found.ask(do="time"), found.ask(do="time")] == [wanted, wanted]
    found.close()


def test_a_worker_that_does_not_answer_is_ended(monkeypatch, tmp_path):
    found = peer(monkeypatch, tmp_path, "import time\nprint('{}', flush=True)\ntime.sleep(60)")
    assert found.ask(0.2, do="time") == {"failed": "no answer within 0.2 s"}
    assert found.process.returncode is not None
    found.close()


def test_a_framework_that_is_not_installed_is_missing(tmp_path):
    from peers_process import Peer, verdict

    found = Peer("BrainTrace pp_prop", tmp_path, 1)
    found.wait()
    found.close()
    assert found.unavailable == "ModuleNotFoundError: No module named 'braintrace'"
    assert verdict(found.unavailable) == "missing"


def test_a_contender_that_fails_in_its_turn_leaves_the_others(tmp_path):
    import peers_training

    def contender(*answers):
        given = iter(answers)
        return SimpleNamespace(ask=lambda **request: next(given))

    fine = {"wall": 2.0, "cpu": 1.0}
    peers = {
        "ours": contender({}, fine, fine, fine),
        "one": contender({}, {"wall": 4.0, "cpu": 3.0}, {"failed": "out of memory"}),
        "two": contender({"failed": "no convolution"}),
    }
    rows = peers_training.take_turns(peers, tmp_path, 3)
    assert rows["one"] == {"failed": "out of memory"}
    assert rows["two"] == {"failed": "no convolution"}
    assert rows["ours"] == {"turns": 3, **fine, "wall ratio": 1.0, "cpu ratio": 1.0}
    row = {"network": "MLP", "input": "events", "steps": 6, "threads": 1}
    named = {"ours": rows["ours"], "SpikingJelly OTTT": rows["one"]}
    result = {"checks": [], "rows": [row | {"contender": name} | found for name, found in named.items()]}
    assert "| MLP | events | 6 | 1 | 2000.0 (1.00×) | failed: out of memory |" in peers_training.tables(result)


def batch(tmp_path, network, kind):
    from peers_batch import Batch
    from peers_training import write

    path = write(tmp_path, network, kind, 3, 2)
    return lambda: Batch.read(str(path), "float64")


def largest_error(found, wanted):
    pairs = zip(found, wanted, strict=True)
    return max(float(np.linalg.norm(a - np.asarray(b)) / np.linalg.norm(b)) for a, b in pairs)


@pytest.mark.parametrize("kind", ["events", "constant"])
@pytest.mark.parametrize("network", ["MLP", "conv"])
def test_ours_computes_what_it_claims(tmp_path, network, kind):
    from peers_reference import expected
    from peers_worker import CONTENDERS

    read = batch(tmp_path, network, kind)
    gradients = {}
    for name in ("ours", "ours, plain", "ours, input traced", "two forwards"):
        job = CONTENDERS[name][0](read())
        job.run()
        gradients[name] = job.gradients()
    for name in ("ours", "ours, plain"):
        assert largest_error(gradients[name], gradients["two forwards"]) < 1e-10
    assert largest_error(gradients["ours, input traced"], expected("ours, input traced", read())) < 1e-10
    assert largest_error(gradients["ours"], expected("BrainTrace pp_prop", read())) > 1e-3  # the check can fail


def test_the_loop_with_one_backward_pass_has_the_gradients_of_our_bptt(tmp_path):
    from peers_reference import expected
    from peers_worker import _our_network
    from training import LOSS

    from ottt_loihi.rules import make_rule

    read = batch(tmp_path, "MLP", "events")
    net, parameters, x = _our_network(read(), "authors")
    make_rule("bptt").backward(net, x, torch.from_numpy(read().labels), LOSS)
    found = [parameter.grad.numpy() for parameter in parameters]
    assert largest_error(found, expected("SpikingJelly BPTT", read())) < 1e-10


def test_gradients_that_are_no_numbers_are_wrong():
    from peers_training import wrong

    assert wrong({"ours": 1e-15, "snnTorch BPTT": 1e-8, "SLAYER BPTT": "not compared: it rounds"}) == []
    assert [line.split(":")[0] for line in wrong({"ours": float("nan"), "Norse BPTT": 1e-8})] == ["ours", "Norse BPTT"]


def test_the_peak_is_what_a_call_holds_at_one_time():
    from peers_worker import peak_of

    def twice():
        for _ in range(2):
            np.ones(8 << 20)  # 64 MiB, freed before the next

    assert 60 < peak_of(twice) / 2**20 < 100


def test_the_first_state_that_differs_is_named():
    from peers_simulation import divergence

    ours = {"s": [np.zeros((3, 2), int)], "v": [np.arange(6).reshape(3, 2)]}
    found = {"s": [np.zeros((4, 2), bool)], "v": [np.arange(8.0).reshape(4, 2)]}
    assert divergence(found, ours) == ""
    found["v"][0][1, 1] = 7
    found["s"][0][2, 0] = True
    assert divergence(found, ours) == "v of neuron 1 of layer 0 at step 1: 7 instead of 3"


def test_each_part_has_a_picture(tmp_path):
    import peers_pictures

    case = {"network": "MLP", "input": "events", "steps": 6, "threads": 1}
    training = [
        case | {"contender": "ours", "wall ratio": 1.0},
        case | {"contender": "SLAYER BPTT", "failed": "over 15 s"},
    ]
    result = {
        "training": {"rows": training},
        "memory": {"rows": [{"network": "MLP", "steps": t, "contender": "ours", "bytes": 2**20} for t in (6, 48)]},
        "simulation": {"rows": [{"network": "64-128-10", "simulator": "ours", "rate": 1e4}]},
        "accuracy": {"rows": [{"network": "Braille", "framework": 0.9, "here": 0.9, "chip": 0.8}]},
    }
    peers_pictures.draw(result, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"peers-{part}.svg" for part in result}
    assert "over 15 s" in (tmp_path / "peers-training.svg").read_text()
