"""Learning as a whole: what it refuses, what it returns, and that it learns."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import commands
import numpy as np
import pytest
from ottt_loihi.onchip import Settings, fresh_network, learn, repeat_in_lava
from ottt_loihi.onchip.learner import accuracy
from ottt_loihi.onchip.network.fresh import deeper_gain
from ottt_loihi.onchip.network.trainable import estimate_logit_scale, make_plan, trace_energy
from ottt_loihi.onchip.result import CurvePoint
from ottt_loihi.sim import storage
from ottt_loihi.sim.learning.learner import Learner
from ottt_loihi.sim.learning.weight_formats import make_plastic, to_inference
from ottt_loihi.sim.network import LIF, Dense

from ottt_loihi import sim
from ottt_loihi.cli.help import arguments
from ottt_loihi.cli.learn_scenario import STEPS
from ottt_loihi.data import load_digits, rate_code
from ottt_loihi.errors import ChipError, FileError, LavaError, UsageError, VerificationError


def digits(count=20, start=0):
    split = load_digits()
    return rate_code(split.x_train[start : start + count], 6, 1), split.y_train[start : start + count]


def small():
    return fresh_network(hidden=(20,))


@pytest.mark.lava
class TestRefuses:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x, y: (x, np.where(np.arange(len(y)) == 3, 10, y)), "data: expected labels 0 … 9, got 10 at 3"),
            (lambda x, y: (x, y - 5), "data: expected labels 0 … 9, got -"),
            (lambda x, y: (x, y[:-1]), "data: expected as many labels as samples"),
            (lambda x, y: (x[:0], y[:0]), "at least one"),
            (lambda x, y: (x, y.astype(float)), "expected integer labels"),
            (lambda x, y: (x[:, :3], y), r"input: expected shape \(batch, 6, 8, 8\)"),
            (lambda x, y: (x.astype(float), y), "expected integer messages"),
            (
                lambda x, y: (x * np.where(np.arange(len(x)) == 7, 2, 1).astype(np.uint8)[:, None, None, None], y),
                "0 or 1",
            ),
            (lambda x, y: (x * 0, y), "the input does not fire"),
        ],
    )
    def test_wrong_data(self, change, message):
        with pytest.raises(UsageError, match=message):
            learn(small(), change(*digits()))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (dict(feedback="telepathy"), "feedback: expected one of random, symmetric, .*got 'telepathy'"),
            (dict(readout_rate=0), "readout_rate: expected a number"),
            (dict(hidden_rate=float("nan")), "hidden_rate: expected a number"),
            (dict(halve_every=-1), "halve_every: expected an integer"),
            (dict(seed=-1), "seed: expected an integer"),
            (dict(logit_scale=0), "logit_scale: expected a positive integer"),
            (dict(balanced="no"), "balanced: expected true or false"),
        ],
    )
    def test_wrong_settings(self, settings, message):
        with pytest.raises(UsageError, match=message):
            Settings(**settings)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (dict(epochs=0), "epochs: expected a positive integer"),
            (dict(backend="loihi1"), "backend: expected one of sim, inprocess, lava, loihi2"),
            (dict(evaluate_every=0), "evaluate_every: expected"),
            (dict(settings=Settings(readout_rate=1e-10)), r"readout.y1_scale: a scale of .* is too small"),
        ],
    )
    def test_wrong_arguments(self, arguments, message):
        with pytest.raises(UsageError, match=message):
            learn(small(), digits(), **arguments)

    def test_a_wrong_logit_scale_is_refused_at_once(self):
        with pytest.raises(UsageError, match="logit_scale: expected a positive integer"):
            Settings(logit_scale=0)

    def test_a_silent_layer_is_named(self):
        chip = small()
        deaf = replace(chip, layers=(replace(chip.layers[0], vth=131071), chip.layers[1]))
        with pytest.raises(UsageError, match=r"layer\[0\] \(hidden 1\) does not fire"):
            learn(deaf, digits())


class TestPlan:
    def test_inference_weights_have_to_be_made_plastic(self):
        with pytest.raises(ChipError, match="make_plastic"):
            make_plan(to_inference(small()).chip)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (dict(dv=0), r"layer\[1\] \(readout\): learning needs a memoryless readout"),
            (dict(du=0), "learning needs a memoryless readout"),
        ],
    )
    def test_a_readout_with_memory(self, change, message):
        chip = small()
        with pytest.raises(ChipError, match=message):
            make_plan(replace(chip, layers=(chip.layers[0], replace(chip.layers[1], **change))))

    def test_two_leaks_and_none(self):
        chip = small()
        for change, message in (
            (dict(du=100, dv=100), "reset by subtraction cannot learn"),
            (dict(du=-1), "learning needs 0 ≤ λ < 1"),
        ):
            with pytest.raises(ChipError, match=message):
                make_plan(replace(chip, layers=(replace(chip.layers[0], **change), chip.layers[1])))

    def test_a_second_dense_connection(self):
        chip = small()
        extra = Dense(0, 1, np.zeros((10, 20), int), weight_format="learning9")
        with pytest.raises(ChipError, match=r"layer\[1\]: learning needs exactly one dense or sparse connection"):
            make_plan(replace(chip, connections=(*chip.connections, extra)))

    def test_the_logit_scale_comes_from_the_network_or_the_caller(self):
        chip = replace(small(), logit_scale=None)
        with pytest.raises(UsageError, match="give logit_scale="):
            make_plan(chip)
        assert make_plan(chip, logit_scale=77).logit_scale == 77
        assert make_plan(small()).logit_scale == 16 * 20

    def test_the_logit_scale_of_a_trained_readout_is_found_in_the_data(self):
        """A readout that adds 300 for the right class and nothing else."""
        weight = np.eye(4, dtype=int) * 254
        chip = make_plan(fresh_network((4,), (), 4, 3)).chip
        chip = replace(chip, connections=(replace(chip.connections[0], weight=weight),), logit_scale=None)
        x = np.repeat(np.eye(4, dtype=np.uint8)[:, np.newaxis], 3, axis=1)
        assert estimate_logit_scale(chip, x, np.arange(4)) == 254
        with pytest.raises(UsageError, match="the right class does not lead"):
            estimate_logit_scale(chip, x, np.array([1, 2, 3, 0]))

    def test_trace_energy_counts_what_is_left_of_spikes(self):
        plan = make_plan(fresh_network((2,), (3,), 2, 3))
        x = np.ones((1, 3, 2), np.uint8)
        expected = np.mean([2 * a**2 for a in (1, 1.5, 1.75)])
        assert trace_energy(plan, x)[0] == pytest.approx(expected)

    def test_decay_is_read_from_the_state_that_holds_the_membrane(self):
        assert make_plan(fresh_network(decay=0.75, reset="subtract")).decay == (0.75,)
        assert make_plan(fresh_network(decay=0.75, reset="zero")).decay == (0.75,)


class TestFresh:
    @pytest.mark.parametrize(
        "arguments",
        [
            dict(reset="no"),
            dict(decay=1.0),
            dict(decay=0),
            dict(resolution=8),
            dict(classes=1),
            dict(hidden=(0,)),
            dict(decay=1e-4),
            dict(decay=0.001),
        ],
    )
    def test_bad_input(self, arguments):
        with pytest.raises(UsageError):
            fresh_network(**arguments)

    @pytest.mark.parametrize(
        ("decay", "steps", "more"),
        [
            (0.5, 12, {}),
            (0.1, 12, {}),
            (0.97, 4, {}),
            (0.97, 48, {}),
            (0.9, 12, {"reset": "zero"}),
            (0.8, 12, {"reset": "zero", "current_decay": 0.5}),
            (0.5, 12, {"density": 0.2}),
        ],
    )
    def test_no_layer_is_silent_at_any_depth(self, decay, steps, more):
        x = rate_code(load_digits().x_train[:24], steps, 0).reshape(-1, steps, 8, 8)
        chip = fresh_network(hidden=(64,) * 6, num_steps=steps, decay=decay, **more)
        rates = [s.mean() for s in sim.run(chip, x, ("s",)).states["s"][:6]]
        assert min(rates) > 0.02
        assert max(rates) < 0.4

    def test_each_hidden_layer_has_its_gain(self):
        sizes = dict(hidden=(128,) * 3, num_steps=12)
        plain, same = fresh_network(**sizes), fresh_network(**sizes, gain=2)
        assert (plain.connections[0].weight == same.connections[0].weight).all()
        deeper = deeper_gain(0.5, 12)
        assert 3.9 < deeper < 4.2
        assert fresh_network(**sizes, gain=(2.0, deeper, deeper)) == plain != same
        for gain in (0, (2.0, 4.0), float("inf")):
            with pytest.raises(UsageError, match="gain: expected"):
                fresh_network(**sizes, gain=gain)

    def test_seeds(self):
        assert fresh_network(seed=3) == fresh_network(seed=3)
        assert fresh_network(seed=3) != fresh_network(seed=4)

    @pytest.mark.parametrize("decay", [0.1, 0.5, 0.9, 0.97])
    def test_the_reset_subtracts_the_decayed_threshold(self, decay):
        chip = fresh_network(decay=decay)
        inhibition = -int(chip.connections[1].weight[0])
        assert inhibition == pytest.approx(decay * chip.layers[0].vth, abs=1)
        assert isinstance(chip.layers[0], LIF)


@pytest.mark.lava
class TestLearn:
    @pytest.mark.slow
    def test_what_comes_back(self):
        chip, data = small(), digits(40)
        reports = []
        result = learn(
            chip, data, test=data, evaluate_every=15, epochs=2, progress=lambda *state: reports.append(state)
        )
        assert [p.samples for p in result.curve] == [0, 15, 30, 45, 60, 75, 80]
        assert result.samples == 80
        assert result.steps == 80 * 6 * 4
        assert result.messages == 80 * 6
        assert reports[-1][:2] == (80, 80)
        assert result.accuracy == accuracy(result.chip, *data)
        assert set(result.counters) == {
            f"{p}.{kind}_saturated" for p in ("neuron[0]", "readout") for kind in ("y1", "error")
        }
        assert result.chip != chip
        assert result.chip.layers == chip.layers
        assert result.settings["backend"] == "sim"

    def test_the_same_seed_gives_the_same_weights_and_another_does_not(self):
        runs = [learn(small(), digits(), settings=Settings(seed=seed)).chip for seed in (1, 1, 2)]
        assert runs[0] == runs[1]
        assert runs[0] != runs[2]

    @pytest.mark.parametrize("feedback", [pytest.param("random", marks=pytest.mark.slow), "symmetric"])
    def test_all_backends_give_the_same_network(self, feedback):
        settings = Settings(feedback=feedback)
        sim, *others = (learn(small(), digits(10), backend=b, settings=settings) for b in ("sim", "inprocess", "lava"))
        for other in others:
            assert sim.chip == other.chip
            assert sim.counters == other.counters

    def test_learning_goes_on_from_a_saved_network(self, tmp_path):
        chip = learn(small(), digits()).chip
        storage.save(chip, tmp_path / "learnt.h5")
        loaded = storage.load(tmp_path / "learnt.h5")
        assert loaded == chip
        assert learn(loaded, digits(start=20)).chip == learn(chip, digits(start=20)).chip

    def test_data_may_be_encoded_afresh_for_every_pass(self):
        asked = []

        def data(number):
            asked.append(number)
            return digits(10, start=10 * number)

        learn(small(), data, epochs=3)
        assert asked == [0, 1, 2]

    def test_ctrl_c_keeps_what_was_learnt(self):
        def stop(done, total, accuracy):
            if done >= 16:
                raise KeyboardInterrupt

        result = learn(small(), digits(40), test=digits(10), evaluate_every=8, progress=stop)
        assert result.interrupted
        assert result.samples == result.curve[-1].samples == 16
        assert result.chip == learn(small(), digits(40), evaluate_every=8, progress=stop).chip

    @pytest.mark.slow
    def test_a_stretch_repeated_in_lava(self):
        repetition = repeat_in_lava(small(), digits(5), 200)
        assert repetition.steps == 216  # whole samples of 24 steps; the data is gone through twice
        assert repetition.variables > 15

    def test_a_difference_is_named(self, monkeypatch):
        real = Learner.variables

        def wrong(self):
            values = real(self)
            values["plastic[0].x1"][3] += 1
            return values

        monkeypatch.setattr(Learner, "variables", wrong)
        with pytest.raises(VerificationError, match=r"plastic\[0\]\.x1 differs at \(3,\) after 24 steps"):
            repeat_in_lava(small(), digits(5), 1)

    def test_a_dying_run_is_one_error(self, monkeypatch):
        from ottt_loihi.onchip.lava.processes.readout import OTTTReadoutModelFixed

        def fail(self, a):
            raise ValueError("broken")

        monkeypatch.setattr(OTTTReadoutModelFixed, "update", fail)
        for backend in ("inprocess", "lava"):
            with pytest.raises(LavaError, match=r"readout \(OTTTReadout\) raised ValueError: broken"):
                learn(small(), digits(5), backend=backend)


@pytest.mark.lava
@pytest.mark.slow
class TestLearnsDigits:
    """64-128-10, fixed point, random feedback, 8-bit inference weights after freezing."""

    @staticmethod
    def data(turn=False, seed=100):
        split = load_digits()
        view = (lambda images: images[:, ::-1, ::-1]) if turn else (lambda images: images)
        test = rate_code(view(split.x_test), 6, 0), split.y_test
        return lambda number: (rate_code(view(split.x_train), 6, seed + number), split.y_train), test

    @pytest.mark.parametrize("reset", ["subtract", "zero"])
    def test_from_scratch_in_one_pass_and_back_after_the_sensor_was_turned(self, reset):
        training, test = self.data()
        scratch = learn(fresh_network(reset=reset), training, test=test)
        frozen = to_inference(scratch.chip).chip
        assert accuracy(frozen, *test) >= 0.88
        training, test = self.data(turn=True, seed=200)
        fast = Settings(feedback="random", readout_rate=0.02, hidden_rate=1.0, learn_when="always")
        drift = learn(make_plastic(frozen), training, test=test, epochs=3, settings=fast)
        assert drift.curve[0].accuracy < 0.6
        assert accuracy(to_inference(drift.chip).chip, *test) >= 0.88


@pytest.mark.slow
class TestDigitsAreLearnt:
    """64-128-10 as ``ottt-learn`` starts it, three epochs, rates halved after each: the bars of docs/onchip.md."""

    @staticmethod
    def run(seed, epochs, backend="sim", count=None, **settings):
        split = load_digits()
        x_train, y_train = split.x_train[:count], split.y_train[:count]
        chip = fresh_network(num_steps=STEPS, seed=seed)
        test = rate_code(split.x_test, STEPS, seed), split.y_test
        result = learn(
            chip,
            lambda number: (rate_code(x_train, STEPS, 1000 * (seed + 1) + number), y_train),
            test=test,
            epochs=epochs,
            backend=backend,
            settings=Settings(seed=seed, halve_every=len(y_train), **settings),
            evaluate_every=len(y_train),
        )
        return result, accuracy(to_inference(result.chip).chip, *test)

    @pytest.mark.parametrize(
        ("feedback", "loss", "bar"),
        # three seeds: 94.4 % with random feedback and the squared error (95.3 with the rates 0.02 and 1); the others
        # over eight seeds, with the rates of 0.1: 95.0, 95.5 and 93.3 % (± 0.4 to 1.3 for a seed); None, which is
        # softmax: 95.5, 95.9 and 94.3 % over three
        [("random", "mse", 0.935), ("kolen-pollack", "mse", 0.94), ("opzo", "mse", 0.92)]
        + [("kolen-pollack", None, 0.945), ("random", None, 0.95), ("opzo", None, 0.93)],
    )
    def test_in_three_epochs_with_inference_weights(self, feedback, loss, bar):
        runs = [self.run(seed, 3, feedback=feedback, loss=loss) for seed in range(3)]
        assert np.mean([frozen for _, frozen in runs]) >= bar
        assert np.mean([result.accuracy for result, _ in runs]) >= bar
        assert not any(result.warnings for result, _ in runs)

    @pytest.mark.lava
    def test_lavas_engine_gives_the_same_weights(self):
        pytest.importorskip("lava.magma.core.process.process")
        (sim, accuracy_in_sim), (lava, accuracy_in_lava) = (
            self.run(0, 1, backend, count=300) for backend in ("sim", "inprocess")
        )
        assert sim.chip == lava.chip
        assert sim.counters == lava.counters
        assert (sim.curve, accuracy_in_sim) == (lava.curve, accuracy_in_lava)

    @pytest.mark.lava
    def test_a_stretch_in_lavas_runtime_gives_the_same_weights(self):
        pytest.importorskip("lava.magma.core.process.process")
        split = load_digits()
        data = rate_code(split.x_train[:20], STEPS, 1000), split.y_train[:20]
        repetition = repeat_in_lava(fresh_network(num_steps=STEPS), data, 480, settings=Settings(halve_every=5))
        assert repetition.steps == 480  # ten samples


def run(*line):
    return commands.run("ottt-learn", *line)


@pytest.mark.lava
class TestCommand:
    @pytest.mark.parametrize(
        ("line", "code", "says"),
        [
            (["none.h5"], 3, "no such file"),
            (["--epochs", "0"], 2, "epochs"),
            (["--transform", "sideways"], 2, "sideways"),
            (["--pases", "1"], 2, "No such option"),
            (["--data", "cats"], 2, "expected one of digits, mnist"),
            (["--readout-rate", "5"], 2, "readout_rate: expected a number"),
            (["-o", "/proc/nowhere"], 3, "cannot be written"),
            (["--plastic", "1"], 2, "--plastic: every layer of a network from scratch learns; give a model.h5"),
        ],
    )
    def test_wrong_use_is_one_line(self, line, code, says):
        commands.assert_one_line(commands.run_here("ottt-learn", *line), code, says)

    def test_the_option_of_version_0_1_has_todays_name(self, capsys):
        assert arguments(["m.h5", "--passes", "3"]) == ["m.h5", "--epochs", "3"]
        assert arguments(["--passes=3"]) == ["--epochs=3"]
        assert capsys.readouterr().err == 2 * "note: --passes is now --epochs\n"

    def test_a_network_for_other_data(self, tmp_path):
        storage.save(fresh_network((5, 5), (4,)), tmp_path / "chip.h5")
        done = commands.run_here("ottt-learn", tmp_path / "chip.h5")
        commands.assert_one_line(done, 2, "its samples are (8, 8), the network expects (5, 5)")

    @pytest.mark.parametrize(
        ("option", "says"),
        [
            (
                ["--hidden", "7"],
                "--hidden, --density, .*: of networks from scratch; a model.h5 has its own, leave them out",
            ),
            (["--density", "0.5"], "of networks from scratch; a model.h5 has its own"),
            (["--plastic", "3"], "--plastic: the network has 2 layers, got 3; leave it out"),
        ],
    )
    def test_options_that_a_deployed_network_answers_itself(self, tmp_path, option, says):
        storage.save(fresh_network((8, 8), (4,)), tmp_path / "chip.h5")
        done = commands.run_here("ottt-learn", tmp_path / "chip.h5", "--data", "digits", *option)
        commands.assert_one_line(done, 2, *says.split(", .*: "))

    def test_a_network_whose_first_layer_the_host_computes(self, tmp_path):
        pytest.importorskip("torch")
        from ottt_loihi.converters.quantize.float_network import from_torch
        from ottt_loihi.converters.quantize.quantize import quantize

        from ottt_loihi.nn.models import mlp

        net = mlp((64, 20, 10), input_shape=(8, 8))
        net.provenance["encoding"] = {"name": "constant"}
        storage.save(quantize(from_torch(net), input_form="bias").chip, tmp_path / "chip.h5")
        done = commands.run_here("ottt-learn", tmp_path / "chip.h5")
        commands.assert_one_line(done, 2, "its first connection is the host's", "export with --input graded")

    @pytest.mark.slow
    def test_drift_with_a_stretch_in_lava(self, tmp_path):
        storage.save(to_inference(small()).chip, tmp_path / "model.h5")
        done = run(
            tmp_path / "model.h5", "--transform", "upside-down", "--epochs", 1, "--repeat-in-lava", 200, "--json"
        )
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert len(summary["accuracies"]) == 3
        assert summary["accuracy"] > 0.4
        assert summary["repeated_in_lava"]["steps"] >= 200
        assert {p.name for p in tmp_path.iterdir()} == {
            "model.h5", "drift-learnt.h5", "drift-inference.h5", "drift-curve.png", "drift-curve.json", "report.html",
            "sections", "drift-state.h5", "drift-state.json",
        }  # fmt: skip
        assert storage.load(tmp_path / "drift-learnt.h5").provenance["learning"]["samples"] == 1437
        assert json.loads((tmp_path / "drift-curve.json").read_text())["samples"][0] == 0

    @pytest.mark.slow
    def test_ctrl_c_saves(self, tmp_path):
        """As a person's: raised by the progress bar after 160 samples, which no load of the machine can shift."""
        script = (
            "import sys\nfrom ottt_loihi.cli import learn as cli\nfrom ottt_loihi.onchip.learner import Session\n"
            "run = Session.run\n"
            "def stop(done, total, accuracy):\n    if done >= 160: raise KeyboardInterrupt\n"
            "Session.run = lambda self, total, every, keep_every, *rest: run(self, total, every, keep_every, stop)\n"
            f"sys.argv = ['ottt-learn', '--hidden', '10', '-o', {str(tmp_path)!r}]\ncli.main()\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 130, done.stderr
        assert "what was learnt until then is saved" in " ".join(done.stderr.split())
        assert storage.load(tmp_path / "scratch-learnt.h5").provenance["learning"]["samples"] == 143


def test_logits_of_cross_entropy_are_no_targets():
    """Their size is found from data; a network trained with the squared error says it itself."""
    chip = replace(small(), logit_scale=320.0, loss="mse")
    assert make_plan(chip).logit_scale == 320
    with pytest.raises(UsageError, match="trained with cross-entropy, which has no such target"):
        make_plan(replace(chip, loss="cross-entropy"))


class TestRates:
    def run(self, **settings):
        return learn(small(), digits(60), test=digits(40, 300), settings=Settings(**settings), evaluate_every=20)

    def test_good_rates_give_no_warning(self):
        result = self.run()
        assert result.warnings == []
        assert min(result.moved) > 0.3

    def test_a_rate_that_rounds_to_nothing_is_told_with_numbers(self):
        result = self.run(readout_rate=1e-6)
        assert result.moved[1] < 0.01
        assert any(
            w.startswith("the readout, η = ") and "rounded to nothing; raise its rate" in w for w in result.warnings
        )

    def test_a_rate_that_saturates_the_messages_is_told_with_numbers(self):
        result = self.run(readout_rate=1.9, logit_scale=1000, hidden_rate=1.0, feedback="random", loss="mse")
        part = result.counters["readout.y1_saturated"] / (result.messages * 10)
        assert part > 0.5
        assert result.warnings == [
            f"the readout, η = {result.rates[1]:.3g}: {part:.1%} of the messages y1 saturate at ±127; lower its rate"
        ]

    def test_weights_at_their_limits_are_told_with_numbers(self):
        railed = replace(self.run(), rails=(0.25, 0.0))
        assert [w.partition(": ")[2] for w in railed.warnings] == [
            "25.0% of the weights are at −256 or 255; lower its rate"
        ]

    def test_a_network_that_learning_made_worse_is_named(self):
        curve = (CurvePoint(0, 0.905), CurvePoint(60, 0.372))
        assert replace(self.run(), curve=curve).warnings == [
            "learning made the network worse: 90.5% before, 37.2% after 60 samples; lower the rates"
        ]
        assert replace(self.run(), curve=(CurvePoint(0, 0.9), CurvePoint(60, 0.895))).warnings == []

    def test_learning_stops_when_it_is_good_enough(self):
        split = load_digits()
        x, y = rate_code(split.x_train, 6, 1), split.y_train
        chip = fresh_network(hidden=(64,))
        held = x[:200], y[:200]
        result = learn(chip, (x[200:], y[200:]), test=held, evaluate_every=100, validation=held, stop_at=0.6)
        assert accuracy(result.averaged or result.chip, *held) >= 0.6
        assert result.samples < len(x)
        with pytest.raises(UsageError, match="stop_at and validation belong together"):
            learn(chip, (x, y), test=held, stop_at=0.6)
        with pytest.raises(UsageError, match="stop_at: expected a number"):
            learn(chip, (x, y), validation=held, stop_at=1.5)


class TestResume:
    """Stopped and resumed is not stopped, to the last bit; other backends: ``test_learning_resume.py``."""

    def run(self, folder, epochs, resume=False, every=50, **settings):
        x, labels = digits(120)
        chosen = {"feedback": "kolen-pollack", "halve_every": 100} | settings
        return learn(
            small(),
            (x, labels),
            test=digits(40, 300),
            epochs=epochs,
            settings=Settings(**chosen),
            evaluate_every=every,
            checkpoint=folder / "state",
            resume=resume,
        )

    def test_a_longer_run_and_a_resumed_one_are_the_same(self, tmp_path):
        whole = self.run(tmp_path / "whole", 2)
        first = self.run(tmp_path / "parts", 1)
        again = self.run(tmp_path / "parts", 2, resume=True)
        assert first.chip != whole.chip
        assert again.chip == whole.chip
        assert [p for p in whole.curve if p.samples != 120] == [p for p in again.curve if p.samples != 120]
        assert (again.samples, again.counters) == (whole.samples, whole.counters)

    @pytest.mark.slow
    def test_a_killed_run_goes_on(self, tmp_path):
        """kill -9 in the middle, as often as it takes to finish."""
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import test_learner as t\n"
            "folder = Path(sys.argv[2]); resume = (folder / 'state.h5').exists()\n"
            "import os, ottt_loihi.onchip.learner as module\n"
            "saved = module.Checkpoint.save\n"
            "def save(self, *arguments):\n    saved(self, *arguments); os.kill(os.getpid(), 9)\n"
            "module.Checkpoint.save = save if sys.argv[3] == 'kill' else saved\n"
            "t.TestResume().run(folder, 1, resume)\n"
        )
        command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "killed")]
        assert subprocess.run([*command, "kill"], timeout=120, check=False).returncode == -9
        assert subprocess.run([*command, "kill"], timeout=120, check=False).returncode == -9
        found = self.run(tmp_path / "killed", 1, resume=True)
        whole = self.run(tmp_path / "whole", 1)
        assert found.chip == whole.chip
        assert found.curve == whole.curve

    def test_what_cannot_go_on_is_named(self, tmp_path):
        with pytest.raises(FileError, match="no run to go on with"):
            self.run(tmp_path, 1, resume=True)
        self.run(tmp_path, 1)
        with pytest.raises(FileError, match="the state of another network or rule"):
            self.run(tmp_path, 1, resume=True, halve_every=7)
        with pytest.raises(UsageError, match="a run on other data, or in another order"):
            self.run(tmp_path, 1, resume=True, seed=3)
        with pytest.raises(UsageError, match="a point every 50 samples, now every 40; use the original"):
            self.run(tmp_path, 1, resume=True, every=40)
        (tmp_path / "state.json").write_text('{"format": 1}')
        with pytest.raises(FileError, match="no learning curve of ours"):
            self.run(tmp_path, 1, resume=True)
