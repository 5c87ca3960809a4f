"""Which precision, memory format and micro-batch train a model fastest on this machine: timed, not assumed.

The best choice differs by model and size by more than any other setting (bf16 with NHWC trains one network 4 times as
fast and another not at all), so a few forward and backward passes of each are timed in turn. What may differ:

    precision     one for all resolutions of a model, or it would be confounded with resolution
    micro-batch   one for all resolutions of a model: BatchNorm sees it; gradients accumulate to the effective batch
    NHWC or NCHW  chosen for each resolution; it changes nothing but the order of sums

The search is as thorough as its share of the training time allows; a training too short for any is not tuned.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import nn

from resomap.models.generators import isolated_generators
from resomap.records import TunedSettings
from resomap.training.bench import Bench, Setting

SHARE = 0.02
"""Of the training time that the search may take."""
SHORTEST_S = 20.0
"""A shorter training of all a model's runs is not tuned: what starting a search costs would not be small beside it."""
TOLERANCE = 0.04
"""What is written first among the options wins unless another is faster by more: fp32, NHWC, the larger batch."""
LONGEST_S = 90.0
_ROUNDS = 5
_HOPELESS = 1.5
"""Times as slow as the best: not timed again."""
_FEW_IMAGES = 8
_SMALLEST_MICRO_BATCH = 8


