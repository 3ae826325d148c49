"""Event files and what becomes of them: N-MNIST, AEDAT 3.1 and 2.0, DVS-Gesture, CIFAR10-DVS."""

import io
import struct
import tarfile

import numpy as np
import pytest
from corruption import assert_only_our_errors, failure

from ottt_loihi.data.aedat import read_aedat
from ottt_loihi.data.dvs import load_cifar10_dvs, load_dvs_gesture
from ottt_loihi.data.events import EVENT, decode_bin, encode_bin, to_frames
from ottt_loihi.data.folder import read_archive, read_bytes
from ottt_loihi.data.nmnist import load_nmnist
from ottt_loihi.errors import FileError, UnsafeFileError, UsageError


def events_of(*rows):
    """Events from (t, x, y, p)."""
    return np.array(list(rows), EVENT)


def random_events(rng, count, side, duration=300_000):
    events = np.empty(count, EVENT)
    events["t"] = np.sort(rng.integers(0, duration, count))
    events["x"], events["y"] = rng.integers(0, side, (2, count))
    events["p"] = rng.integers(0, 2, count)
    return events


def aedat_3_1(*packets):
    """Packets of (type, overflow, events); every event is marked valid."""
    content = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#Start-Time: 2016-01-01\r\n#!END-HEADER\r\n"
    for kind, overflow, events in packets:
        content += struct.pack("<hhiiiiii", kind, 1, 8, 4, overflow, len(events), len(events), len(events))
        for t, x, y, p in events.tolist():
            content += struct.pack("<II", x << 17 | y << 2 | p << 1 | 1, t)
    return content


def aedat_2_0(events):
    """As a DVS128 writes it: x from right to left, polarity bit 1 for OFF."""
    content = b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n"
    for t, x, y, p in events.tolist():
        content += struct.pack(">II", y << 8 | (127 - x) << 1 | (1 - p), t)
    return content


# --- events to frames ---------------------------------------------------------------------------------------------


def test_frames_by_hand():
    events = events_of((0, 0, 0, 0), (9, 1, 0, 1), (10, 1, 0, 1), (11, 1, 0, 1), (40, 2, 1, 0))
    counts, lost = to_frames(events, 4, width=3, height=2, by="time")  # d = 10 µs
    assert (counts.dtype, counts.shape, lost) == (np.uint8, (4, 2, 2, 3), 0)
    expected = np.zeros((4, 2, 2, 3))
    expected[0, 0, 0, 0] = expected[0, 1, 0, 1] = expected[3, 0, 1, 2] = 1
    expected[1, 1, 0, 1] = 2
    np.testing.assert_array_equal(counts, expected)
    counts, lost = to_frames(events, 4, width=3, height=2, by="time", ceiling=1)
    np.testing.assert_array_equal(counts, np.minimum(expected, 1))
    assert lost == 1
    counts, _ = to_frames(events, 2, width=3, height=2, by="count")  # 2 events, and the other 3
    assert counts.sum((1, 2, 3)).tolist() == [2, 3]
    assert counts[1, 1, 0, 1] == 2


def authors_frames(events, num_steps, by, side):
    """The definition in the docstrings of spikingjelly and the authors' code, frame by frame."""
    frames, t = np.zeros((num_steps, 2, side, side), int), events["t"] - events["t"][0]
    for step in range(num_steps):
        last = step == num_steps - 1
        if by == "count":
            length = len(events) // num_steps
            chosen = events[step * length : len(events) if last else (step + 1) * length]
        else:
            length = t[-1] // num_steps
            chosen = events[(t >= step * length) & ((t < (step + 1) * length) | last)]
        np.add.at(frames, (step, chosen["p"], chosen["y"], chosen["x"]), 1)
    return frames


@pytest.mark.parametrize("by", ["time", "count"])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 10, 20])
def test_frames_are_the_authors(by, num_steps):
    events = random_events(np.random.default_rng(num_steps), 1234, 5)
    counts, lost = to_frames(events, num_steps, 5, 5, by)
    expected = authors_frames(events, num_steps, by, 5)
    np.testing.assert_array_equal(counts, np.minimum(expected, 255))
    assert lost == np.maximum(expected - 255, 0).sum()


def test_frames_of_few_events():
    assert to_frames(events_of(), 3, 4, 4).counts.sum() == 0
    for by in ("time", "count"):
        assert to_frames(events_of((7, 1, 1, 1)), 3, 4, 4, by).counts.sum((1, 2, 3)).tolist() == [1, 0, 0]
    same_time = events_of((7, 1, 1, 1), (7, 1, 2, 1))
    assert to_frames(same_time, 3, 4, 4).counts.sum((1, 2, 3)).tolist() == [2, 0, 0]


