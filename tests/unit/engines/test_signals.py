"""Signals are held back while C++ runs, and then do what they always do."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from heartvit_edge.engines.signals import held_back, termination_as_exit


@pytest.fixture
def handlers():
    """Check that a test leaves the handlers as they were."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.usefixtures("handlers")
def test_ctrl_c_waits_for_the_end_of_the_body_and_is_told_meanwhile():
    seen = []
    with pytest.raises(KeyboardInterrupt), held_back() as came:
        seen.append(came())
        os.kill(os.getpid(), signal.SIGINT)
        seen.append(came())
    assert seen == [False, True]


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_termination_ends_the_body_as_an_exit_with_128_and_its_number(number):
    with pytest.raises(SystemExit) as caught, termination_as_exit():
        os.kill(os.getpid(), number)
        pytest.fail("not ended")
    assert caught.value.code == 128 + number


@pytest.mark.usefixtures("handlers")
def test_a_second_termination_does_not_end_what_puts_things_right():
    restored = []
    with pytest.raises(SystemExit), termination_as_exit():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            restored.append("the former mode")
    assert restored == ["the former mode"]


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_termination_within_c_waits_and_then_ends_as_an_exit(number):
    reached = []
    with pytest.raises(SystemExit), termination_as_exit(), held_back():
        os.kill(os.getpid(), number)
        reached.append("the end of the body")
    assert reached == ["the end of the body"]


@pytest.mark.usefixtures("handlers")
def test_without_a_signal_nothing_happens():
    with termination_as_exit(), held_back() as came:
        pass
    assert not came()


def test_another_thread_leaves_signals_alone():
    def body():
        with termination_as_exit(), held_back() as came:
            seen.append((came(), signal.getsignal(signal.SIGINT)))

    seen, before = [], signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
