"""Which option to ship: the cheapest that is shown not to be worse than the best by more than a margin.

An option is a model at a resolution. The choice is made on one split (val), evidence is given from another (test) that
was not looked at before. Non-inferiority is tested down each model's resolutions from its most expensive one, and stops
at the first that fails: a fixed sequence, which errs at most as often as one test (Maurer, Hothorn and Lehmacher 1995;
margin and one-sided bound as in Piaggio et al. 2012, doi:10.1001/jama.2012.87802); several models share the level
(Bonferroni). The best is the highest mean on val, which may be luck: every other option that is dearer must be shown
not to gain more than the margin over what is to be shipped (all of them, so each at the full level: Berger 1982,
doi:10.1080/00401706.1982.10487790).

Legend: S seeds, N images, C options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from resomap.analysis.statistics.intervals import Estimate, difference_estimate, mean_estimate, seed_prior
from resomap.analysis.statistics.resampling import crossed_bootstrap
from resomap.analysis.statistics.seed_variance import SeedPrior
from resomap.analysis.tradeoff import front_probability, regret
from resomap.analysis.wording import (
    ALPHA,
    assumptions,
    held_back,
    needed_for,
    verdict_sentence,
    would_change,
    would_settle,
)

RECOMMEND, NONE_FITS, CANNOT_TELL = "recommend", "none fits", "cannot tell"


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
    reached = np.array([_reaches(option, budget, priors["select_SN"][option.model]) for option in options])
    eligible = fits & (reached == "yes")
    least = _least_means(options, priors["select_SN"])
    candidates = eligible if chance is None else eligible & (least > chance[0])
    affordable = fits if fits.any() else np.ones(len(options), bool)
    reference = _best(options, next((some for some in (candidates, eligible) if some.any()), affordable))
    quality_DC = crossed_bootstrap(np.stack([o.report_SN for o in options]), draws=draws, seed=seed, strata_N=labels_N)
    latency_DC = _latency_draws(options, draws=draws, seed=seed)
    on_front = front_probability(quality_DC, latency_DC)
    level = 1 - ALPHA / len({option.model for option in options})
    compared = [_difference(o, options[reference], "select_SN", priors["select_SN"]) for o in options]
    bounds = [d.one_sided_low(level) if i != reference else 0.0 for i, d in enumerate(compared)]
    passed = _fixed_sequence(options, bounds, reference, delta)
    assessed = tuple(
        Assessed(
            model=option.model,
            resolution=option.resolution,
            latency_ms=option.latency_ms,
            memory_mib=option.memory_mib,
            within_budget=bool(fits[i]),
            metric=mean_estimate(option.report_SN, prior=priors["report_SN"][option.model]),
            difference=compared[i],
            reported_difference=_difference(option, options[reference], "report_SN", priors["report_SN"]),
            lower_bound=max(-1.0, bounds[i]),
            not_inferior=bool(passed[i]),
            front_probability=float(on_front[i]),
            over_budget_probability=_over(latency_DC[:, i], budget.max_latency_ms),
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
        "warnings": tuple(warnings),
        "assumed": assumptions(options, delta, splits),
        "budget": {"max_latency_ms": budget.max_latency_ms, "max_memory_mib": budget.max_memory_mib,
                   "min_metric": budget.min_metric},
    }  # fmt: skip
    if not eligible.any():
        prior = priors["select_SN"][options[reference].model]
        return _nothing(options, fits, reached, reference, budget, prior, common)
    if chance is not None and not candidates.any():
        return _no_better_than_chance(options[reference], float(least[reference]), chance, common)
    usable = np.flatnonzero(candidates & passed).tolist()
    chosen = min(usable, key=lambda i: options[i].latency_ms)
    open_ones = [
        i for i in np.flatnonzero(candidates & ~passed).tolist()
        if options[i].latency_ms < options[chosen].latency_ms and compared[i].high >= -delta
    ]  # fmt: skip
    lost = regret(quality_DC, chosen, candidates)
    held = {i for i in open_ones if bounds[i] > -delta}  # by the sequence alone: no more data would change that
    promising = [i for i in open_ones if i not in held and compared[i].value >= -delta]
    better = _may_gain(options, eligible, chosen, reference, priors["select_SN"], delta)
    status = CANNOT_TELL if better or (promising and chosen == reference) else RECOMMEND
    return Recommendation(
        status=status,
        sentence=verdict_sentence(
            status == CANNOT_TELL, assessed, chosen, reference, (promising, better), delta, metric, splits, level
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
                else would_change(options[i], compared[i], delta, level, splits[0])
                for i in open_ones
            ),
            *(would_settle(options[i], gain, delta) for i, gain in better.items()),
        ),
        **common,
    )


def _fits(option: Option, budget: Budget) -> bool:
    slow = budget.max_latency_ms is not None and option.latency_ms > budget.max_latency_ms
    large = budget.max_memory_mib is not None and option.memory_mib > budget.max_memory_mib
    return not slow and not large


def _reaches(option: Option, budget: Budget, prior: SeedPrior | None) -> str:
    """Whether the least metric is reached: 'yes' where its one-sided bound is, 'maybe' where only its mean is."""
    if budget.min_metric is None:
        return "yes"
    found = mean_estimate(option.select_SN, level=1 - 2 * ALPHA, prior=prior)
    return "yes" if found.low >= budget.min_metric else ("maybe" if found.high >= budget.min_metric else "no")


def _best(options: Sequence[Option], allowed: np.ndarray) -> int:
    """The highest mean on the deciding split; the cheaper one among equals."""
    positions = [int(i) for i in np.flatnonzero(allowed)]
    return min(positions, key=lambda i: (-options[i].select_SN.mean(), options[i].latency_ms))


def _difference(option: Option, reference: Option, which: str, priors: Mapping[str, SeedPrior | None]) -> Estimate:
    prior, prior_of_b = priors[option.model], priors[reference.model]
    a_SN, b_SN = getattr(option, which), getattr(reference, which)
    return difference_estimate(a_SN, b_SN, prior=prior, prior_of_b=prior_of_b, same_runs=option is reference)


def _fixed_sequence(options: Sequence[Option], bounds: Sequence[float], reference: int, delta: float) -> np.ndarray:
    """(C,) bool: shown not to be inferior. Down each model's resolutions, up to the first that fails."""
    passed = np.zeros(len(options), bool)
    for model in {option.model for option in options}:
        order = sorted((i for i, o in enumerate(options) if o.model == model), key=lambda i: -options[i].resolution)
        if model == options[reference].model:
            # Larger ones than the reference cost more and are no better: they are no step of the sequence.
            for i in order:
                passed[i] = options[i].resolution > options[reference].resolution and bounds[i] > -delta
            order = [i for i in order if options[i].resolution <= options[reference].resolution]
        for i in order:
            if i != reference and not bounds[i] > -delta:
                break
            passed[i] = True
    return passed


