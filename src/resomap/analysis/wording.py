"""What recommend() says: sentences, and how much more data would settle what it cannot tell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from resomap.analysis.statistics.intervals import Estimate
from resomap.errors import counted, listed

if TYPE_CHECKING:
    from resomap.analysis.recommend import Assessed, Option

ALPHA = 0.05
"""Error that a one-sided statement of the recommendation may have."""

_FEW = 5
"""Images of a class, below which a verdict comes with a warning: four right of four leave 0.51 to 1 (Wilson)."""


def verdict_sentence(
    cannot_tell: bool,
    assessed: Sequence[Assessed],
    chosen: int,
    reference: int,
    doubts: tuple[Sequence[int], Mapping[int, Estimate]],
    delta: float,
    metric: str,
    splits: tuple[str, str],
    level: float,
) -> str:
    """The answer in one sentence, or in two where it cannot be told.

    Args:
        chosen, reference: positions among the assessed.
        doubts: cheaper options that may do, and dearer ones that may gain more than delta, with their gains.
        level: of one-sided bounds against the reference.
    """
    one, best = assessed[chosen], assessed[reference]
    name = metric.replace("_", " ")
    has = f"{name} {one.metric.value:.3f} ({one.metric.low:.3f} to {one.metric.high:.3f}) on {splits[1]}"
    if cannot_tell:
        until_then = "The best choice so far is" if doubts[1] else "The safe choice until then is"
        cheaper, dearer = doubts
        doubted = _doubts(assessed, cheaper if chosen == reference else (), dearer, delta, level)
        return (
            f"Cannot tell {doubted}. {until_then} {one.model} at {one.resolution} px: {has}, {one.latency_ms:.2f} ms."
        )
    if chosen == reference:
        has_cheaper = any(other.latency_ms < one.latency_ms for other in assessed)
        return f"Ship {one.model} at {one.resolution} px: {has}, {one.latency_ms:.2f} ms an image; " + (
            f"nothing cheaper is shown to stay within {delta:g} of it." if has_cheaper else "nothing is cheaper."
        )
    faster = f"{best.latency_ms / one.latency_ms:.1f}"
    speed = "hardly faster than" if faster == "1.0" else f"{faster} times as fast as"
    return (
        f"Ship {one.model} at {one.resolution} px: {has}, {one.latency_ms:.2f} ms an image, {speed} "
        f"the best ({best.model} at {best.resolution} px), and not worse than it by more than {delta:g}."
    )


def _doubts(
    assessed: Sequence[Assessed], promising: Sequence[int], better: Mapping[int, Estimate], delta: float, level: float
) -> str:
    """What cannot be told: whether cheaper options would do, whether dearer ones are better."""

    def named(positions: Iterable[int]) -> str:
        return ", ".join(f"{assessed[i].model} at {assessed[i].resolution} px" for i in positions)

    parts = []
    if promising:
        first = assessed[promising[0]].difference
        # At a mean right at the margin no number of images would do: there the sentence names none.
        needed = needed_for(first, first.value + delta, level) if first.value > -delta else "more images and seeds"
        parts.append(
            f"whether {named(promising)} would do: a loss of more than {delta:g} is not ruled out ({needed} would tell)"
        )
    if better:
        widest = max(better.values(), key=lambda gain: gain.one_sided_high(1 - ALPHA))
        needed = _needed_to_settle(widest, delta)
        parts.append(
            f"whether {named(better)} would be better: a gain of more than {delta:g} is not ruled out "
            f"({needed} would tell)"
        )
    return ", nor ".join(parts)


def would_settle(option: Option, gain: Estimate, delta: float) -> str:
    """How many images or seeds would show that a dearer option gains nothing that matters."""
    needed = _needed_to_settle(gain, delta)
    return f"{option.name} is dearer, and may be better by more than {delta:g}: {needed} would show whether it is."


def _needed_to_settle(gain: Estimate, delta: float) -> str:
    # At a gain above the margin no number of images would show that it is below.
    return needed_for(gain, delta - gain.value, 1 - ALPHA) if gain.value < delta else "more images and seeds"


def would_change(option: Option, difference: Estimate, delta: float, level: float, split: str) -> str:
    """How many images or seeds would settle an option that is neither shown to suffice nor shown to fall short.

    Args:
        split: the one of the difference.
    """
    room = difference.value + delta
    if room <= 0:
        needed = f"it looks {-difference.value:.3f} worse on {split}; more data would more likely rule it out than in"
        return f"{option.name} is cheaper and not ruled out: {needed}."
    return f"{option.name} is cheaper and looks as good: {needed_for(difference, room, level)} would show it."


def held_back(option: Option, delta: float) -> str:
    """Why an option is not recommended that is within the margin, but comes after one that is not."""
    return (
        f"{option.name} is cheaper and shown to stay within {delta:g}, but a larger size of {option.model} is not: "
        "sizes are tested from the largest down, and the first that fails ends the sequence."
    )


def needed_for(found: Estimate, room: float, level: float) -> str:
    """'about 300 more images or about 2 more seeds': what brings the one-sided bound of an estimate within `room`."""
    target = (room / float(special.stdtrit(found.df, level))) ** 2
    by_seeds = found.seed_variance / found.seeds
    by_images = max(0.0, found.se**2 - by_seeds)
    answers = []
    if target > by_seeds:
        images = math.ceil(found.images * by_images / (target - by_seeds))
        answers.append(f"about {counted(max(1, images - found.images), 'more image')}")
    if found.seed_variance > 0 and target > by_images:
        seeds = math.ceil(found.seed_variance / (target - by_images))
        if seeds > found.seeds:
            answers.append(f"about {counted(seeds - found.seeds, 'more seed')}")
    return " or ".join(answers) or "more images and more seeds together"


def few_images(labels_N: np.ndarray, class_names: Sequence[str], split: str) -> Iterator[str]:
    """A warning that names the classes of which a split has fewer than five images; none where it has enough of all."""
    counts = np.bincount(labels_N, minlength=len(class_names)).tolist()
    few = sorted((count, name) for count, name in zip(counts, class_names, strict=True) if count < _FEW)
    if few:
        yield (
            f"fewer than {_FEW} images in {split}: {listed([f'{name} ({count})' for count, name in few])}; how well "
            "these classes are recognised is hardly known"
        )


def assumptions(options: Sequence[Option], delta: float, splits: tuple[str, str]) -> tuple[str, ...]:
    """What the recommendation takes for granted."""
    return (
        f"a loss of up to {delta:g} is acceptable",
        f"chosen on {splits[0]} ({options[0].select_SN.shape[1]} images), reported on {splits[1]}"
        if splits[0] != splits[1]
        else f"chosen and reported on {splits[0]}: there is no other split, so the reported figure is optimistic",
        "latency of one image at a time on the machine that was profiled",
        "new images come from where these came from",
    )
