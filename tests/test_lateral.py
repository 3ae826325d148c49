"""HLOP on the chip: rows find what traces span, learning keeps out of it, in sim and in Lava, stopped or not."""

import numpy as np
import pytest
from ottt_loihi.onchip import Settings, fresh_network, learn, repeat_in_lava, watch
from ottt_loihi.onchip.network.trainable import make_plan
from ottt_loihi.sim.learning import subspace
from ottt_loihi.sim.learning.subspace import ONE, Subspace, check_subspaces, empty

from ottt_loihi.data import load_digits, rate_code
from ottt_loihi.errors import FileError, UsageError

pytestmark = pytest.mark.lava


def digits(count=200, turn=False, start=0):
    split = load_digits()
    images = split.x_train[start : start + count]
    return rate_code(images[:, ::-1, ::-1] if turn else images, 6, 1), split.y_train[start : start + count]


def chip():
    return fresh_network(hidden=(20,))


def traces(count=3000, inputs=40, directions=4, seed=0):
    """Integer traces near a plane of few directions."""
    rng = np.random.default_rng(seed)
    basis = np.abs(rng.standard_normal((directions, inputs)))
    mixed = rng.random((count, directions)) ** 3 @ basis
    return np.clip(np.round(mixed / mixed.max() * 127 + rng.normal(0, 2, mixed.shape)), 0, 127).astype(np.int64)


class TestArithmetic:
    def rows(self):
        x = traces()
        s = empty(40).grown(4, float((x**2).sum(1).mean()), 0.1, 3)
        rows = s.rows
        for frame, trace in enumerate(x):
            random = np.random.default_rng(frame).integers(0, 2**32, rows.shape, np.uint32)
            rows = subspace.moved(rows, 0, s.shift, trace, random)
        return x, rows

    def test_rows_become_a_basis_of_what_traces_span(self):
        x, rows = self.rows()
        assert Subspace(rows, 4).deviation() < 0.05
        before = np.linalg.norm(x, axis=1).mean()
        left = np.mean([np.linalg.norm(subspace.projected(rows, 4, trace)) for trace in x[-300:]])
        noise = 2 * np.sqrt(36)
        assert left < 1.5 * noise < 0.2 * before

    def test_fixed_rows_stay(self):
        x, rows = self.rows()
        random = np.full(rows.shape, 2**31, np.uint32)
        after = subspace.moved(rows, 3, 5, x[0], random)
        np.testing.assert_array_equal(after[:3], rows[:3])
        assert (after[3] != rows[3]).any()

    def test_orthonormal_rows_project_to_nothing(self):
        x = traces()[0]
        row = np.round(ONE * x / np.linalg.norm(x)).astype(np.int16)[np.newaxis]
        assert np.abs(subspace.projected(row, 1, x)).max() <= 1
        np.testing.assert_array_equal(subspace.projected(row, 0, x), x)

    def test_new_rows_begin_orthonormal(self):
        old = Subspace(self.rows()[1], 4)
        grown = old.grown(6, 1e6, 0.1, 0)
        h = grown.rows[4:] / ONE
        np.testing.assert_allclose(h @ h.T, np.eye(6), atol=2e-3)
        basis = np.linalg.qr(old.rows.T / ONE)[0]
        assert np.abs(h @ basis).max() < 2e-3
        np.testing.assert_array_equal(grown.rows[:4], old.rows)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Subspace(np.zeros(3, int), 0), r"subspace.rows: expected integers \(k, inputs\)"),
            (lambda: Subspace(np.full((1, 3), 40000), 0), "in ±32767"),
            (lambda: Subspace(np.zeros((2, 3), int), 3), "subspace.fixed: expected an integer 0 … 2, got 3"),
            (lambda: Subspace(np.zeros((2, 3), int), 0, 32), "subspace.shift"),
            (lambda: empty(5).grown(6, 1.0, 0.1, 0), "expected 1 … 5 new rows"),
            (lambda: empty(5).grown(2, 1.0, 1.5, 0), r"a part in \(0, 1\]"),
            (lambda: check_subspaces([empty(5)], [5, 4]), r"one per plastic connection, of \[5, 4\] inputs, got \[5\]"),
        ],
    )
    def test_bad_input(self, make, message):
        with pytest.raises(UsageError, match=message):
            make()