def test_the_ceiling_is_reported():
    counts, lost = to_frames(np.repeat(events_of((0, 0, 0, 1)), 300), 1, 1, 1)
    assert (counts[0, 1, 0, 0], lost) == (255, 45)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_steps": 0},
        {"num_steps": 1.5},
        {"num_steps": "3"},
        {"by": "number"},
        {"ceiling": 0},
        {"ceiling": 256},
        {"width": 0},
        {"width": 1},
    ],
    ids=str,
)
def test_frames_check_their_arguments(settings):
    arguments = {"num_steps": 2, "width": 3, "height": 3} | settings
    with pytest.raises(UsageError, match="frames"):
        to_frames(events_of((0, 2, 2, 0)), **arguments)
    with pytest.raises(UsageError, match="dtype"):
        to_frames(np.zeros(3), 2, 3, 3)


# --- N-MNIST ------------------------------------------------------------------------------------------------------


def test_bin_by_hand(tmp_path):
    (tmp_path / "1.bs2").write_bytes(bytes((33, 2, 0x80 | 0x01, 0x02, 0x03, 0, 33, 0x7F, 0xFF, 0xFF)))
    events = decode_bin(read_bytes(tmp_path / "1.bs2"), 34, 34, "1.bs2")
    assert events.tolist() == [(0x010203, 33, 2, 1), (0x7FFFFF, 0, 33, 0)]
    assert encode_bin(events) == (tmp_path / "1.bs2").read_bytes()


def test_bin_round_trip_and_limits():
    events = random_events(np.random.default_rng(0), 500, 128, 1 << 23)
    np.testing.assert_array_equal(decode_bin(encode_bin(events), 128, 128, "x"), events)
    assert len(decode_bin(b"", 1, 1, "x")) == 0
    for wrong in (events_of((1 << 23, 0, 0, 0)), events_of((0, 256, 0, 0)), np.zeros(2)):
        with pytest.raises(UsageError, match="encode_bin"):
            encode_bin(wrong)


def test_damaged_bin(tmp_path):
    content = encode_bin(random_events(np.random.default_rng(0), 20, 34))
    refused = assert_only_our_errors(
        lambda path: decode_bin(read_bytes(path), 34, 34, str(path)), tmp_path / "1.bin", content, count=200
    )
    assert refused > 80
    (tmp_path / "1.bin").write_bytes(content[:-2])
    with pytest.raises(FileError, match=r"1\.bin: has 98 bytes, expected a multiple of 5; it is truncated"):
        decode_bin(read_bytes(tmp_path / "1.bin"), 34, 34, "1.bin")
    (tmp_path / "1.bin").write_bytes(b"\x22" + content[1:])
    with pytest.raises(FileError, match=r"event 0 is at \(34, \d+\), expected pixels below \(34, 34\)"):
        decode_bin(read_bytes(tmp_path / "1.bin"), 34, 34, "1.bin")


def test_real_nmnist_is_mnist(real_data):
    """The archive's labels are MNIST's, and the summed events look like MNIST's digits."""
    folder = real_data("nmnist-small")
    split = load_nmnist(folder, num_steps=5, ceiling=255)
    assert split.x_train.shape == (1000, 5, 2, 34, 34)
    assert split.x_test.shape == (100, 5, 2, 34, 34)
    assert split.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert split.y_test[:3].tolist() == [7, 2, 1]
    assert split.x_train[0].sum() == 4681
    assert split.notes == ()
    assert (split.num_classes, split.input_shape, split.num_steps) == (10, (2, 34, 34), 5)
    assert "54.4% of the events were lost" in load_nmnist(folder).notes[0]

    from ottt_loihi.data.idx import load_mnist

    mnist = load_mnist(real_data("mnist"))
    np.testing.assert_array_equal(split.y_train, mnist.y_train[:1000])
    np.testing.assert_array_equal(split.y_test, mnist.y_test[:100])
    sums = split.x_train[:100].sum((1, 2), dtype=float)[:, 3:31, 3:31].reshape(100, -1)
    for images, matches in ((mnist.x_train[:100], range(45, 101)), (mnist.x_train[:100].transpose(0, 2, 1), range(15))):
        found = np.corrcoef(sums, images.reshape(100, -1))[:100, 100:].argmax(1)
        assert (found == np.arange(100)).sum() in matches  # events are edges; chance is 1


