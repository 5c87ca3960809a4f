"""Which option to ship: the cheapest that is shown not to be worse than the best by more than a margin.

An option is a model at a resolution. The choice is made on one split (val), evidence is given from another (test) that
was not looked at before. Non-inferiority is tested down each model's resolutions from its most expensive one, and stops
at the first that fails: a fixed sequence, which errs at most as often as one test (Maurer, Hothorn and Lehmacher 1995;
margin and one-sided bound as in Piaggio et al. 2012, doi:10.1001/jama.2012.87802); several models share the level
(Bonferroni). Whether a least metric is reached is tested in the same order, but none that fails ends it: the fallback
procedure (statistics/noninferiority.py). The best is the highest mean on val, which may be luck: every other option
that is dearer must be shown not to gain more than the margin over what is to be shipped (all of them, so each at the
full level: Berger 1982, doi:10.1080/00401706.1982.10487790).

Of options whose latencies differ by less than 5 %, and are not shown to, the better one is shipped.

Legend: S seeds, N images, C options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from resomap.analysis import needed
from resomap.analysis.least_metric import may_reach, reached
from resomap.analysis.statistics.intervals import Estimate, difference_estimate, mean_estimate, seed_prior
from resomap.analysis.statistics.noninferiority import fixed_sequence, largest_first
from resomap.analysis.statistics.resampling import crossed_bootstrap
from resomap.analysis.statistics.seed_variance import SeedPrior
from resomap.analysis.tradeoff import front_probability, latency_draws, regret
from resomap.analysis.wording import (
    ALPHA,
    Doubts,
    assumptions,
    held_back,
    least_metric_sentence,
    no_better_than_chance_sentence,
    none_fits_sentence,
    verdict_sentence,
    would_change,
    would_settle,
)
from resomap.profiling.latency import paired_ratio

RECOMMEND, NONE_FITS, CANNOT_TELL = "recommend", "none fits", "cannot tell"
_ALIKE = 1.05
"""Ratio of latencies below which noise may be all that differs."""


@dataclass(frozen=True, slots=True, eq=False)
class Option:
    """A model at a resolution with what it achieves and costs."""

    model: str
    resolution: int
    select_SN: np.ndarray
    """Metric values by seed and image of the split that decides."""
    report_SN: np.ndarray
    """The same of the split that is reported."""
    latency_ms: float
    """Median at batch 1."""
    latency_blocks_ms: tuple[float, ...]
    """Medians of the rounds, for its uncertainty."""
    memory_mib: float
    """Peak of inference, one image."""
    heaviest: tuple[float, float] = (1.0, 1.0)
    """Weight of an image of the rarest class over that of the mean one, on the two splits (statistics.pseudo)."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.model} at {self.resolution} px"


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent and must be reached; None: no limit."""

    max_latency_ms: float | None = None
    max_memory_mib: float | None = None
    min_metric: float | None = None


@dataclass(frozen=True, slots=True)
class Assessed:
    """One option beside the reference."""

    model: str
    resolution: int
    latency_ms: float
    memory_mib: float
    within_budget: bool
    metric: Estimate
    """On the reporting split."""
    difference: Estimate
    """Option less reference, on the deciding split."""
    reported_difference: Estimate
    """The same on the reporting split."""
    lower_bound: float
    """One-sided, of the difference on the deciding split."""
    not_inferior: bool
    front_probability: float
    """Of lying on the Pareto front of metric and latency."""
    over_budget_probability: float
    """Of the median latency exceeding the budget; 0 without one."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer with its evidence."""

    status: str
    """'recommend', 'none fits' or 'cannot tell'."""
    sentence: str
    model: str | None
    resolution: int | None
    reference: str | None
    metric: str
    delta: float
    select_split: str
    report_split: str
    images: int
    """Of the reporting split."""
    seeds: int
    options: tuple[Assessed, ...]
    bound_level: float
    """Of each option's lower_bound, one-sided."""
    expected_regret: float | None = None
    regret_95: float | None = None
    would_change: tuple[str, ...] = ()
    """What would change the answer."""
    assumed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    budget: Mapping[str, float | None] = field(default_factory=dict)


