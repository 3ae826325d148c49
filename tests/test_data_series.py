"""Files of sensors: CSV, .ts, WAV; recordings of unequal length."""

import io
import struct

import numpy as np
import pytest
from corruption import assert_only_our_errors
from scipy.io import wavfile

from ottt_loihi.data import load_data
from ottt_loihi.data.audio import log_mel, read_wav
from ottt_loihi.data.lengths import same_length
from ottt_loihi.data.timeseries import parse_ts
from ottt_loihi.errors import FileError, UsageError

RNG = np.random.default_rng(0)


def csv(path, rows, heading="time,x,z,label", delimiter=","):
    lines = [heading, *(delimiter.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(line.replace(",", delimiter) for line in lines) + "\n")
    return path


def test_a_row_a_sample(tmp_path):
    rows = [(i, 0.5 * i, -i, "ab"[i % 2]) for i in range(20)]
    split = load_data(csv(tmp_path / "a.csv", rows), leave_out=["time"])
    assert (split.x_train.shape, split.x_test.shape, split.time_axis) == ((16, 2), (4, 2), False)
    assert split.class_names == ("a", "b")
    assert "channels: x, z" in split.notes
    both = np.concatenate([split.x_train, split.x_test])
    assert {tuple(row) for row in both.tolist()} == {(0.5 * i, float(-i)) for i in range(20)}
    again = load_data(csv(tmp_path / "b.tsv", rows, delimiter="\t"), leave_out=["time"])
    np.testing.assert_array_equal(again.x_train, split.x_train)


def test_windows_of_a_long_recording(tmp_path):
    rows = [(i, i, -i, (i // 50) % 2) for i in range(400)]
    split = load_data(csv(tmp_path / "a.csv", rows), leave_out=["time"], window=10, dt=0.02)
    assert (split.num_steps, split.input_shape, split.dt) == (10, (2,), 0.02)
    assert (len(split.x_train), len(split.x_test)) == (32, 8)
    assert split.x_train[:, :, 0].max() < 400
    for label in (0, 1):  # the last of each class in time
        assert split.x_train[split.y_train == label, :, 0].max() < split.x_test[split.y_test == label, :, 0].min()
    overlapping = load_data(csv(tmp_path / "a.csv", rows), leave_out=["time"], window=10, step=5)
    rows_of = [set(part[:, :, 0].ravel().tolist()) for part in (overlapping.x_train, overlapping.x_test)]
    assert not rows_of[0] & rows_of[1]
    assert any("the label changes within them" in note for note in overlapping.notes)


def test_rows_of_one_sample(tmp_path):
    rows = [(n, 0, 10 * n + t, "ab"[n % 2]) for n in range(10) for t in range(4)]
    path = csv(tmp_path / "a.csv", rows, "id,x,z,label")
    split = load_data(path, sample="id")
    assert split.x_train.shape[1:] == (4, 2)
    uneven = csv(tmp_path / "b.csv", rows[:-1], "id,x,z,label")
    with pytest.raises(UsageError, match="1 of 10 recordings have not 4 steps but 3 … 4; choose lengths=pad"):
        load_data(uneven, sample="id")
    padded = load_data(uneven, sample="id", lengths="pad")
    assert any("1 of 10 recordings of 3 … 4 steps were padded with 0 to 4" in note for note in padded.notes)


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("x,z\n1,2\n3,4\n", {}, "no column 'label'; it has x, z"),
        ("x,label\n1,a\n,b\n", {}, "row 3, column 'x': expected a number, found 1 empty cells"),
        ("x,label\n1,a\nhigh,b\n", {}, "row 3, column 'x': expected a number, found 'high'"),
        ("x,label\n1,a\nnan,a\n3,b\n4,b\n", {}, "1 values in 1 of 4 samples; fill the gaps"),
        ("x,label\n1,a\n2\n", {}, "row 3: has 1 cells, the heading 2"),
        ("x,label\n\n1,a\n\n,b\n", {}, "row 5, column 'x'"),
        ("x,label\n\n1,a\n2\n", {}, "row 4: has 1 cells"),
        ("x,z,label\n1,1,a\n2,2,b\n", {"leave_out": "z"}, "leave_out: expected a list, each item a text, got 'z'"),
        ("1,2\n3,4\n", {}, "its first line holds numbers"),
        ("x,label\n", {}, "expected a heading and rows"),
        ("x,label\n1,a\n2,\n3,b\n", {}, "1 labels are empty"),
        ("label\na\nb\n", {}, "no channels beside label"),
        ("x,label\n1,a\n2,b\n", {"window": 5}, "2 rows are fewer than a window of 5"),
        ("x,label\n1,a\n2,b\n3,a\n", {"window": 2}, "the label changes within every window"),
        ("id,x,label\n1,1,a\n1,2,b\n", {"sample": "id"}, "sample '1' has several labels"),
        ("x,label\n1,a\n2,a\n3,b\n4,b\n", {"dt": 0.1}, "dt: every row is a sample of its own"),
        ("x,label\n1,a\n2,a\n3,b\n4,b\n", {"step": 2}, "step, without window, has no effect; leave it out"),
        ("x,label\n1,a\n2,a\n3,b\n4,b\n", {"lengths": "pad"}, "lengths, without sample, has no effect"),
        ("x,label\n1,a\n2,a\n3,b\n4,b\n", {"window": 2, "seed": 1}, "seed, with window, has no effect"),
        ("label,x,label\n1,2,a\n2,3,b\n", {}, "more than one column 'label'; it has label, x, label"),
    ],
)
def test_csv_that_does_not_fit(tmp_path, text, options, says):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises((FileError, UsageError), match=says):
        load_data(tmp_path / "a.csv", **options)


def test_texts_that_are_one_number_are_two_classes(tmp_path):
    rows = [(i, label) for i in range(8) for label in ("1", "01", "99999999999999999999")]
    split = load_data(csv(tmp_path / "a.csv", rows, "x,label"))
    assert split.class_names == ("01", "1", "99999999999999999999")


def test_one_number_where_a_list_is_expected(real_data):
    for name, option in (("gas-drift", "train"), ("myo-emg", "sessions"), ("mitbih", "test")):
        with pytest.raises(UsageError, match=f"{option}: expected a list, each item an integer, got 101"):
            load_data(name, real_data(name), **{option: 101})


def test_lengths():
    short, long = np.arange(3.0)[:, None], np.arange(5.0)[:, None]
    padded, _ = same_length([short, long], "pad", "here", fill=-1)
    assert padded[0, :, 0].tolist() == [0, 1, 2, -1, -1]
    stretched, notes = same_length([short, long], "stretch", "here")
    assert stretched[0, :, 0].tolist() == [0, 0.5, 1, 1.5, 2]
    assert notes == ("here: 1 of 2 recordings of 3 … 5 steps were stretched to 5",)
    cut, notes = same_length([short, long], "pad", "here", num_steps=4)
    assert cut[1, :, 0].tolist() == [0, 1, 2, 3]
    assert "1 of them cut" in notes[0]
    assert same_length([long, long], "refuse", "here")[1] == ()
    for arguments, says in (
        (([short, long], "refuse", "here"), "1 of 2 recordings have not 5 steps"),
        (([short, np.zeros((3, 2))], "pad", "here"), "recording 1: expected steps of 1 channels"),
        (([], "pad", "here"), "got none"),
        (([short], "shrink", "here"), "lengths: expected one of refuse, pad, stretch"),
        (([short], "pad", "here", 1 << 40), "do not fit into memory"),
    ):
        with pytest.raises(UsageError, match=says):
            same_length(*arguments)


TS = "# a comment\n@problemName P\n@classLabel true up down\n@data\n1,2,3:4,5,6:up\n1,1:2,2:down\n3,2,1:0,0,0:up\n"


def test_ts(tmp_path):
    recordings, labels, classes = parse_ts(TS.encode(), "here")
    np.testing.assert_array_equal(recordings[0], [[1, 4], [2, 5], [3, 6]])
    assert (labels.tolist(), classes) == (["up", "down", "up"], ("up", "down"))
    for part in ("TRAIN", "TEST"):
        (tmp_path / f"P_{part}.ts").write_text(TS)
    split = load_data(tmp_path / "P_TEST.ts", lengths="pad")
    assert (split.x_train.shape, split.class_names, split.y_test.tolist()) == ((3, 3, 2), ("up", "down"), [0, 1, 0])
    with pytest.raises(UsageError, match="choose lengths=pad or lengths=stretch"):
        load_data(tmp_path / "P_TRAIN.ts")
    (tmp_path / "P_TEST.ts").unlink()
    with pytest.raises(FileError, match=r"P_TEST\.ts: no such file"):
        load_data(tmp_path / "P_TRAIN.ts")
    for text, says in (
        ("@data\n", "no recordings"),
        ("@data\n1,2:1:a\n", "as many values in every dimension"),
        ("@data\n1,?:a\n", "1 values are missing"),
        ("@data\n1,b:a\n", "expected numbers"),
        ("@timeStamps true\n@data\n1:a\n", "has time stamps"),
    ):
        with pytest.raises(FileError, match=says):
            parse_ts(text.encode(), "here")


def wav(rate=8000, dtype=np.int16, channels=1, seconds=0.3, tone=1000.0):
    time = np.arange(round(rate * seconds)) / rate
    sound = 0.5 * np.sin(2 * np.pi * tone * time)
    scale = {np.int16: 2**15, np.int32: 2**31, np.uint8: 127, np.float32: 1}[dtype]
    data = (sound * scale + (128 if dtype is np.uint8 else 0)).astype(dtype)
    data = data if channels == 1 else np.repeat(data[:, None], channels, axis=1)
    file = io.BytesIO()
    wavfile.write(file, rate, data)
    return file.getvalue()


def test_wav_of_every_kind_is_the_same_sound():
    known, rate, _ = read_wav(wav(), "a.wav")
    assert rate == 8000
    assert np.abs(known).max() == pytest.approx(0.5, abs=1e-3)
    for dtype in (np.int32, np.uint8, np.float32):
        np.testing.assert_allclose(read_wav(wav(dtype=dtype), "a.wav")[0], known, atol=0.01)
    stereo, _, channels = read_wav(wav(channels=2), "a.wav")
    assert channels == 2
    np.testing.assert_array_equal(stereo, known)


def test_log_mel_finds_a_tone_in_its_band_at_any_loudness():
    sound, rate, _ = read_wav(wav(), "a.wav")
    frames = log_mel(sound, rate, 40)
    assert frames.shape == (27, 40)
    assert (frames.min(), frames.max()) == (0, 1)
    middles = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 42)[1:-1] / 2595) - 1)
    assert frames[10].argmax() == np.abs(middles - 1000).argmin()
    np.testing.assert_allclose(log_mel(0.01 * sound, rate, 40), frames, atol=1e-9)
    assert not log_mel(np.zeros(800), rate, 40).any()
    assert log_mel(sound[:5], rate, 40).shape == (1, 40)


