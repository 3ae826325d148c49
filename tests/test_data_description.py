"""The record of the data: what it accepts, what it refuses, and that model.pt keeps it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottt_loihi.data import DataDescription, Split, Step, describe_split
from ottt_loihi.errors import FileError, UsageError
from ottt_loihi.nn.models import mlp
from ottt_loihi.training import checkpoint

SPEECH = DataDescription(
    shape=(40,),
    num_classes=2,
    coding=Step("delta", {"threshold": 0.1}),
    value_range=(-1.5, 2),
    time_steps=25,
    dt=0.01,
    class_names=("yes", "no"),
    preprocessing=(Step("standardize", {"mean": np.arange(3) / 3, "std": (1, 2.5)}),),
)


def split(x, time_axis=True, **settings):
    x = np.asarray(x)
    y = np.arange(len(x)) % 2
    return Split(x, y, x, y, num_classes=2, time_axis=time_axis, **settings)


def test_json_and_back_is_the_same():
    assert DataDescription.from_json(json.loads(json.dumps(SPEECH.to_json()))) == SPEECH
    assert SPEECH.sample_shape == (25, 40)
    assert "25 time steps of 0.01 s" in str(SPEECH)
    assert "\n" not in str(SPEECH)


@pytest.mark.parametrize(
    "changes",
    [
        *({"shape": shape} for shape in [(), (0,), (True,), "ab", (2**20, 2**20), (1.5,), None]),
        *({"num_classes": n} for n in [0, 10**400, 2.0, True]),
        *({"time_steps": n} for n in [0, -1, 2**31, 1.0]),
        *({"dt": dt} for dt in [0, -1, float("nan"), 10**400, "1"]),
        {"time_steps": None},  # with dt
        *({"value_range": r} for r in [(1, 0), (1,), (0, float("inf")), 3]),
        {"values": "volts"},
        {"values": "spikes"},  # with a range
        {"values": "counts"},  # with a negative one
        *({"class_names": n} for n in [("a",), ("a", 1), ("a", "b\n"), "ab"]),
        {"coding": "rate"},
        {"preprocessing": ("scale",)},
        {"preprocessing": None},
    ],
)
def test_a_wrong_field_is_refused(changes):
    with pytest.raises(UsageError, match="data"):
        replace(SPEECH, **changes)


@pytest.mark.parametrize("options", [{"a": float("nan")}, {"a": object()}, {1: 2}, [1], {"a": b""}])
def test_options_are_json(options):
    with pytest.raises(UsageError):
        Step("scale", options)


def test_options_that_nest_too_deep_are_refused():
    options = {}
    for _ in range(1000):
        options = {"a": options}
    with pytest.raises(UsageError, match="nested"):
        Step("scale", options)


def test_the_options_are_a_copy():
    options = {"mean": [1, 2]}
    step = Step("scale", options)
    options["mean"].append(3)
    step.to_json()["options"]["mean"].append(4)
    assert step.options == {"mean": [1, 2]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values, st.sampled_from([*SPEECH.to_json(), None]))
def test_any_json_is_read_or_refused(value, name):
    whole = value if name is None else {**SPEECH.to_json(), name: value}
    try:
        found = DataDescription.from_json(whole)
    except UsageError:
        return
    assert DataDescription.from_json(found.to_json()) == found


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, bool])
def test_zeros_and_ones_are_spikes_in_any_dtype(dtype):
    found = describe_split(split(np.eye(6).reshape(2, 6, 3).astype(dtype)), "frames")
    assert (found.values, found.value_range, found.time_steps) == ("spikes", None, 6)


def test_kinds_of_values():
    counts, analog = np.full((1500, 4, 3), 2), np.zeros((1500, 4, 3), np.float32)
    analog[-1, -1, -1] = -0.5  # the last one of all
    found = describe_split(split(counts), "frames")
    assert (found.values, found.value_range) == ("counts", (2, 2))
    found = describe_split(split(analog), "frames")
    assert (found.values, found.value_range) == ("analog", (-0.5, 0))
    images = describe_split(split(np.eye(4), time_axis=False), Step("rate"))
    assert (images.values, images.time_steps, images.shape) == ("analog", None, (4,))
    with pytest.raises(UsageError, match="1 values are NaN"):
        describe_split(split([[[np.nan, 0.0]], [[1.0, 0.0]]]), "frames")


def test_other_data_are_checked():
    description = replace(SPEECH, shape=(3,), values="counts", value_range=(0, 4), time_steps=5)
    x = np.zeros((2, 5, 3), np.uint8)
    assert description.check(x) == 0
    x[0, 0] = 7
    assert description.check(x) == 3
    with pytest.raises(UsageError, match="5 time steps, got 6"):
        description.check(np.zeros((2, 6, 3)))
    with pytest.raises(UsageError, match=r"\(5, 3\)"):
        description.check(np.zeros((2, 5, 4)))
    with pytest.raises(UsageError, match="expected counts, got analog"):
        description.check(np.full((2, 5, 3), 0.5))
    other = replace(description, time_steps=6, coding=Step("rate"))
    assert len(description.differences(other)) == 2
    assert "time_steps: expected 5, got 6" in description.differences(other)
    assert description.differences(description) == []


def test_a_model_keeps_it(tmp_path):
    net, path = mlp((4, 3, 2)), tmp_path / "model.pt"
    checkpoint.save(net, path)
    assert checkpoint.load(path).data is None
    net.data = SPEECH
    checkpoint.save(net, path)
    assert checkpoint.load(path).data == SPEECH
    net.data = {"shape": [4]}
    with pytest.raises(UsageError, match="DataDescription"):
        checkpoint.save(net, path)


def test_a_model_with_a_wrong_one_is_refused(tmp_path):
    net, path = mlp((4, 3, 2)), tmp_path / "model.pt"
    metadata = {**checkpoint.metadata_of(net), "data": {"shape": [[1]]}}
    checkpoint.write_tensors(path, checkpoint.FORMAT, 1, json.dumps(metadata), checkpoint.tensors_of(net))
    with pytest.raises(FileError, match="damaged, data"):
        checkpoint.load(path)