class TestLearning:
    def test_messages_that_are_no_spikes_are_refused(self):
        with pytest.raises(UsageError, match=r"expected messages in \[0, 1\], got \[0, 2\]"):
            watch(chip(), 2 * digits(10)[0], [4, 2])

    def test_a_network_that_has_watched_answers_its_old_world_as_before(self):
        """With the readout's 20 hidden neurons all protected its weights hardly move; the plain ones do."""
        x, labels = digits(turn=True)
        protecting = watch(chip(), digits()[0], [40, 15])
        assert [len(s.rows) for s in protecting] == [s.fixed for s in protecting] == [40, 15]
        assert max(s.deviation() for s in protecting) < 0.1
        plain, kept = (learn(chip(), (x, labels), subspaces=s).chip for s in (None, protecting))
        change = [
            np.linalg.norm((new.weight - old.weight) @ s.rows.T / ONE)
            for new_chip in (plain, kept)
            for new, old, s in zip(make_plan(new_chip).dense, make_plan(chip()).dense, protecting)
        ]
        assert change[2] < 0.35 * change[0]
        assert change[3] < 0.35 * change[1]
        assert kept != chip()

    def test_a_second_world_adds_its_directions(self):
        first = watch(chip(), digits(60)[0], [10, 4])
        both = watch(chip(), digits(60, turn=True)[0], [8, 3], subspaces=first)
        assert [s.fixed for s in both] == [18, 7]
        for a, b in zip(first, both):
            np.testing.assert_array_equal(a.rows, b.rows[: len(a.rows)])

    def test_rates_are_measured_on_what_the_subspaces_leave(self):
        lateral = watch(chip(), digits(60)[0], [10, 4])
        plain, kept = (learn(chip(), digits(60), subspaces=s).rates for s in (None, lateral))
        assert all(b > 1.5 * a for a, b in zip(plain, kept))
        assert all(b <= 10 * a * (1 + 1e-9) for a, b in zip(plain, kept))

    def test_rows_may_learn_along(self):
        old = watch(chip(), digits()[0], 5)
        new = tuple(s.grown(3, 1e5, 0.2, 1) for s in old)
        result = learn(chip(), digits(60, turn=True), subspaces=new)
        for before, after in zip(new, result.subspaces):
            np.testing.assert_array_equal(before.rows[:5], after.rows[:5])
            assert (before.rows[5:] != after.rows[5:]).any()
        assert learn(chip(), digits(5)).subspaces is None

    @pytest.mark.slow
    @pytest.mark.parametrize("feedback", ["random", "kolen-pollack"])
    def test_all_backends_give_the_same(self, feedback):
        pytest.importorskip("lava.magma.core.process.process")
        lateral = tuple(s.grown(3, 1e5, 0.2, 1) for s in watch(chip(), digits(60)[0], 5, feedback=feedback))
        settings = Settings(feedback=feedback)
        sim, *others = (
            learn(chip(), digits(8, turn=True), settings=settings, backend=b, subspaces=lateral)
            for b in ("sim", "inprocess", "lava")
        )
        for other in others:
            assert sim.chip == other.chip
            for a, b in zip(sim.subspaces, other.subspaces):
                np.testing.assert_array_equal(a.rows, b.rows)
        assert repeat_in_lava(chip(), digits(8), 40, settings=settings, subspaces=lateral).variables > 20

    def test_stopped_and_resumed_is_not_stopped(self, tmp_path):
        lateral = tuple(s.grown(3, 1e5, 0.2, 1) for s in watch(chip(), digits(60)[0], 5))
        run = lambda folder, epochs, resume=False, s=lateral: learn(  # noqa: E731
            chip(),
            digits(60, turn=True),
            epochs=epochs,
            evaluate_every=20,
            checkpoint=tmp_path / folder,
            resume=resume,
            subspaces=s,
        )
        whole = run("whole", 2)
        run("parts", 1)
        again = run("parts", 2, resume=True)
        assert again.chip == whole.chip
        for a, b in zip(whole.subspaces, again.subspaces):
            np.testing.assert_array_equal(a.rows, b.rows)
        with pytest.raises(FileError, match="the state of another network or rule"):
            run("parts", 2, resume=True, s=None)

    def test_what_is_refused(self):
        with pytest.raises(UsageError, match="rows: expected one number, or one for each of 2"):
            watch(chip(), digits(20)[0], [1, 2, 3])
        with pytest.raises(UsageError, match="expected 1 … 20 new rows"):
            watch(chip(), digits(20)[0], [5, 21])
        with pytest.raises(UsageError, match="subspaces: expected one per plastic connection"):
            learn(chip(), digits(20), subspaces=[empty(64)])

    def test_what_no_projection_protects_from_is_refused(self):
        lateral = watch(chip(), digits(40)[0], rows=3)
        with pytest.raises(UsageError, match="learn_bias"):
            learn(chip(), digits(10), settings=Settings(learn_bias=True), subspaces=lateral)
