"""Ctrl-C waits for a safe place and is never lost; a second one does not wait."""

import signal
import threading

import pytest

from ottt_loihi.interrupt import Interruptible


@pytest.fixture(autouse=True)
def _pythons_own_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_nobody_swallows_it():
    with Interruptible() as interruptible:
        interruptible.check()
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:  # as a bare except in somebody's import would
            pytest.fail("raised at once")
        with pytest.raises(KeyboardInterrupt):
            interruptible.check()
        interruptible.check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_one_does_not_wait():
    with Interruptible():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_programs_own_stays():
    seen = []
    signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    with Interruptible() as interruptible:
        signal.raise_signal(signal.SIGINT)
        interruptible.check()
    assert seen == [1]


def test_in_another_thread_it_does_nothing():
    seen = []

    def work():
        with Interruptible() as interruptible:
            interruptible.check()
        seen.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [1]