def test_real_gestures(real_data, tmp_path):
    """The ten recordings decode as a DVS128's 1.45 s."""
    archive = real_data("dvsgesture-10") / "dvsgesture-10" / "dvsgesture_10.tar.xz"
    members = read_archive(archive)
    assert len(members) == 10
    for name, content in members.items():
        events = decode_bin(content, 128, 128, name)
        assert 63_000 < len(events) < 182_000
        assert 1_449_000 < events["t"][-1] < 1_450_000
        counts, lost = to_frames(events, 20, 128, 128, "count")
        assert int(counts.sum()) + lost == len(events)


def write_official(folder, rng):
    """Train/<class>/<number>.bin and Test/…, two samples per class in training and one in testing."""
    files = {}
    for part, per_class in (("Train", 2), ("Test", 1)):
        order = rng.permutation(10 * per_class)
        for place, number in enumerate(order):
            path = folder / part / str(place % 10) / f"{number + 1:05d}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            files[part, number] = (random_events(rng, 50, 34), place % 10)
            path.write_bytes(encode_bin(files[part, number][0]))
    return files


def test_official_folders_in_mnist_order(tmp_path):
    files = write_official(tmp_path / "n-mnist", np.random.default_rng(0))
    split = load_nmnist(tmp_path, num_steps=3, by="count", ceiling=9)
    assert split.y_train.tolist() == [files["Train", number][1] for number in range(20)]
    for number in range(20):
        np.testing.assert_array_equal(
            split.x_train[number], to_frames(files["Train", number][0], 3, 34, 34, "count").counts
        )
    few = load_nmnist(tmp_path, num_steps=3, by="count", ceiling=9, num_train=7, num_test=2)
    np.testing.assert_array_equal(few.x_train, split.x_train[:7])
    assert len(few.y_test) == 2


def test_missing_and_damaged_nmnist(tmp_path):
    write_official(tmp_path / "n-mnist", np.random.default_rng(0))
    with pytest.raises(UsageError, match="num_train"):
        load_nmnist(tmp_path, num_train=0)
    with pytest.raises(UsageError, match="frames"):
        load_nmnist(tmp_path, num_steps=-1)
    with pytest.raises(UsageError, match="memory"):
        load_nmnist(tmp_path, num_steps=1 << 50)
    path = next((tmp_path / "n-mnist" / "Train" / "3").glob("*.bin"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileError, match=rf"Train/3/{path.name}: has 249 bytes"):
        load_nmnist(tmp_path)
    for other in (tmp_path / "n-mnist" / "Train" / "3").glob("*.bin"):
        other.unlink()
    with pytest.raises(FileError, match=r"Train/3: no \.bin files"):
        load_nmnist(tmp_path)
    with pytest.raises(FileError, match=r"n-mnist: not found; put Train/, Test/ with 0 … 9 in .*n-mnist; or"):
        load_nmnist(tmp_path / "n-mnist" / "Test")


def small_set(rng):
    """SLAYER's layout: file name → bytes."""
    files = {f"{number}.bs2": encode_bin(random_events(rng, 30, 34)) for number in (1, 2, 3, 60001)}
    files["train1K.txt"] = b"#sample #class\r\n1\t5\r\n2\t0\r\n3\t4\r\n"
    files["test100.txt"] = b"#sample #class\r\n60001\t7\r\n"
    return files


def write_tar(path, files, mode="w:xz", prefix=""):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_lists_and_archives_agree(tmp_path):
    files = small_set(np.random.default_rng(1))
    for name, content in files.items():
        (tmp_path / "a" / "nmnist-small").mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / "nmnist-small" / name).write_bytes(content)
    (tmp_path / "b").mkdir()
    write_tar(tmp_path / "b" / "nmnist-small" / "nmnist_small.tar.xz", files, prefix="./")
    one, other = load_nmnist(tmp_path / "a"), load_nmnist(tmp_path / "b")
    np.testing.assert_array_equal(one.x_train, other.x_train)
    assert one.y_train.tolist() == other.y_train.tolist() == [5, 0, 4]
    assert one.y_test.tolist() == [7]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train1K.txt": b"1 5\n9 3\n"}, r"lacks 9\.bs2, which its list names"),
        ({"train1K.txt": b"1 12\n"}, r"train1K\.txt, line 1: expected a class 0 … 9, found 12"),
        ({"train1K.txt": b"1 5\n../../etc/passwd 3\n"}, r"train1K\.txt, line 2: expected a sample's number"),
        ({"train1K.txt": b"#nothing\n"}, "names no samples"),
        ({"2.bs2": b"1234"}, r"2\.bs2: has 4 bytes"),
    ],
)
def test_lists_that_do_not_fit(tmp_path, change, says):
    write_tar(tmp_path / "nmnist-small" / "nmnist_small.tar.xz", small_set(np.random.default_rng(1)) | change)
    with pytest.raises(FileError, match=says):
        load_nmnist(tmp_path)


