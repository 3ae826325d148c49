"""Real sensors of each kind go the whole way by the commands alone: train, export, run and compare with Lava, learn."""

import json
import tarfile
from pathlib import Path

import pytest
from commands import run, run_here

CONFIGS = Path(__file__).parents[1] / "configs"
# The smallest form: configuration, data set, changes. A training of a few seconds reaches a mean recall of the classes
# between 0.6 and 0.8; a network that always gives one answer reaches 0.2 (the table) or less.
KINDS = {
    "table": ("gas-drift-mlp", "gas-drift", ["--epochs", "20", "-T", "8"]),
    "events": ("braille-mlp", "braille", ["--epochs", "6", "--set", "data.num_steps=16"]),
    "time series": ("uea-japanese-vowels-mlp", "uea-timeseries", ["--epochs", "8"]),
    "audio": ("fsdd-mlp", "fsdd", ["--epochs", "6", "--set", "data.num_steps=10"]),
}
BAR = 0.5
EIGHT_BITS = 0.05  # what the weights of the chip may cost
SPEAKERS = ("jackson", "nicolas")


def two_speakers(folder, target):
    """A data folder with a third of the recordings, which five commands read."""
    archive = folder / "fsdd" / "fsdd.tar.xz"
    if not archive.exists():
        return folder
    recordings = target / "fsdd" / "recordings"
    recordings.mkdir(parents=True)
    with tarfile.open(archive) as members:
        for member in members:
            if member.name.endswith(".wav") and any(f"_{speaker}_" in member.name for speaker in SPEAKERS):
                (recordings / Path(member.name).name).write_bytes(members.extractfile(member).read())
    return target


@pytest.mark.slow
@pytest.mark.lava
@pytest.mark.parametrize("kind", KINDS)
def test_no_command_asks_again(kind, real_data, monkeypatch, tmp_path):
    config, name, changes = KINDS[kind]
    folder = real_data(name)
    monkeypatch.setenv("OTTT_DATA_DIR", str(two_speakers(folder, tmp_path) if name == "fsdd" else folder))
    monkeypatch.chdir(tmp_path)
    found = {}
    for program, *line in (
        ("ottt-train", CONFIGS / f"{config}.toml", "--hidden", "32", *changes, "-o", "r"),
        ("ottt-export", "r/model.pt"),
        ("ottt-run", "r/model.h5", "--samples", "2000"),
        ("ottt-learn", "r/model.h5", "--epochs", "1", "-o", "l"),
    ):
        done = run_here(program, *line, "--json")
        assert done.returncode == 0, (program, done.stderr)
        found[program.removeprefix("ottt-")] = json.loads(done.stdout)
    assert found["train"]["warnings"] == []
    on_chip = found["run"]
    assert on_chip["samples"] == on_chip["samples_available"]
    assert on_chip["balanced_accuracy"] > BAR
    assert abs(on_chip["accuracy"] - found["train"]["test_accuracy"]) < EIGHT_BITS
    # the same samples and the same spikes: the learner begins with what the simulator measured
    assert found["learn"]["accuracy_deployed"] == on_chip["accuracy"]
    monkeypatch.chdir("/")  # the data are found from anywhere
    model = tmp_path / "r" / "model.h5"
    done = run("ottt-run", model, "--samples", "2", "--verify", "lava", "--verify-samples", "1", "--json")
    assert done.returncode == 0, done.stderr
    (check,) = json.loads(done.stdout)["verified"]
    assert check["different"] == 0
    assert check["compared"] > 100
