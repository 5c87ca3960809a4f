"""Durations of calls on a device, taken in turn so that drift of the machine falls on all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

Call = Callable[[], object]
Clock = Callable[[Call], float]

BLOCK_S = 0.05
"""A block repeats a short call until it has taken about this long."""
_MOST_CALLS = 32
_STABLE = 0.03
_WINDOW = 5
_LONGEST_WARMUP_S = 3.0


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

    Returns:
        Seconds of a call, the median of the last window.
    """
    times = [clock(call) for _ in range(max(1, least))]
    while not _stable(times) and sum(times) < _LONGEST_WARMUP_S:
        times.append(clock(call))
    return float(np.median(times[-_WINDOW:]))


def _stable(times: Sequence[float]) -> bool:
    if len(times) < 2 * _WINDOW:
        return False
    earlier, later = np.median(times[-2 * _WINDOW : -_WINDOW]), np.median(times[-_WINDOW:])
    return bool(abs(later - earlier) < _STABLE * earlier)


def time_in_turn(calls: Sequence[Call], *, clock: Clock, blocks: int, warmup: int = 5) -> list[np.ndarray]:
    """Seconds of every call: `blocks` rounds, in each of which every subject has one block of calls.

    Each round starts with another subject, so that none always follows the same one. A block of short calls starts with
    an untimed one, which brings the subject's weights back into the caches; for a long call that does not matter, and
    the time is better spent on more rounds.

    Returns:
        One array (blocks, calls of a block) a subject.
    """
    expected = [warm_up(call, clock=clock, least=warmup) for call in calls]
    counts = [int(np.clip(round(BLOCK_S / max(seconds, 1e-9)), 1, _MOST_CALLS)) for seconds in expected]
    times = [np.empty((blocks, count)) for count in counts]
    for block in range(blocks):
        for turn in range(len(calls)):
            subject = (turn + block) % len(calls)
            call = calls[subject]
            if counts[subject] > 1:
                call()
            times[subject][block] = [clock(call) for _ in range(counts[subject])]
    return times