def test_damaged_archives(tmp_path):
    path = tmp_path / "nmnist-small" / "nmnist_small.tar.xz"
    write_tar(path, small_set(np.random.default_rng(1)))
    assert_only_our_errors(read_archive, path, path.read_bytes(), count=100)
    write_tar(path, small_set(np.random.default_rng(1)), "w")
    assert_only_our_errors(read_archive, path, path.read_bytes(), count=100)
    write_tar(path, small_set(np.random.default_rng(1)), "w:gz")
    assert_only_our_errors(read_archive, path, path.read_bytes(), count=100)


def test_archive_bombs_and_links(tmp_path):
    write_tar(tmp_path / "x" / "bomb.tar.xz", {"1.bs2": bytes(1 << 22), "2.bs2": bytes(1 << 22)})
    with pytest.raises(UnsafeFileError, match=r"bomb\.tar\.xz: unpacks to more than 5000000 bytes; refused"):
        read_archive(tmp_path / "x" / "bomb.tar.xz", 5_000_000)
    with tarfile.open(tmp_path / "x" / "links.tar", "w") as archive:
        link = tarfile.TarInfo("1.bs2")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert read_archive(tmp_path / "x" / "links.tar") == {}


# --- AEDAT ----------------------------------------------------------------------------------------------------------


def test_aedat_3_1(tmp_path):
    one, other = events_of((5, 127, 0, 1), (6, 0, 127, 0)), events_of((7, 3, 4, 1))
    path = tmp_path / "user01_led.aedat"
    path.write_bytes(aedat_3_1((1, 0, one), (0, 0, other), (1, 2, other)))
    events = read_aedat(path)
    assert events.tolist() == [(5, 127, 0, 1), (6, 0, 127, 0), (7 + (2 << 31), 3, 4, 1)]
    content = bytearray(aedat_3_1((1, 0, one)))
    content[content.index(b"END-HEADER\r\n") + 12 + 28] &= 0xFE  # the valid bit of the first event
    path.write_bytes(content)
    assert read_aedat(path).tolist() == [(6, 0, 127, 0)]
    path.write_bytes(aedat_3_1())
    assert len(read_aedat(path)) == 0


def test_aedat_3_1_with_room_in_a_packet(tmp_path):
    events = events_of((5, 1, 2, 1))
    content = aedat_3_1((1, 0, events)) + bytes(8) + aedat_3_1((1, 0, events)).split(b"END-HEADER\r\n")[1]
    place = content.index(b"END-HEADER\r\n") + 12 + 16
    (tmp_path / "a.aedat").write_bytes(content[:place] + struct.pack("<i", 2) + content[place + 4 :])
    assert read_aedat(tmp_path / "a.aedat").tolist() == [(5, 1, 2, 1)] * 2


def test_aedat_2_0(tmp_path):
    events = random_events(np.random.default_rng(0), 100, 128)
    (tmp_path / "a.aedat").write_bytes(aedat_2_0(events))
    np.testing.assert_array_equal(read_aedat(tmp_path / "a.aedat"), events)
    by_hand = struct.pack(">II", 3 << 8 | 5 << 1 | 1, 9)
    (tmp_path / "a.aedat").write_bytes(b"#!AER-DAT2.0\r\n" + by_hand)
    assert read_aedat(tmp_path / "a.aedat").tolist() == [(9, 122, 3, 0)]
    (tmp_path / "a.aedat").write_bytes(b"#!AER-DAT2.0\r\n" + struct.pack(">II", 1 << 20, 9))
    with pytest.raises(FileError, match=r"a\.aedat: addresses of more than 15 bits"):
        read_aedat(tmp_path / "a.aedat")


@pytest.mark.parametrize("make", [lambda e: aedat_3_1((1, 0, e), (1, 1, e)), aedat_2_0], ids=["3.1", "2.0"])
def test_damaged_aedat(tmp_path, make):
    content = make(random_events(np.random.default_rng(0), 20, 128))
    assert_only_our_errors(read_aedat, tmp_path / "a.aedat", content, count=300)
    for wrong in (b"", b"#!AER-DAT4.0\r\n", b"#!AER-DAT3.1\r\n", b"#!AER-DAT2.0", b"\0" * 99):
        (tmp_path / "a.aedat").write_bytes(wrong)
        assert failure(read_aedat, tmp_path / "a.aedat") is not None


