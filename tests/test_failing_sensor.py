"""A sensor that fails for a while: gaps are skipped and counted, a stuck one is not learnt from, the state is kept."""

import json

import numpy as np
import pytest
from commands import assert_one_line, run_here
from ottt_loihi.converters.export import Options, export
from ottt_loihi.sim import storage
from test_data_to_chip import RNG, STEPS, Y, series, trained

from ottt_loihi.data import from_arrays, load_data
from ottt_loihi.data.arrays import repeated
from ottt_loihi.errors import FileError, UsageError

GAPS, STUCK = slice(7, 12), slice(20, 24)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sensor")
    net = trained(series(folder / "a.npz"), folder, encoding="population:neurons=3")
    storage.save(export(net, Options(check=0, allow_dead=True)).chip, folder / "model.h5")
    x = RNG.random((40, STEPS, 4))
    x[GAPS, 3, 1], x[STUCK] = np.nan, x[19]
    np.savez(folder / "new.npz", x_train=x, y_train=Y[:40], x_test=x[30:], y_test=Y[30:40], time_axis=True)
    return folder


def learnt(deployed, folder, *line):
    line = ("ottt-learn", deployed / "model.h5", "--data", deployed / "new.npz", "-o", folder, *line, "--json")
    return run_here(*line)


def test_gaps_are_skipped_and_repetitions_are_not_learnt_from(deployed, tmp_path):
    done = learnt(deployed, tmp_path, "--prequential")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    said = "new.npz: x: 5 of 40 samples hold NaN or infinity and were skipped"
    assert said in found["data_notes"]
    assert said in done.stderr
    stream = found["prequential"]
    assert (stream["samples"], stream["repeated"], stream["labels"]) == (35, 4, 31)


def test_what_cannot_be_learnt_is_one_line_and_leaves_what_is_there(deployed, tmp_path):
    for line, says in (
        (("--prequential", "--label-share", "0"), "--label-share: expected a number in (0, 1], got 0"),
        (("--prequential", "--label-share", "0.001"), "is no label, so nothing can be learnt"),
        (("--readout-rate", "1e-12"), "readout"),
        (("--set", "data.nothing=3"), "--set data.nothing: "),
    ):
        assert_one_line(learnt(deployed, tmp_path, *line), 2, says)
        assert not list(tmp_path.glob("*.h5"))
    np.savez(tmp_path / "no.npz", x=RNG.random((9, STEPS, 4)), time_axis=True)
    done = run_here("ottt-learn", deployed / "model.h5", "--data", tmp_path / "no.npz", "-o", tmp_path)
    assert_one_line(done, 3, "expected the arrays x_train, y_train, x_test, y_test, or x and y; found time_axis, x")


def test_a_class_that_never_comes_is_no_mistake(deployed, tmp_path):
    x, y = RNG.random((30, STEPS, 4)), np.array([0, 2] * 15)
    np.savez(tmp_path / "two.npz", x_train=x, y_train=y, x_test=x[:6], y_test=y[:6], time_axis=True)
    line = (
        "ottt-learn",
        deployed / "model.h5",
        "--data",
        tmp_path / "two.npz",
        "-o",
        tmp_path,
        "--prequential",
        "--json",
    )
    done = run_here(*line)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["recall"][1] is None
    assert found["prequential"]["samples"] == 30


@pytest.mark.parametrize("kind", ["arrays", "windows", "rows"])
def test_gaps_in_every_file(tmp_path, kind):
    x, y = RNG.normal(size=(40, 3)), np.arange(40) // 20
    x[[4, 30]] = np.nan
    if kind == "arrays":
        split = from_arrays(x, y, gaps="skip")
        left = 38
    else:
        cells = np.where(np.isnan(x), "", x.astype(str))
        lines = ["a,b,c,label", *(",".join([*row, str(label)]) for row, label in zip(cells, y))]
        (tmp_path / "a.csv").write_text("\n".join(lines))
        with pytest.raises(
            FileError, match=r"2 empty cells, the first; fill the gaps, skip these samples \(gaps=skip\)"
        ):
            load_data(tmp_path / "a.csv")
        split = load_data(tmp_path / "a.csv", gaps="skip", window=0 if kind == "rows" else 4)
        left = 38 if kind == "rows" else 8
    assert len(split.x_train) + len(split.x_test) == left
    assert np.isfinite(split.x_train).all()
    assert any("hold NaN or infinity and were skipped" in note for note in split.notes)
    with pytest.raises(UsageError, match="each of its 5 samples holds NaN or infinity; nothing is left"):
        from_arrays(np.full((5, 2), np.inf), np.zeros(5, int), gaps="skip")
    with pytest.raises(UsageError, match="gaps: expected one of refuse, skip"):
        from_arrays(x, y, gaps="fill")


def test_gaps_in_ts_files(tmp_path):
    head = "@missing true\n@classLabel true a b\n@data\n"
    lines = ["1,2,3,4,5:1,2,3,4,5:a", "1,?,3:1,2,3:b", "1,2,3:1,2,NaN:a", "1,2,3:1,2,3:b"]
    (tmp_path / "P_TRAIN.ts").write_text(head + "\n".join(lines))
    (tmp_path / "P_TEST.ts").write_text(head + "\n".join(lines[1:]))
    with pytest.raises(FileError, match=r"P_TRAIN.ts, line 5: 1 values are missing; fill the gaps, or skip"):
        load_data(tmp_path / "P_TRAIN.ts", lengths="stretch")
    split = load_data(tmp_path / "P_TRAIN.ts", lengths="stretch", gaps="skip", num_steps=2)  # steps 2, 3 are not drawn
    assert (split.x_train.shape, split.y_train.tolist(), split.y_test.tolist()) == ((2, 2, 2), [0, 1], [1])
    assert np.isfinite(split.x_train).all()
    said = [note for note in split.notes if "missing" in note]
    assert [note.partition(": ")[2] for note in said] == [
        "values are missing in 2 of 4 samples, which were skipped",
        "values are missing in 2 of 3 samples, which were skipped",
    ]
    (tmp_path / "P_TEST.ts").write_text(head + lines[1])
    with pytest.raises(FileError, match="missing in each of its 1 samples; nothing is left"):
        load_data(tmp_path / "P_TRAIN.ts", gaps="skip")
    with pytest.raises(UsageError, match="gaps: expected one of refuse, skip"):
        load_data(tmp_path / "P_TRAIN.ts", gaps="fill")


def test_repeated_samples():
    x = np.array([[1, 2], [1, 2], [1, 3], [1, 3], [1, 2]])
    np.testing.assert_array_equal(repeated(x), [False, True, False, True, False])
    assert repeated(x[:0]).shape == (0,)
