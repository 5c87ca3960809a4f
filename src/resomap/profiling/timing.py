"""Durations of calls on a device, taken in turn so that drift of the machine falls on all alike.

Where a network's intermediate results lie in memory changes its time by some percent, and stays as it is for the life
of a process (Mytkowicz et al. 2009, doi:10.1145/1508244.1508275). On a CPU they are therefore moved before each block,
by a block of memory of random size in their way, so that rounds average over places as repeating the process would
(Curtsinger and Berger 2013, doi:10.1145/2451116.2451141).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

Call = Callable[[], object]
Clock = Callable[[Call], float]
Enough = Callable[[int, list[np.ndarray]], bool]
"""(group, seconds of its subjects (rounds, calls) so far) -> whether they are known well enough."""

BLOCK_S = 0.03
"""A block repeats a short call until it has taken about this long."""
_MOST_CALLS = 32
_WEIGHTS_MATTER_S = 0.08
"""In a longer call fetching the weights is a small part: resnet18's took 0.8 ms."""
_STABLE = 0.03
_WINDOW = 5
_WINDOW_OF_LONG = 2
_LONGEST_WARMUP_S = 3.0
_LONG_S = 0.25
_LONG_CALL_S = 0.05
"""From here on a call varies less, and two of them make a window."""
_LEAST_ROUNDS = 10
"""Every subject gets these, whatever the budget of time."""
_LEAST_S = 20.0
"""Slow spells of a shared machine last as long: rounds that agree for less may all lie in one."""
_SHIFTS = (2**16, 2**22)
"""Bytes by which results are moved in memory: up to the size of the largest pages and of a small network's maps."""


def clock_of(device: torch.device) -> Clock:
    """A stopwatch of one call, in seconds: events on CUDA, synchronised wall time on other accelerators."""
    if device.type == "cpu":
        return _wall_seconds
    if device.type == "cuda":
        return partial(_event_seconds, device=device)
    return partial(_synchronised_seconds, device=device)


def _wall_seconds(call: Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _event_seconds(call: Call, *, device: torch.device) -> float:
    """Two events on the device's own clock; the launch queue is empty at the start and at the end."""
    begin, end = (torch.Event(device, enable_timing=True) for _ in range(2))
    torch.accelerator.synchronize(device)
    begin.record()
    call()
    end.record()
    torch.accelerator.synchronize(device)
    return float(begin.elapsed_time(end)) / 1000


def _synchronised_seconds(call: Call, *, device: torch.device) -> float:
    torch.accelerator.synchronize(device)
    started = time.perf_counter()
    call()
    torch.accelerator.synchronize(device)
    return time.perf_counter() - started


def warm_up(call: Call, *, clock: Clock, least: int = 5) -> float:
    """Call until the times are stable: two windows in a row whose medians differ by less than 3 %, or 3 s passed.

    A window is five calls, or two that take 50 ms and more.

    Returns:
        Seconds of a call, the median of the last window.
    """
    times = [clock(call) for _ in range(max(1, least))]
    while not _stable(times) and sum(times) < _LONGEST_WARMUP_S:
        times.append(clock(call))
    return float(np.median(times[-_WINDOW:]))


def _stable(times: Sequence[float]) -> bool:
    window = _WINDOW_OF_LONG if np.median(times) >= _LONG_CALL_S else _WINDOW
    if len(times) < 2 * window:
        return False
    earlier, later = np.median(times[-2 * window : -window]), np.median(times[-window:])
    return bool(abs(later - earlier) < _STABLE * earlier)


def fastest(call: Call, *, clock: Clock, calls: int = 5) -> float:
    """Seconds of the fastest of a few calls, after an untimed one: what a slow spell of the machine changes least.

    Two calls do once they have taken a quarter of a second: long calls vary less.
    """
    call()
    times: list[float] = []
    while len(times) < calls and (len(times) < 2 or sum(times) < _LONG_S):
        times.append(clock(call))
    return min(times)


def time_in_turn(
    groups: Sequence[Sequence[Call]],
    *,
    clock: Clock,
    blocks: int,
    enough: Enough | None = None,
    budget_s: float = math.inf,
    warmup: int = 5,
    shifted: bool = False,
) -> list[list[np.ndarray]]:
    """Seconds of every call, in rounds: in each, every subject of a group has one block of calls.

    The group that has had the least time gets the next round, so that all groups see the machine over the same while.
    A group is done after `blocks` rounds, or, where `enough` is given, once that says so as well; beyond the budget
    after 10.

    Args:
        groups: subjects that are timed in the same rounds (one protocol each).
        budget_s: seconds for all groups together, warm-up excluded.
        shifted: move results in memory from block to block (CPU).
    Returns:
        For each group one array (rounds, calls of a block) a subject.
    """
    timed = [_Group(calls, clock, warmup) for calls in groups]
    shift = np.random.default_rng(0) if shifted else None
    started = time.perf_counter()
    waiting = dict(enumerate(timed))
    while waiting:
        number, group = min(waiting.items(), key=lambda item: item[1].spent_s)
        group.time_round(shift)
        spent_s = time.perf_counter() - started
        rounds = len(group.rounds)
        done = rounds >= blocks and (
            enough is None or (spent_s >= _LEAST_S and rounds % 5 == 0 and enough(number, group.times()))
        )
        if done or (spent_s >= budget_s and rounds >= _LEAST_ROUNDS):
            del waiting[number]
    return [group.times() for group in timed]


@dataclass(slots=True)
class _Group:
    """Subjects that are timed in the same rounds.

    Each round starts with another subject, so that none always follows the same one. Of two the first stays the first:
    else each would follow itself in every second round, and find its weights in the caches (9 % of a call of resnet18
    at 128 px).

    A block starts with an untimed call, which brings the subject's weights back into the caches: else the smaller of
    two sizes of a network would fetch them and the larger find them there. For a long call that does not matter, and
    the time is better spent on more rounds.
    """

    calls: Sequence[Call]
    clock: Clock
    warmup: int
    counts: list[int] = field(init=False)
    are_long: list[bool] = field(init=False)
    rounds: list[list[list[float]]] = field(default_factory=list)
    spent_s: float = 0.0

    def __post_init__(self) -> None:
        expected = [warm_up(call, clock=self.clock, least=self.warmup) for call in self.calls]
        self.are_long = [seconds > _WEIGHTS_MATTER_S for seconds in expected]
        self.counts = [int(np.clip(round(BLOCK_S / max(seconds, 1e-9)), 1, _MOST_CALLS)) for seconds in expected]

    def time_round(self, shift: np.random.Generator | None) -> None:
        started = time.perf_counter()
        subjects = len(self.calls)
        row: list[list[float]] = [[] for _ in self.calls]
        for turn in range(subjects):
            subject = (turn + len(self.rounds)) % subjects if subjects > 2 else turn
            call = self.calls[subject]
            # Kept until the next block: what the call allocates has to lie elsewhere.
            moved = torch.empty(int(shift.integers(*_SHIFTS)), dtype=torch.uint8) if shift else None
            if not self.are_long[subject]:
                call()
            row[subject] = [self.clock(call) for _ in range(self.counts[subject])]
            del moved
        self.rounds.append(row)
        self.spent_s += time.perf_counter() - started

    def times(self) -> list[np.ndarray]:
        return [np.array([row[subject] for row in self.rounds]) for subject in range(len(self.calls))]
