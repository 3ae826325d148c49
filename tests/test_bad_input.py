"""What people bring that is not as it should be: one line each, and the right exit code."""

import io
import json

import numpy as np
import pytest
from commands import assert_one_line, run_here
from scipy.io import wavfile

from ottt_loihi.training.config import make_config
from ottt_loihi.training.run import run

RNG = np.random.default_rng(0)
SERIES = RNG.normal(size=(40, 6, 3))
Y = np.arange(40) % 4
RARE = (np.arange(400) % 25 == 0).astype(int)
USAGE, FILE = 2, 3


def changed(array, place, value, dtype=float):
    array = np.array(array, dtype)
    array[place] = value
    return array


ARRAYS = [  # arrays of an .npz, exit code, words of the line
    (
        {"x": changed(SERIES, (3, 2, 1), np.nan)},
        FILE,
        "got NaN or infinity: 1 values in 1 of 40 samples; fill the gaps",
    ),
    ({"x": changed(SERIES, (3, 2, 1), np.inf)}, FILE, "1 values in 1 of 40 samples"),
    ({"y": changed(Y, 5, np.nan)}, FILE, "1 labels are missing (NaN)"),
    ({"y": changed(Y, 5, 1.5)}, FILE, "expected integers or names, got float64 such as 1.5"),
    ({"y": changed(Y, 5, -1, int)}, FILE, "expected labels 0 … classes − 1, got -1 … 3"),
    ({"y": np.array(["a", "b", "c", ""])[Y]}, FILE, "10 labels are empty"),
    ({"y": Y[:30]}, FILE, "got 40 samples and 30 labels"),
    ({"y": Y, "class_names": np.array(["a", "b", "c"])}, FILE, "expected 0 … 2, got 0 … 3"),
    ({"y": Y + 1, "class_names": np.array(["a", "b", "c", "d"])}, FILE, "they begin at 1, subtract 1"),
    ({"y": Y.astype(object)}, FILE, "y: holds pickled objects; refused"),
    ({"x": np.array([SERIES[0], SERIES[1, :4]], object), "y": Y[:2]}, FILE, "x: holds pickled objects; refused"),
    ({"z": Y}, FILE, "expected the arrays x_train, y_train, x_test, y_test, or x and y; found time_axis, x, z"),
]


@pytest.mark.parametrize(("arrays", "code", "says"), ARRAYS, ids=range(len(ARRAYS)))
def test_arrays(tmp_path, arrays, code, says):
    given = {"x": SERIES, "time_axis": True, **({} if "z" in arrays else {"y": Y}), **arrays}
    np.savez(tmp_path / "a.npz", **given)
    for command in (["ottt-data", tmp_path / "a.npz"], ["ottt-train", "--data", tmp_path / "a.npz", "-o", tmp_path]):
        assert_one_line(run_here(*command), code, says)


TABLES = [
    (
        "a,label\n1,x\n,y\n3,x\n",
        FILE,
        "row 3, column 'a': expected a number, found 1 empty cells, the first; fill the gaps",
    ),
    ("a,label\n1,x\nten,y\n", FILE, "row 3, column 'a': expected a number, found 'ten'"),
    ("a,label\n1,x\nnan,y\n3,x\n4,y\n", FILE, "got NaN or infinity: 1 values"),
    ("a,label\n1,x\n2,\n3,x\n4,y\n", FILE, "1 labels are empty"),
    ("a,label\n1,x\n2\n", FILE, "row 3: has 1 cells, the heading 2"),
    ("a,b\n1,2\n3,4\n", USAGE, "no column 'label'; it has a, b; data.label=NAME names the column"),
    ("1,2\n3,4\n", FILE, "its first line holds numbers; expected a heading"),
]


@pytest.mark.parametrize(("text", "code", "says"), TABLES, ids=range(len(TABLES)))
def test_tables(tmp_path, text, code, says):
    (tmp_path / "a.csv").write_text(text)
    assert_one_line(run_here("ottt-train", "--data", tmp_path / "a.csv", "-o", tmp_path), code, says)


def test_recordings_of_unequal_length(tmp_path):
    for part in ("TRAIN", "TEST"):
        lines = ["@classLabel true a b", "@data", "1,2,3:4,5,6:a", "1,2:4,5:b", "3,2,1:4,5,6:a", "3,2:4,5:b"]
        (tmp_path / f"s_{part}.ts").write_text("\n".join(lines))
    line = ("ottt-train", "--data", tmp_path / "s_TRAIN.ts", "--epochs", "1", "--validation", "0", "-o", tmp_path / "r")
    assert_one_line(run_here(*line), USAGE, "2 of 4 recordings have not 3 steps but 2 … 3; choose lengths=pad or")
    done = run_here(*line, "--set", "data.lengths=pad")
    assert done.returncode == 0, done.stderr
    assert "2 of 4 recordings of 2 … 3 steps were padded with 0 to 3" in " ".join(done.stderr.split())


def test_sounds(tmp_path):
    tone = (9000 * np.sin(np.arange(4000) / 5)).astype(np.int16)
    for label in ("low", "high"):
        for number in range(3):
            (tmp_path / "w" / label).mkdir(parents=True, exist_ok=True)
            sound = tone if number else np.stack([tone, tone], axis=1)
            wavfile.write(tmp_path / "w" / label / f"{number}.wav", 16000 if number < 2 else 8000, sound)
    done = run_here("ottt-data", tmp_path / "w", "--json")
    assert done.returncode == 0, done.stderr
    for says in ("recordings of 8,000 Hz were resampled to 16,000 Hz", "the channels of"):
        assert says in done.stdout
    whole = io.BytesIO()
    wavfile.write(whole, 16000, tone)
    for content, says in (
        (b"ID3 an mp3", "no WAV file, it starts with b'ID3 '"),
        (whole.getvalue()[:900], "or damaged"),
    ):
        (tmp_path / "w" / "low" / "1.wav").write_bytes(content)
        assert_one_line(run_here("ottt-train", "--data", tmp_path / "w", "-o", tmp_path), FILE, "1.wav", says)