def _least_means(options: Sequence[Option], priors: Mapping[str, SeedPrior | None]) -> np.ndarray:
    """(C,) lower bounds of the means on the deciding split that hold for all options together (Bonferroni)."""
    level = 1 - 2 * ALPHA / len(options)
    return np.array([mean_estimate(o.select_SN, level=level, prior=priors[o.model]).low for o in options])


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


def _latency_draws(options: Sequence[Option], *, draws: int, seed: int) -> np.ndarray:
    """(D, C) median latencies, the same rounds drawn for all."""
    rounds = min(len(option.latency_blocks_ms) for option in options)
    blocks = np.array([option.latency_blocks_ms[:rounds] for option in options])
    chosen = np.random.default_rng(seed).integers(blocks.shape[1], size=(draws, blocks.shape[1]))
    return np.median(blocks[:, chosen], axis=2).T


def _over(latency_D: np.ndarray, limit: float | None) -> float:
    return 0.0 if limit is None else float((latency_D > limit).mean())


def _nothing(
    options: Sequence[Option],
    fits: np.ndarray,
    reached: np.ndarray,
    reference: int,
    budget: Budget,
    prior: SeedPrior | None,
    common: dict[str, Any],
) -> Recommendation:
    """No option is within the budget and known to reach the least metric."""
    if not fits.any():
        cheapest = min(options, key=lambda o: o.latency_ms)
        smallest = min(options, key=lambda o: o.memory_mib)
        sentence = (
            f"No option fits the budget: the fastest is {cheapest.name} with {cheapest.latency_ms:.2f} ms, "
            f"the smallest {smallest.name} with {smallest.memory_mib:.1f} MiB."
        )
        return Recommendation(NONE_FITS, sentence, None, None, None, **common)
    best = options[reference]
    value = best.select_SN.mean()
    least = budget.min_metric
    has = f"{common['metric'].replace('_', ' ')} {value:.3f} on {common['select_split']}"
    if least is not None and (reached[fits] == "maybe").any():
        found = mean_estimate(best.select_SN, level=1 - 2 * ALPHA, prior=prior)
        needed = needed_for(found, abs(value - least), 1 - ALPHA)
        sentence = (
            f"Cannot tell: {best.name} has {has}, and its interval contains the {least} that is asked for; "
            f"{needed} would tell."
        )
        return Recommendation(CANNOT_TELL, sentence, None, None, best.name, **common)
    sentence = f"No option fits: the best within the budget, {best.name}, has {has}, below the {least} asked for."
    return Recommendation(NONE_FITS, sentence, None, None, best.name, **common)


def _no_better_than_chance(
    option: Option, least: float, chance: tuple[float, str], common: Mapping[str, Any]
) -> Recommendation:
    name, split = common["metric"].replace("_", " "), common["select_split"]
    sentence = (
        f"Cannot tell: no option is shown to be better than chance ({name} {chance[0]:.3f}, {chance[1]}). The best so "
        f"far, {option.name}, has {option.select_SN.mean():.3f} on {split} (at least {least:.3f}): train longer, or "
        "on more images."
    )
    return Recommendation(CANNOT_TELL, sentence, None, None, option.name, **common)
