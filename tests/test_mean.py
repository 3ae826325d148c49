"""The running mean of weights that learn: what it is, and that stops, cuts and backends do not change it."""

from dataclasses import replace

import numpy as np
import pytest
from ottt_loihi.onchip import Settings, fresh_network, learn, prequential
from ottt_loihi.sim.learning.learner import MEAN_POINTS, Learner, RunningMean
from ottt_loihi.sim.learning.weight_formats import to_inference
from test_continued import CLASSES, STEPS, data

from ottt_loihi.errors import FileError

EVERY, SAMPLES = 4, 30


def start():
    return fresh_network((12,), (20,), CLASSES, STEPS, resolution=128, seed=1)


def run(begin=0, end=SAMPLES, chip=None, **more):
    x, y = data(SAMPLES)
    if "after" not in more:
        more["settings"] = Settings(
            shuffle=False, average_every=EVERY, readout_rate=0.1, hidden_rate=2.0, halve_every=9
        )
        more["known"] = data(50, 3)
    return learn(start() if chip is None else chip, (x[begin:end], y[begin:end]), **more)


def weights(chip):
    return [c.weight for c in chip.connections if c.weight_format == "learning9"]


def assert_same(found, expected):
    assert found.chip == expected.chip
    assert found.averaged == expected.averaged
    assert found.learner.mean.points == expected.learner.mean.points == SAMPLES // EVERY


def test_it_is_the_mean_of_the_points_and_then_follows():
    rng, mean = np.random.default_rng(0), RunningMean()
    points = rng.integers(-256, 256, (40, 3, 5))
    for point in points[:MEAN_POINTS]:
        mean.move([point])
    np.testing.assert_allclose(mean.weights[0] / 4096, points[:MEAN_POINTS].mean(axis=0), atol=0.02)
    expected = mean.weights[0] / 4096
    for point in points[MEAN_POINTS:]:
        mean.move([point])
        expected += (point - expected) / MEAN_POINTS
    np.testing.assert_allclose(mean.weights[0] / 4096, expected, atol=0.01)


@pytest.mark.parametrize("largest", [100, 127, 128, 255])
def test_inference_weights_hold_it_without_loss(largest):
    mean = RunningMean()
    mean.move([np.array([[largest, -largest, 1, -2, 0]])])
    (rounded,) = mean.rounded()
    chip = start()
    wide = np.resize(rounded, (20, 12)).astype(np.int32)
    chip = replace(chip, connections=(replace(chip.connections[0], weight=wide), *chip.connections[1:]))
    assert to_inference(chip).connections[0].changed == 0
    np.testing.assert_allclose(rounded, [[largest, -largest, 1, -2, 0]], atol=1)


def test_it_is_of_the_weights_at_its_points():
    whole, points = run(), [run(end=end) for end in range(EVERY, SAMPLES + 1, EVERY)]
    mean = RunningMean()
    for point in points:
        mean.move(weights(point.chip))
    for found, expected in zip(weights(whole.averaged), mean.rounded(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert whole.averaged != whole.chip
    assert whole.inference_chip is whole.averaged


def test_a_stream_that_is_cut_has_the_same():
    first = run(end=10)
    assert_same(run(10, chip=first.chip, after=first), run())


def test_a_run_that_is_stopped_goes_on_with_it(tmp_path):
    class Stopped(Exception):
        pass

    def stop(done, total, accuracy):
        if done >= 17:
            raise Stopped

    chosen = {"checkpoint": tmp_path / "state", "checkpoint_every": 5, "evaluate_every": SAMPLES}
    with pytest.raises(Stopped):
        run(progress=stop, **chosen)
    assert_same(run(resume=True, **chosen), run())


@pytest.mark.lava
@pytest.mark.parametrize("backend", ["inprocess", pytest.param("lava", marks=pytest.mark.slow)])
def test_lava_has_the_same(backend):
    pytest.importorskip("lava.magma.core.process.process")
    assert_same(run(backend=backend), run())


@pytest.mark.parametrize("untrained", [True, False])
def test_it_has_32_points_an_epoch_unless_another_number_is_asked_for(untrained):
    chip = replace(start(), untrained=untrained)
    x, y = data(70 * 32)
    assert learn(chip, (x, y)).learner.mean.points == 32
    assert learn(chip, (x[:SAMPLES], y[:SAMPLES]), epochs=3).learner.mean.points == 3 * SAMPLES // 16
    assert learn(chip, (x[:10], y[:10])).averaged is None
    assert learn(chip, (x, y), settings=Settings(average_every=0)).averaged is None


def test_a_stream_that_is_answered_as_it_comes_has_none_unless_it_is_asked_for():
    assert prequential(start(), data(70)).result.averaged is None
    asked = prequential(start(), data(70), settings=Settings(average_every=20)).result
    assert asked.learner.mean.points == 3


@pytest.mark.parametrize("damage", ["shape", "range", "points"])
def test_a_damaged_mean_is_refused(tmp_path, damage):
    import h5py

    learner = run().learner
    path = tmp_path / "state.h5"
    learner.save(path)
    assert Learner.load(path, learner.network).mean.points == SAMPLES // EVERY
    with h5py.File(path, "r+") as file:
        if damage == "points":
            file.attrs["points"] = -1
        wrong = file["mean0"][:-1] if damage == "shape" else np.full(file["mean0"].shape, 1 << 30, np.int32)
        del file["mean0"]
        file["mean0"] = wrong
    with pytest.raises(
        FileError, match="/@points: expected a number ≥ 0" if damage == "points" else "/mean0: expected"
    ):
        Learner.load(path, learner.network)