def test_what_is_said_of_data_that_can_be_used(tmp_path):
    still = SERIES.copy()
    still[:, :, 1] = 2.5
    np.savez(tmp_path / "a.npz", x=still, y=Y + 1.0, time_axis=True)
    line = ("ottt-train", "--data", tmp_path / "a.npz", "--epochs", "1", "--hidden", "8", "-o", tmp_path / "r")
    said = " ".join(run_here(*line).stderr.split())
    assert "1 of 3 channels never change in the training samples and say nothing: 1" in said
    assert "labels begin at 1, so class 0 has no sample; subtract 1 if there is no class 0" in said
    assert "labels are whole numbers in float64, read as integers" in said
    assert "scaled to [0, 1] by the training samples" in said


def test_ottt_data_names_the_classes(tmp_path):
    names = [f"gesture {label}" for label in range(14)]
    np.savez(tmp_path / "a.npz", x=SERIES, y=Y, time_axis=True, class_names=names[:4])
    assert "named gesture 0, gesture 1, gesture 2, gesture 3" in " ".join(
        run_here("ottt-data", tmp_path / "a.npz").stdout.split()
    )
    np.savez(tmp_path / "a.npz", x=SERIES, y=Y, time_axis=True, class_names=names)
    assert "gesture 11 … gesture 13" in " ".join(run_here("ottt-data", tmp_path / "a.npz").stdout.split())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    np.savez(folder / "a.npz", x=SERIES, y=Y, time_axis=True, dt=0.01)
    tables = {"data": {"name": str(folder / "a.npz")}, "network": {"hidden": [8]}, "training": {"epochs": 1}}
    run(make_config(tables), folder)
    done = run_here("ottt-export", folder / "model.pt", "--max-disagreement", "1", "--allow-dead")
    assert done.returncode == 0, done.stderr
    return folder


OTHER = [  # other data for a network of 6 steps of 3 channels and 4 classes
    ({"x": SERIES[:, :4]}, "expected samples of 6 time steps, got 4"),
    ({"x": SERIES[:, :, :2]}, "expected samples of shape (3,), got (2,)"),
    ({"y": Y + 1}, "expected labels 0 … 3, got 1 … 4; they begin at 1, subtract 1"),
    ({"y": Y + 3}, "expected labels 0 … 3, got 3 … 6"),
    ({"dt": 0.02}, "expected time steps of 0.01 s, got 0.02 s"),
]


@pytest.mark.parametrize(("arrays", "says"), OTHER, ids=range(len(OTHER)))
def test_other_data_are_checked_by_every_command(tmp_path, model, arrays, says):
    np.savez(tmp_path / "b.npz", **{"x": SERIES, "y": Y, "time_axis": True, **arrays})
    for command in ("ottt-run", "ottt-learn"):
        assert_one_line(run_here(command, model / "model.h5", "--data", tmp_path / "b.npz"), USAGE, says)
    assert_one_line(run_here("ottt-eval", model / "model.pt", "--data", tmp_path / "b.npz"), USAGE, says)
    line = ("ottt-train", "--init", model / "model.pt", "--data", tmp_path / "b.npz", "-o", tmp_path / "i")
    assert_one_line(run_here(*line), USAGE, says)


def test_samples_without_the_time_axis_that_a_network_knows(tmp_path, model):
    np.savez(tmp_path / "b.npz", x=SERIES[:, 0], y=Y)
    done = run_here("ottt-run", model / "model.h5", "--data", tmp_path / "b.npz")
    assert_one_line(done, FILE, "time_axis: expected samples (n, T, channels), got an array (40, 3)")
    (tmp_path / "b.csv").write_text("a,b,c,label\n" + "1,2,3,0\n" * 20)
    done = run_here("ottt-run", model / "model.h5", "--data", tmp_path / "b.csv")
    assert_one_line(done, USAGE, "its samples have no time axis, the network was trained on data with one")


def test_values_outside_the_fitted_range_are_counted(tmp_path, model):
    np.savez(tmp_path / "b.npz", x=10 * SERIES, y=Y, time_axis=True)
    for line in (("ottt-run", model / "model.h5"), ("ottt-eval", model / "model.pt")):
        done = run_here(*line, "--data", tmp_path / "b.npz")
        assert done.returncode == 0, done.stderr
        assert "values of x_test are outside the range that was fitted, and were clipped" in " ".join(
            done.stderr.split()
        )


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.ones((400, 5)), "warning: every sample is predicted as class "),
        (np.zeros((400, 5)), "warning: hidden layer 1 never fires"),
    ],
)
def test_a_training_says_that_nothing_is_told_apart(tmp_path, x, says):
    np.savez(tmp_path / "a.npz", x=x, y=RARE)
    line = ("--data", tmp_path / "a.npz", "--epochs", "1", "--hidden", "8", "-o", tmp_path / "r")
    done = run_here("ottt-train", *line)
    assert done.returncode == 0, done.stderr
    assert says in " ".join(done.stderr.split())
    done = run_here("ottt-train", *line, "--force", "--json")
    assert any(says in f"warning: {warning}" for warning in json.loads(done.stdout)["warnings"])
    done = run_here("ottt-export", tmp_path / "r" / "model.pt", "--allow-dead", "--json")
    assert says in done.stderr
    assert any(says in f"warning: {warning}" for warning in json.loads(done.stdout)["warnings"])
