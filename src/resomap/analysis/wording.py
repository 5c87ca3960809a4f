"""What recommend() says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from resomap.analysis.needed import Need, most
from resomap.analysis.records import Assessed, Budget, Doubts, Option, Question, StoppedOption
from resomap.analysis.statistics.intervals import Estimate
from resomap.metrics.classification import metric_name
from resomap.printable import apart, listed, share

_FEW = 5
"""Images of a class, below which a verdict comes with a warning: four right of four leave 0.51 to 1 (Wilson)."""

_LIKELY = 0.05
"""Probability of exceeding the limit of latency from which on the sentence names it."""


def the_best(options: Iterable[tuple[bool, float]]) -> str:
    """What the reference is; the best of all where none is within the budget.

    Args:
        options: whether each is within the budget, and its difference from the reference.
    """
    given = list(options)
    all_of_them = all(fits and gain <= 0 for fits, gain in given) or not any(fits for fits, _ in given)
    return "the best" if all_of_them else "the best within the budget"


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
        stopped = [o for o in question.stopped if o.latency_ms is None or o.latency_ms < one.latency_ms]
        if stopped:
            return (
                f"{ship}; nothing {'measurably ' if seems else ''}cheaper was trained to its end "
                f"({_were_stopped(stopped)}, {_worse(question.stopped_margin)}).{risk}"
            )
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
    if doubts.stopped:
        parts.append(
            f"whether {listed([o.name for o in doubts.stopped])} would do: stopped early, "
            f"{_worse(question.stopped_margin)} (training to the end would tell)"
        )
    return ", nor ".join(parts)


def none_fits_sentence(options: Sequence[Option], question: Question, *, stopped: Sequence[StoppedOption]) -> str:
    """Where none is within the limits of latency and memory.

    Args:
        stopped: of those whose training was stopped, the ones that are, as far as is known.
    """
    budget = question.budget
    cheapest = min(options, key=lambda o: o.latency_ms)
    smallest = min(options, key=lambda o: o.memory_mib)
    limits = " and ".join(_limits(budget))
    found = f"the fastest is {cheapest.name} with {_costs(cheapest, budget)}"
    if budget.max_memory_mib is not None and budget.max_latency_ms is None:
        found = f"the smallest is {smallest.name} with {_costs(smallest, budget)}"
    elif budget.max_memory_mib is not None:
        found += f", the smallest {smallest.name} with {_costs(smallest, budget)}"
    may = f"; {_were_stopped(stopped)}, and may fit" if stopped else ""
    return f"{_no_option(question)} fits the budget of {limits}: {found}{may}."


def _no_option(question: Question) -> str:
    return "No option that was trained to its end" if question.stopped else "No option"


def _limits(budget: Budget) -> Iterator[str]:
    for limit, unit in ((budget.max_latency_ms, "ms"), (budget.max_memory_mib, "MiB")):
        if limit is not None:
            yield f"{limit:g} {unit}"


def _costs(option: Option, budget: Budget) -> str:
    """'5.00 ms', '2.0 MiB' or both, as the budget has limits; with digits that tell them from these."""
    latency = f"{apart(option.latency_ms, budget.max_latency_ms, digits=2)} ms"
    memory = f"{apart(option.memory_mib, budget.max_memory_mib, digits=1)} MiB"
    limited = (budget.max_latency_ms is not None, latency), (budget.max_memory_mib is not None, memory)
    return " and ".join(text for wanted, text in limited if wanted)


def _were_stopped(options: Sequence[StoppedOption]) -> str:
    """'m at 16 px was stopped early'"""
    return f"{listed([o.name for o in options])} {'was' if len(options) == 1 else 'were'} stopped early"


def _worse(margin: float) -> str:
    return f"shown to be worse than the best run by more than {margin:g}"


def stopped_may_do(option: StoppedOption, margin: float) -> str:
    """What would settle an option whose training was stopped, and who knows whether for more than is accepted."""
    return f"{_were_stopped([option])}, {_worse(margin)}: training it to its end would show whether it does."


def least_metric_sentence(best: Option, *, least: float, need: Need | None, question: Question) -> str:
    """What is said where none is shown to reach the least metric.

    Args:
        best: of those that may; of all within the budget where none may.
        need: what would tell; None: none may.
    """
    split = question.select_split
    mean = float(best.select_SN.mean())
    shown = max(share(mean), apart(mean, least, digits=3), key=len)
    has = f"{metric_name(question.metric)} {shown} on {split}"
    if need is None:
        found = f"the best within the budget, {best.name}, has {has}"
        return f"{_no_option(question)} fits: {found}, below the {least} asked for."
    return (
        f"Cannot tell: {best.name} has {has}, and its interval contains the {least} that is asked for; "
        f"{need.words(split)} would tell."
    )


def no_better_than_chance_sentence(
    option: Option, *, least: float, chance: tuple[float, str], question: Question, beyond: Sequence[Option] = ()
) -> str:
    """What is said where none is shown to beat chance.

    Args:
        option, least: the best so far, and what it has at least.
        chance: what it reaches, and how.
        beyond: those that are shown to, and are not within the budget.
    """
    within, raise_it = "", ""
    if beyond:
        within = " within the budget"
        raise_it = f"raise the budget ({listed([o.name for o in beyond])} {'is' if len(beyond) == 1 else 'are'}), "
    return (
        f"Cannot tell: no option{within} is shown to be better than chance ({metric_name(question.metric)} "
        f"{chance[0]:.3f}, {chance[1]}). The best so far{within and ' there'}, {option.name}, has "
        f"{option.select_SN.mean():.3f} on {question.select_split} (at least "
        f"{apart(least, round(chance[0], 3), digits=3)}): {raise_it}train longer, or on more images."
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
    looks = f"looks {apart(-difference.value, delta, digits=3)} worse on {split}"
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