def recommend(
    options: Sequence[Option],
    *,
    budget: Budget | None = None,
    delta: float = 0.01,
    metric: str = "accuracy",
    splits: tuple[str, str] = ("val", "test"),
    labels_N: np.ndarray | None = None,
    chance: tuple[float, str] | None = None,
    warnings: Sequence[str] = (),
    draws: int = 2000,
    seed: int = 0,
) -> Recommendation:
    """Choose; every option has the same images and number of seeds.

    Args:
        delta: largest loss of the metric that is accepted.
        splits: names of the deciding and the reporting split.
        labels_N: of the reporting split, to draw by class where every class has ten images.
        chance: what answers without a look at the image reach on the deciding split, and how; None: not known.
    """
    budget = budget or Budget()
    fits = np.array([_fits(option, budget) for option in options])
    priors = {
        which: {m: seed_prior([getattr(o, which) for o in options if o.model == m]) for m in {o.model for o in options}}
        for which in ("select_SN", "report_SN")
    }
    enough, errors = reached(options, fits, budget.min_metric, priors["select_SN"])
    eligible = fits & enough
    least = _least_means(options, priors["select_SN"])
    candidates = eligible if chance is None else eligible & (least > chance[0])
    affordable = fits if fits.any() else np.ones(len(options), bool)
    reference = _best(options, next((some for some in (candidates, eligible) if some.any()), affordable))
    quality_DC = crossed_bootstrap(
        np.stack([o.report_SN for o in options]),
        draws=draws,
        seed=seed,
        strata_N=labels_N,
        priors=[priors["report_SN"][o.model] for o in options],
    )
    latency_DC = latency_draws([option.latency_blocks_ms for option in options], draws=draws, seed=seed)
    limit = np.inf if budget.max_latency_ms is None else budget.max_latency_ms
    over = (latency_DC > limit).mean(axis=0)
    on_front = front_probability(quality_DC, latency_DC)
    models, sides = [option.model for option in options], [option.resolution for option in options]
    level = 1 - ALPHA / len(set(models))
    compared = [_difference(o, options[reference], "select_SN", priors["select_SN"]) for o in options]
    bounds = [d.one_sided_low(level) if i != reference else 0.0 for i, d in enumerate(compared)]
    passed = fixed_sequence(models, sides, bounds, reference=reference, margin=delta)
    assessed = tuple(
        Assessed(
            model=option.model,
            resolution=option.resolution,
            latency_ms=option.latency_ms,
            memory_mib=option.memory_mib,
            within_budget=bool(fits[i]),
            metric=mean_estimate(
                option.report_SN, prior=priors["report_SN"][option.model], heaviest=option.heaviest[1]
            ),
            difference=compared[i],
            reported_difference=_difference(option, options[reference], "report_SN", priors["report_SN"]),
            lower_bound=max(-1.0, bounds[i]),
            not_inferior=bool(passed[i]),
            front_probability=float(on_front[i]),
            over_budget_probability=float(over[i]),
        )
        for i, option in enumerate(options)
    )
    common: dict[str, Any] = {
        "metric": metric,
        "delta": delta,
        "select_split": splits[0],
        "report_split": splits[1],
        "images": options[0].report_SN.shape[1],
        "seeds": options[0].report_SN.shape[0],
        "options": assessed,
        "bound_level": level,
        "warnings": tuple(warnings),
        "assumed": assumptions(options, delta, splits),
        "budget": asdict(budget),
    }
    if not eligible.any():
        return _nothing(options, fits, errors, options[reference], budget, priors["select_SN"], common)
    if chance is not None and not candidates.any():
        best = options[reference]
        sentence = no_better_than_chance_sentence(best, float(least[reference]), chance, metric, splits[0])
        return Recommendation(CANNOT_TELL, sentence, None, None, best.name, **common)
    chosen = _choose(options, candidates & passed)
    cheaper = [i for i, option in enumerate(options) if _slower(options[chosen], option)]
    open_ones = [i for i in cheaper if candidates[i] and not passed[i] and compared[i].high >= -delta]
    lost = regret(quality_DC, chosen, candidates)
    held = {i for i in open_ones if bounds[i] > -delta}  # by the sequence alone: no more data would change that
    promising = [i for i in open_ones if i not in held and compared[i].value >= -delta]
    better = _may_gain(options, eligible, chosen, reference, priors["select_SN"], delta)
    cannot_tell = bool(better or (promising and chosen == reference))
    alone = {i: needed.for_difference(d, d.value + delta, level) for i, d in enumerate(compared)}
    needs = {i: needed.most(alone[k] for k in _not_passed_until(options, passed, reference, i)) for i in promising}
    settled = {i: needed.for_difference(gain, delta - gain.value, 1 - ALPHA) for i, gain in better.items()}
    doubts = Doubts(needs if chosen == reference else {}, settled) if cannot_tell else None
    return Recommendation(
        status=CANNOT_TELL if cannot_tell else RECOMMEND,
        sentence=verdict_sentence(
            assessed, (chosen, reference), cheaper, doubts, delta, metric, splits, budget.max_latency_ms
        ),
        model=options[chosen].model,
        resolution=options[chosen].resolution,
        reference=options[reference].name,
        expected_regret=lost[0],
        regret_95=lost[1],
        would_change=(
            *(
                held_back(options[i], delta)
                if i in held
                else would_change(options[i], compared[i], delta, needs.get(i), splits[0])
                for i in open_ones
            ),
            *(would_settle(options[i], need, delta, splits[0]) for i, need in settled.items()),
        ),
        **common,
    )