@dataclass(frozen=True, slots=True)
class Options:
    """What may be chosen from, the preferred first. One of a kind: it was given, and is not searched."""

    precisions: tuple[str, ...]
    formats: tuple[bool, ...]
    """channels_last"""
    micro_batches: tuple[int, ...]

    @property
    def first(self) -> Setting:
        """What is used without tuning."""
        return Setting(self.precisions[0], self.formats[0], self.micro_batches[0])

    def settings(self) -> list[Setting]:
        """Every combination, the preferred first."""
        return [Setting(p, f, m) for p in self.precisions for m in self.micro_batches for f in self.formats]


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the search: which options are timed at which sides, on how many images."""

    options: Options
    sides: tuple[int, ...]
    images: int


def micro_batches(largest: int) -> tuple[int, ...]:
    """Halves of the largest, down to 8: 32 -> (32, 16, 8)."""
    found = [largest]
    while found[-1] // 2 >= _SMALLEST_MICRO_BATCH:
        found.append(found[-1] // 2)
    return tuple(found)


def plans(options: Options, sides: Sequence[int]) -> list[tuple[Stage, ...]]:
    """Ways to search, the cheapest first; the number of one, from 1, is its effort.

    1-2  precision, on a few images at the middle side
    3    precision, on a few images at every side
    4    the same, then the micro-batch in the chosen precision at every side
    5    everything with everything at every side
    """
    every, middle = tuple(sides), (sorted(sides)[len(sides) // 2],)
    large = options.micro_batches[0]
    few = min(_FEW_IMAGES, large)
    by_precision = Options(options.precisions, options.formats[:1], (few,))
    by_batch = Options(options.precisions[:1], options.formats[:1], options.micro_batches)
    found: list[tuple[Stage, ...]] = [
        (Stage(by_precision, middle, max(2, few // 2)),),
        (Stage(by_precision, middle, few),),
        (Stage(by_precision, every, few),),
        (Stage(by_precision, every, few), Stage(by_batch, every, large)),
        (Stage(options, every, large),),
    ]
    return [tuple(s for s in stages if len(s.options.settings()) > 1) for stages in found]


def cost(stages: Iterable[Stage]) -> float:
    """Pixels that the stages will train on, in as many rounds as a clear difference takes."""
    return sum(
        _ROUNDS * len(stage.options.settings()) * stage.images * side**2 for stage in stages for side in stage.sides
    )


def affordable(options: Options, sides: Sequence[int], *, images: float) -> int:
    """The effort that its share of a training on `images` images at each side pays for; 0: none."""
    budget = SHARE * images * sum(side**2 for side in sides)
    efforts = [number for number, stages in enumerate(plans(options, sides), 1) if stages and cost(stages) <= budget]
    return max(efforts, default=0)


def untuned(options: Options, sides: Iterable[int]) -> TunedSettings:
    """What is used without a search."""
    first = options.first
    return TunedSettings(first.precision, first.micro_batch, dict.fromkeys(sides, first.channels_last), effort=0)


def tune(
    network: nn.Module,
    options: Options,
    *,
    sides: Sequence[int],
    images: float,
    num_classes: int,
    device: torch.device,
    graphs: bool = False,
    started: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
    is_out_of_memory: Callable[[BaseException], bool] = lambda error: isinstance(error, torch.OutOfMemoryError),
) -> TunedSettings:
    """The choice for one model.

    Args:
        network: moved to the device; its weights stay as they are, BatchNorm's statistics do not.
        sides: resolutions that it will be trained at.
        images: how many images it will be trained on at each of them, over all epochs and seeds.
        graphs: passes are launched as graphs where the device can.
        started: on the clock: what was spent since, on making the network, is part of the search's cost.
        is_out_of_memory: errors that only say that a setting needs more memory than there is.
    Returns:
        untuned(), with effort 0, where the training is too short to pay for a search, or a search had to be broken off.
    Side effects: none on generators; the network is left in training mode.
    """
    started = clock() if started is None else started
    chosen = untuned(options, sides)
    effort = affordable(options, sides, images=images)
    if effort == 0:
        return chosen
    bench = Bench(
        network,
        num_classes=num_classes,
        largest=max(sides),
        device=device,
        graphs=graphs,
        clock=clock,
        is_out_of_memory=is_out_of_memory,
    )
    with isolated_generators(device), closing(bench):
        training_s = images * _seconds_per_pixel(bench, options, sides) * sum(side**2 for side in sides)
        if training_s < SHORTEST_S:
            return chosen
        search = _Search(bench, started=started, work=images * sum(side**2 for side in sides), training_s=training_s)
        for done, stage in enumerate(plans(options, sides)[effort - 1]):
            narrowed = Options((chosen.precision,), stage.options.formats, stage.options.micro_batches)
            stage = stage if len(stage.options.precisions) > 1 else Stage(narrowed, stage.sides, stage.images)
            times = search.race(stage)
            if not times:
                effort = effort - 1 if done else 0
                break
            chosen = pick(stage.options, times, before=chosen)
    return replace(chosen, effort=effort, seconds=clock() - started)


def pick(options: Options, times: Mapping[tuple[Setting, int], float], *, before: TunedSettings) -> TunedSettings:
    """The preferred combination among those within the tolerance of the fastest, over all timed sides.

    Args:
        times: (setting, side) -> seconds an image.
        before: whose values stay for what was not timed.
    """
    sides = {side for _, side in times}
    pairs = [(p, m) for p in options.precisions for m in options.micro_batches]

    def at(pair: tuple[str, int], side: int) -> float:
        return min(times.get((Setting(pair[0], f, pair[1]), side), math.inf) for f in options.formats)

    totals = {pair: sum(at(pair, side) for side in sides) for pair in pairs}
    best = min(totals.values())
    if not math.isfinite(best):
        return before
    precision, micro = next(pair for pair, total in totals.items() if total <= best * (1 + TOLERANCE))
    formats = dict(before.channels_last)
    for side in sides:
        of_side = {f: times.get((Setting(precision, f, micro), side), math.inf) for f in options.formats}
        limit = min(of_side.values()) * (1 + TOLERANCE)
        formats[side] = next(f for f, seconds in of_side.items() if seconds <= limit)
    first = sum(times.get((options.first, side), math.inf) for side in sides)
    gain = first / sum(times[Setting(precision, formats[side], micro), side] for side in sides)
    return TunedSettings(
        precision,
        micro if len(options.micro_batches) > 1 else before.micro_batch,
        formats,
        effort=before.effort,
        gain=before.gain * (gain if math.isfinite(gain) else 1.0),
    )


def _seconds_per_pixel(bench: Bench, options: Options, sides: Sequence[int]) -> float:
    """Of the untuned setting on a few images at the middle side; 0 where not even they fit the memory."""
    side, images = sorted(sides)[len(sides) // 2], min(_FEW_IMAGES // 2, options.first.micro_batch)
    bench.seconds_per_image(options.first, side, images=images)  # compiles kernels and asks for memory
    seconds = bench.seconds_per_image(options.first, side, images=images)
    return seconds / side**2 if math.isfinite(seconds) else 0.0


class _Search:
    """Times settings in turn until they are told apart, or the share of the training is spent."""

    def __init__(self, bench: Bench, *, started: float, work: float, training_s: float) -> None:
        self._bench, self._started, self._work = bench, started, work
        self._allow(training_s)

    def _allow(self, training_s: float) -> None:
        self._until = self._started + SHARE * training_s

    def race(self, stage: Stage) -> dict[tuple[Setting, int], float]:
        """(setting, side) -> median seconds an image; nothing where the time did not suffice to see each once."""
        alive = stage.options.settings()
        times: dict[tuple[Setting, int], list[float]] = {}
        warm_up: dict[tuple[Setting, int], float] = {}
        for round_ in range(_ROUNDS + 1):
            began = self._bench.clock()
            seconds: dict[tuple[Setting, int], float] = {}
            for side in stage.sides:
                for setting in alive:
                    if round_ == 0 and self._bench.clock() > self._until:
                        return {}  # something is far slower than it should be: no more time goes into it
                    seconds[setting, side] = self._bench.seconds_per_image(setting, side, images=stage.images)
            # The first round compiles kernels and asks for memory.
            if round_ == 0:
                warm_up = seconds
            else:
                for key, value in seconds.items():
                    times.setdefault(key, []).append(value)
            alive = _hopeful(alive, stage.sides, seconds)
            if round_:  # the share of the training as it will be with the fastest
                fastest = sum(min(v for (_, s), v in seconds.items() if s == side) for side in stage.sides)
                self._allow(self._work * fastest / sum(side**2 for side in stage.sides))
            now = self._bench.clock()
            until = min(self._until, self._started + LONGEST_S)
            if len(alive) == 1 or (round_ and now + (now - began) > until):
                break
        return warm_up | {key: median(values) for key, values in times.items()}


def _hopeful(
    settings: Sequence[Setting], sides: Iterable[int], seconds: Mapping[tuple[Setting, int], float]
) -> list[Setting]:
    """Those that are not far slower than the best at every side."""
    best = {side: min(seconds[setting, side] for setting in settings) for side in sides}
    return [s for s in settings if any(seconds[s, side] <= _HOPELESS * best[side] for side in best)]