def test_a_folder_of_recordings(tmp_path):
    for name, tone in (("low", 300.0), ("high", 2000.0)):
        (tmp_path / name).mkdir()
        for index in range(5):
            content = wav(
                16_000 if index else 8000, channels=2 if index == 1 else 1, tone=tone, seconds=0.2 + 0.05 * index
            )
            (tmp_path / name / f"{index}.wav").write_bytes(content)
    split = load_data(tmp_path, num_steps=20, bands=16)
    assert (split.x_train.shape, split.x_test.shape) == ((8, 20, 16), (2, 20, 16))
    assert split.class_names == ("high", "low")
    text = " ".join(split.notes)
    assert "2 of 10 recordings of 8,000 Hz were resampled to 16,000 Hz" in text
    assert "the channels of 2 of 10 recordings were averaged" in text
    loudest = split.x_train.mean(axis=1).argmax(axis=1)
    assert loudest[split.y_train == 0].min() > loudest[split.y_train == 1].max()
    (tmp_path / "low" / "9.wav").write_bytes(b"no sound")
    with pytest.raises(FileError, match="no WAV file"):
        load_data(tmp_path)


def test_a_folder_without_recordings_says_which_are_read(tmp_path):
    (tmp_path / "low").mkdir()
    (tmp_path / "low" / "a.flac").write_bytes(b"fLaC")
    with pytest.raises(FileError, match=r"or one folder per class, of recordings: \.wav, or events as \.csv or \.npy"):
        load_data(tmp_path)


def test_a_damaged_wav_is_refused(tmp_path):
    for content in (b"", b"RIFF", wav()[:50], wav()[:-200], struct.pack("<4sI4s", b"RIFF", 2**32 - 1, b"WAVE")):
        with pytest.raises(FileError):
            read_wav(content, "a.wav")
    assert_only_our_errors(lambda path: read_wav(path.read_bytes(), str(path)), tmp_path / "a.wav", wav(), count=300)
