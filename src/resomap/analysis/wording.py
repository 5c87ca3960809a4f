"""What recommend() says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from resomap.analysis.needed import Need, most
from resomap.analysis.records import Assessed, Doubts, Option, Question
from resomap.analysis.statistics.intervals import Estimate
from resomap.metrics.classification import metric_name
from resomap.printable import listed, share

_FEW = 5
"""Images of a class, below which a verdict comes with a warning: four right of four leave 0.51 to 1 (Wilson)."""

_LIKELY = 0.05
"""Probability of exceeding the limit of latency from which on the sentence names it."""


def the_best(options: Iterable[tuple[bool, float]]) -> str:
    """What the reference is.

    Args:
        options: whether each is within the budget, and its difference from the reference.
    """
    return "the best" if all(fits and gain <= 0 for fits, gain in options) else "the best within the budget"


def verdict_sentence(
    assessed: Sequence[Assessed], question: Question, *, chosen: int, cheaper: Sequence[int], doubts: Doubts | None
) -> str:
    """The answer in one sentence; in more where it cannot be told or the limit of latency may be exceeded.

    Args:
        chosen, cheaper: positions among the assessed; cheaper are those that are shown to be.
        doubts: None: it can be told.
    """
    one, best = assessed[chosen], next(other for other in assessed if other.is_reference)
    found, delta = one.metric, question.delta
    has = (
        f"{metric_name(question.metric)} {share(found.value)} ({share(found.low)} to {share(found.high)}) on "
        f"{question.report_split}"
    )
    over = one.over_budget_probability
    risk = f" Its {over_limit(over, question.budget.max_latency_ms)}." if over > _LIKELY else ""
    if doubts:
        until_then = "The best choice so far is" if doubts.dearer else "The safe choice until then is"
        return (
            f"Cannot tell {_doubted(assessed, doubts, question)}. {until_then} {one.name}: {has}, "
            f"{one.latency_ms:.2f} ms.{risk}"
        )
    ship = f"Ship {one.name}: {has}, {one.latency_ms:.2f} ms an image"
    if one is best:
        if cheaper:
            none_passes = all(assessed[i].lower_bound <= -delta for i in cheaper)
            why = f"shown to stay within {delta:g} of it" if none_passes else "recommended"
            return f"{ship}; nothing cheaper is {why}.{risk}"
        seems = any(other.latency_ms < one.latency_ms for other in assessed)
        return f"{ship}; nothing is {'measurably ' if seems else ''}cheaper.{risk}"
    faster = f"{best.latency_ms / one.latency_ms:.1f}"
    speed = "hardly faster than" if faster == "1.0" else f"{faster} times as fast as"
    what = the_best((other.within_budget, other.difference.value) for other in assessed)
    return f"{ship}, {speed} {what} ({best.name}), and not worse than it by more than {delta:g}.{risk}"


def over_limit(probability: float, max_latency_ms: float | None) -> str:
    """'median latency exceeds the limit of 5 ms with a probability of 21 %'; '' where there is no such risk."""
    if max_latency_ms is None or probability < 0.005:
        return ""
    return f"median latency exceeds the limit of {max_latency_ms:g} ms with a probability of {100 * probability:.0f} %"


def _doubted(assessed: Sequence[Assessed], doubts: Doubts, question: Question) -> str:
    """What cannot be told: whether cheaper options would do, whether dearer ones are better."""

    def named(positions: Iterable[int]) -> str:
        return ", ".join(assessed[i].name for i in positions)

    parts = []
    for needs, would, risk in ((doubts.cheaper, "do", "loss"), (doubts.dearer, "be better", "gain")):
        if needs:
            parts.append(
                f"whether {named(needs)} would {would}: a {risk} of more than {question.delta:g} is not ruled "
                f"out ({most(needs.values()).words(question.select_split)} would tell)"
            )
    return ", nor ".join(parts)


def none_fits_sentence(options: Sequence[Option]) -> str:
    """What is said where none is within the limits of latency and memory."""
    cheapest = min(options, key=lambda o: o.latency_ms)
    smallest = min(options, key=lambda o: o.memory_mib)
    return (
        f"No option fits the budget: the fastest is {cheapest.name} with {cheapest.latency_ms:.2f} ms, "
        f"the smallest {smallest.name} with {smallest.memory_mib:.1f} MiB."
    )


def least_metric_sentence(best: Option, *, least: float, need: Need | None, question: Question) -> str:
    """What is said where none is shown to reach the least metric.

    Args:
        best: of those that may; of all within the budget where none may.
        need: what would tell; None: none may.
    """
    split = question.select_split
    has = f"{metric_name(question.metric)} {share(best.select_SN.mean())} on {split}"
    if need is None:
        return f"No option fits: the best within the budget, {best.name}, has {has}, below the {least} asked for."
    return (
        f"Cannot tell: {best.name} has {has}, and its interval contains the {least} that is asked for; "
        f"{need.words(split)} would tell."
    )


def no_better_than_chance_sentence(
    option: Option, *, least: float, chance: tuple[float, str], question: Question
) -> str:
    """What is said where none is shown to beat chance.

    Args:
        option, least: the best so far, and what it has at least.
        chance: what it reaches, and how.
    """
    return (
        f"Cannot tell: no option is shown to be better than chance ({metric_name(question.metric)} {chance[0]:.3f}, "
        f"{chance[1]}). The best so far, {option.name}, has {option.select_SN.mean():.3f} on {question.select_split} "
        f"(at least {least:.3f}): train longer, or on more images."
    )


def would_settle(option: Option, need: Need, delta: float, split: str) -> str:
    """How many images or seeds would show that a dearer option gains nothing that matters."""
    return (
        f"{option.name} is dearer, and may be better by more than {delta:g}: {need.words(split)} would show whether "
        "it is."
    )


def would_change(option: Option, difference: Estimate, delta: float, need: Need | None, split: str) -> str:
    """How many images or seeds would settle an option that is neither shown to suffice nor shown to fall short.

    Args:
        need: None: it looks worse by more than the margin.
        split: the one of the difference.
    """
    looks = f"looks {-difference.value:.3f} worse on {split}"
    if need is None:
        why = f"it {looks}; more data would more likely rule it out than in"
        return f"{option.name} is cheaper and not ruled out: {why}."
    seems = "looks as good" if difference.value > -delta / 10 else f"{looks}, less than {delta:g}"
    return f"{option.name} is cheaper and {seems}: {need.words(split)} would show it."


def held_back(option: Option, delta: float) -> str:
    """Why an option is not recommended that is within the margin, but comes after one that is not."""
    return (
        f"{option.name} is cheaper and shown to stay within {delta:g}, but a larger size of {option.model} is not: "
        "sizes are tested from the largest down, and the first that fails ends the sequence."
    )


def few_images(labels_N: np.ndarray, class_names: Sequence[str], split: str) -> Iterator[str]:
    """A warning that names the classes of which a split has fewer than five images; none where it has enough of all."""
    counts = np.bincount(labels_N, minlength=len(class_names)).tolist()
    few = sorted((count, name) for count, name in zip(counts, class_names, strict=True) if count < _FEW)
    if few:
        yield (
            f"fewer than {_FEW} images in {split}: {listed([f'{name} ({count})' for count, name in few])}; how well "
            "these classes are recognised is hardly known"
        )


def assumptions(options: Sequence[Option], question: Question) -> tuple[str, ...]:
    """What the recommendation takes for granted."""
    decides, reports = question.select_split, question.report_split
    return (
        f"a loss of up to {question.delta:g} is acceptable",
        f"chosen on {decides} ({options[0].select_SN.shape[1]} images), reported on {reports}"
        if decides != reports
        else f"chosen and reported on {decides}: there is no other split, so the reported figure is optimistic",
        "latency of one image at a time on the machine that was profiled",
        "new images come from where these came from",
    )