def _fits(option: Option, budget: Budget) -> bool:
    slow = budget.max_latency_ms is not None and option.latency_ms > budget.max_latency_ms
    large = budget.max_memory_mib is not None and option.memory_mib > budget.max_memory_mib
    return not slow and not large


def _choose(options: Sequence[Option], usable: np.ndarray) -> int:
    """The best one of those whose latency is not shown to be above the lowest; the cheaper one among equals."""
    fastest = min((options[i] for i in np.flatnonzero(usable).tolist()), key=lambda o: o.latency_ms)
    as_fast = np.array([ok and not _slower(option, fastest) for option, ok in zip(options, usable, strict=True)])
    return _best(options, as_fast)


def _slower(a: Option, b: Option) -> bool:
    """Whether `a` takes longer than `b`: by 5 % or more as measured, or by less where all of the ratio's interval does.

    A wide interval alone makes none equal: among rounds that a busy machine disturbs 1.4 times as long is still that.
    """
    if not b.latency_ms < a.latency_ms < _ALIKE * b.latency_ms:
        return a.latency_ms > b.latency_ms
    rounds = min(len(a.latency_blocks_ms), len(b.latency_blocks_ms))
    blocks = (np.array(option.latency_blocks_ms[:rounds]) for option in (a, b))
    return paired_ratio(*blocks, draws=500).low > 1


def _best(options: Sequence[Option], allowed: np.ndarray) -> int:
    """The highest mean on the deciding split; the cheaper one among equals."""
    positions = [int(i) for i in np.flatnonzero(allowed)]
    return min(positions, key=lambda i: (-options[i].select_SN.mean(), options[i].latency_ms))


def _difference(option: Option, reference: Option, which: str, priors: Mapping[str, SeedPrior | None]) -> Estimate:
    prior, prior_of_b = priors[option.model], priors[reference.model]
    a_SN, b_SN = getattr(option, which), getattr(reference, which)
    heaviest = option.heaviest[which == "report_SN"]
    return difference_estimate(
        a_SN, b_SN, prior=prior, prior_of_b=prior_of_b, same_runs=option is reference, heaviest=heaviest
    )


def _not_passed_until(options: Sequence[Option], passed: np.ndarray, reference: int, i: int) -> list[int]:
    """An option and the larger sizes of its model that must pass before it and have not."""
    order = largest_first([o.model for o in options], [o.resolution for o in options], options[i].model)
    if reference in order:
        order = order[order.index(reference) + 1 :]
    return [k for k in order[: order.index(i) + 1] if not passed[k]]


def _least_means(options: Sequence[Option], priors: Mapping[str, SeedPrior | None]) -> np.ndarray:
    """(C,) lower bounds of the means on the deciding split that hold for all options together (Bonferroni)."""
    level = 1 - 2 * ALPHA / len(options)
    found = [mean_estimate(o.select_SN, level=level, prior=priors[o.model], heaviest=o.heaviest[0]) for o in options]
    return np.array([one.low for one in found])


def _may_gain(
    options: Sequence[Option],
    eligible: np.ndarray,
    chosen: int,
    reference: int,
    priors: Mapping[str, SeedPrior | None],
    delta: float,
) -> dict[int, Estimate]:
    """Dearer options, but the reference, that are not shown to gain at most delta over the chosen one: their gains."""
    dearer = [i for i in np.flatnonzero(eligible).tolist() if options[i].latency_ms > options[chosen].latency_ms]
    gains = {i: _difference(options[i], options[chosen], "select_SN", priors) for i in dearer if i != reference}
    return {i: gain for i, gain in gains.items() if gain.one_sided_high(1 - ALPHA) > delta}


def _nothing(
    options: Sequence[Option],
    fits: np.ndarray,
    errors: np.ndarray,
    best: Option,
    budget: Budget,
    priors: Mapping[str, SeedPrior | None],
    common: Mapping[str, Any],
) -> Recommendation:
    """No option is within the budget and known to reach the least metric.

    Args:
        errors: at which each option was tested for the least metric.
        best: of those within the budget.
    """
    if not fits.any() or budget.min_metric is None:
        return Recommendation(NONE_FITS, none_fits_sentence(options), None, None, None, **common)
    least, metric, split = budget.min_metric, common["metric"], common["select_split"]
    named, need = may_reach(options, fits, errors, least, priors) or (best, None)
    sentence = least_metric_sentence(named, least, need, metric, split)
    return Recommendation(NONE_FITS if need is None else CANNOT_TELL, sentence, None, None, best.name, **common)