# --- the data sets of the paper ---------------------------------------------------------------------------------------


@pytest.fixture
def gestures(tmp_path):
    """Two training recordings and a test one, two gestures each."""
    folder, rng = tmp_path / "DvsGesture", np.random.default_rng(0)
    folder.mkdir()
    for user in ("user01_led", "user02_lab", "user24_led"):
        events = random_events(rng, 400, 128, 1000)
        (folder / f"{user}.aedat").write_bytes(aedat_3_1((1, 0, events[:150]), (1, 0, events[150:])))
        table = f"class,startTime_usec,endTime_usec\n{rng.integers(1, 12)},100,400\n11,400,900\n"
        (folder / f"{user}_labels.csv").write_text(table)
    (folder / "trials_to_train.txt").write_text("user01_led.aedat\nuser02_lab.aedat\n\n")
    (folder / "trials_to_test.txt").write_text("user24_led.aedat\n")
    return folder


def test_dvs_gesture(gestures, tmp_path):
    split = load_dvs_gesture(tmp_path, num_steps=4, ceiling=255)
    assert split.x_train.shape == (4, 4, 2, 128, 128)
    assert split.x_test.shape == (2, 4, 2, 128, 128)
    assert (split.num_classes, len(split.class_names), split.y_train[1], split.y_train[3]) == (11, 11, 10, 10)
    events = read_aedat(gestures / "user02_lab.aedat")
    second = events[(events["t"] >= 400) & (events["t"] < 900)]
    np.testing.assert_array_equal(split.x_train[3], to_frames(second, 4, 128, 128, "count").counts)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("user01_led_labels.csv", "class,start,end\n12,1,2\n", "expected classes 1 … 11"),
        ("user01_led_labels.csv", "class,start,end\n1,2,2\n", "a start before its end"),
        ("user01_led_labels.csv", "class,start,end\n1,2\n", "expected lines of class, startTime_usec"),
        ("user01_led_labels.csv", "class,start,end\n1,2,99999999999999999999\n", "expected lines of class"),
        ("user01_led_labels.csv", "", "expected lines of class"),
        ("trials_to_train.txt", "../../etc/passwd\n", "expected names of files beside it"),
        ("trials_to_train.txt", "user99.aedat\n", r"user99_labels\.csv: no such file"),
        ("trials_to_train.txt", "\n", "names no recordings"),
        ("user01_led.aedat", "#!AER-DAT3.1\r\n", "no #!END-HEADER line"),
    ],
)
def test_gestures_that_do_not_fit(gestures, name, content, says):
    (gestures / name).write_text(content, newline="")
    with pytest.raises(FileError, match=says):
        load_dvs_gesture(gestures)


def test_cifar10_dvs(tmp_path):
    from ottt_loihi.data.cifar import CIFAR10_CLASSES

    rng = np.random.default_rng(0)
    for name in CIFAR10_CLASSES:
        folder = tmp_path / "cifar10-dvs" / name
        folder.mkdir(parents=True)
        for number in (0, 1, 2, 10):
            (folder / f"cifar10_{name}_{number}.aedat").write_bytes(aedat_2_0(random_events(rng, 200, 128)))
    split = load_cifar10_dvs(tmp_path, num_steps=3)
    assert (split.x_train.shape, split.x_train.dtype) == ((30, 3, 2, 48, 48), np.float32)
    assert split.y_test.tolist() == list(range(10))
    whole = load_cifar10_dvs(tmp_path, num_steps=3, side=None, ceiling=255)
    assert (whole.x_test.shape, whole.x_test.dtype) == ((10, 3, 2, 128, 128), np.uint8)
    last = read_aedat(tmp_path / "cifar10-dvs" / "truck" / "cifar10_truck_10.aedat")  # 10 comes after 2
    np.testing.assert_array_equal(whole.x_test[9], to_frames(last, 3, 128, 128, "count").counts)
    (tmp_path / "cifar10-dvs" / "dog" / "cifar10_dog_1.aedat").write_bytes(b"")
    with pytest.raises(FileError, match=r"cifar10_dog_1\.aedat: starts with ''"):
        load_cifar10_dvs(tmp_path)
    with pytest.raises(UsageError, match="side"):
        load_cifar10_dvs(tmp_path, side=0)
