from __future__ import annotations

import logging
import threading
import time

import pytest

from resomap.tracking.unreachable_server import Backlog


class AwayError(Exception):
    """The store is away for a time."""


class RefusedError(Exception):
    """The store will never take it."""


def backlog(*, pause_s: float = 0.01, patience_s: float = 5.0) -> Backlog:
    return Backlog(
        "the store",
        failures=lambda: (AwayError, RefusedError),
        is_temporary=lambda error: isinstance(error, AwayError),
        describe=lambda error: type(error).__name__,
        pause_s=pause_s,
        patience_s=patience_s,
    )


def failing(error: type[Exception], *, times: int, then: list[str]) -> object:
    left = [times]

    def action() -> None:
        if left[0] > 0:
            left[0] -= 1
            raise error
        then.append("worked")

    return action


def refuse() -> None:
    raise RefusedError


def stay_away() -> None:
    raise AwayError


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_backlog_does_everything_in_order_before_finish_returns() -> None:
    done: list[int] = []
    work = backlog()
    for i in range(200):
        work.do(lambda i=i: (time.sleep(0.0005), done.append(i)))
    work.finish()
    assert done == list(range(200))


def test_backlog_never_makes_the_caller_wait() -> None:
    hold = threading.Event()
    work = backlog()
    started = time.monotonic()
    work.do(hold.wait)
    for _ in range(1000):
        work.do(lambda: None)
    assert time.monotonic() - started < 1
    hold.set()
    work.finish()


def test_backlog_tries_again_while_the_store_is_away_and_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    both = threading.Event()
    work = backlog()
    work.do(failing(AwayError, times=5, then=done))
    work.do(lambda: (done.append("next"), both.set()))
    assert both.wait(10)
    work.finish()
    assert done == ["worked", "next"]
    (warning,) = messages(caplog)
    assert "sent when it answers again" in warning


def test_backlog_leaves_out_what_is_refused_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    work = backlog()
    for _ in range(3):
        work.do(refuse)
        work.do(lambda: done.append("next"))
    work.finish()
    assert done == ["next"] * 3
    (warning,) = messages(caplog)
    assert "the store refused an entry (RefusedError)" in warning


def test_backlog_without_its_essential_action_does_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    work = backlog()
    work.do(stay_away, essential=True)
    work.do(lambda: done.append("next"))
    work.finish()
    work.do(lambda: done.append("after"))
    assert done == []
    assert messages(caplog) == ["the store does not work (AwayError); training goes on without it"]


def test_backlog_says_what_it_lost_when_the_store_stays_away(caplog: pytest.LogCaptureFixture) -> None:
    tries: list[int] = []
    begun = threading.Event()

    def away() -> None:
        tries.append(1)
        begun.set()
        raise AwayError

    work = backlog(pause_s=60)
    for _ in range(1000):
        work.do(away)
    assert begun.wait(10)
    started = time.monotonic()
    work.finish()
    # The end cuts the pause short: the waiting action once more, the next one, then no more.
    assert len(tries) == 3
    assert time.monotonic() - started < 5
    assert [text.partition(" (")[0] for text in messages(caplog)] == [
        "the store does not answer",
        "the store did not answer at the end",
    ]


def test_backlog_warns_once_of_a_store_that_went_away_just_before_the_end(caplog: pytest.LogCaptureFixture) -> None:
    begin = threading.Event()
    work = backlog()
    work.do(begin.wait)
    for _ in range(5):
        work.do(stay_away)
    threading.Timer(0.1, begin.set).start()
    work.finish()
    (warning,) = messages(caplog)
    assert "did not answer at the end (AwayError); what was logged last is not stored" in warning


def test_backlog_gives_up_on_an_action_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    hold = threading.Event()
    work = backlog(patience_s=0.1)
    work.do(hold.wait)
    work.finish()
    hold.set()
    (warning,) = messages(caplog)
    assert "did not answer at the end (waited 0.1 s)" in warning


def test_backlog_finish_waits_longer_than_its_patience_while_work_gets_done() -> None:
    done: list[int] = []
    work = backlog(patience_s=0.4)
    for i in range(8):
        work.do(lambda i=i: (time.sleep(0.1), done.append(i)))
    work.finish()
    assert len(done) == 8
