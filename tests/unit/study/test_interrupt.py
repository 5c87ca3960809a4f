from __future__ import annotations

import os
import signal

import pytest

from resomap.study.interrupt import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_on_signals_interrupts_at_once_outside_training(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_on_signals_first_asks_second_interrupts_while_training(number: signal.Signals) -> None:
    with stop_on_signals() as stop, stop.between_updates():
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_stop_on_signals_restores_handlers_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="boom"), stop_on_signals():
        raise ValueError("boom")
    assert signal.getsignal(signal.SIGINT) is before
