"""Which option to ship: the cheapest that is shown not to be worse than the best by more than a margin.

An option is a model at a resolution. The choice is made on one split (val), evidence is given from another (test) that
was not looked at before. Non-inferiority is tested down each model's resolutions from its most expensive one, and stops
at the first that fails: a fixed sequence, which errs at most as often as one test (Maurer, Hothorn and Lehmacher 1995;
margin and one-sided bound as in Piaggio et al. 2012, doi:10.1001/jama.2012.87802); several models share the level
(Bonferroni). Whether a least metric is reached is tested in the same order, but none that fails ends it: the fallback
procedure (statistics/noninferiority.py). The best is the highest mean on val, perhaps by chance: every other option
that is dearer must be shown not to gain more than the margin over what is to be shipped (all of them, so each at the
full level: Berger 1982, doi:10.1080/00401706.1982.10487790).

Of options whose latencies differ by less than 5 %, and are not shown to, the better one is shipped.

Legend: S seeds, N images, C options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from resomap.analysis import needed
from resomap.analysis.least_metric import Priors, may_reach, reached
from resomap.analysis.records import (
    ALPHA,
    CANNOT_TELL,
    NONE_FITS,
    RECOMMEND,
    Assessed,
    Budget,
    Doubts,
    Option,
    Question,
    Recommendation,
    StoppedOption,
)
from resomap.analysis.statistics.intervals import Estimate, difference_estimate, mean_estimate, seed_prior
from resomap.analysis.statistics.noninferiority import fixed_sequence, largest_first
from resomap.analysis.statistics.resampling import crossed_bootstrap
from resomap.analysis.tradeoff import front_probability, latency_draws, regret
from resomap.analysis.wording import (
    assumptions,
    held_back,
    least_metric_sentence,
    no_better_than_chance_sentence,
    none_fits_sentence,
    stopped_may_do,
    verdict_sentence,
    would_change,
    would_settle,
)
from resomap.profiling.latency import paired_ratio

_ALIKE = 1.05
"""Ratio of latencies below which noise may be all that differs."""


@dataclass(frozen=True, slots=True, eq=False)
class _Decision:
    """What is known on the split that decides; arrays and positions are those of the options."""

    question: Question
    options: Sequence[Option]
    select_priors: Priors
    """What is known of seeds on the deciding split, by model."""
    report_priors: Priors
    """What is known of seeds on the reporting split, by model."""
    fits_C: np.ndarray
    """bool: within the limits of latency and memory."""
    errors_C: np.ndarray
    """Error at which each was tested for the least metric."""
    eligible_C: np.ndarray
    """bool: fits, and is shown to reach the least metric."""
    least_C: np.ndarray
    """What each has at least, all together."""
    candidates_C: np.ndarray
    """bool: eligible, and shown to beat chance."""
    reference: int
    """Position of the best one."""
    level: float
    """One-sided level of a bound of one difference."""
    differences: Sequence[Estimate]
    """Option less reference."""
    bounds: Sequence[float]
    """Lower bounds of the differences."""
    passed_C: np.ndarray
    """bool: shown not to be inferior to the reference."""

    @property
    def best(self) -> Option:
        """The reference."""
        return self.options[self.reference]


@dataclass(frozen=True, slots=True)
class _Uncertainty:
    """What is open once one is chosen."""

    cheaper: Sequence[int]
    """Positions of options that are shown to be faster than the chosen one."""
    doubts: Doubts | None
    """None: it can be told."""
    would_change: tuple[str, ...]


def recommend(
    options: Sequence[Option],
    *,
    budget: Budget | None = None,
    delta: float = 0.01,
    metric: str = "accuracy",
    splits: tuple[str, str] = ("val", "test"),
    labels_N: np.ndarray | None = None,
    chance: tuple[float, str] | None = None,
    stopped: Sequence[StoppedOption] = (),
    stopped_margin: float | None = None,
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
        stopped: options that are not assessed, since a run of them was stopped as dominated.
        stopped_margin: by more than which those were shown to be worse than the best run; None: delta.
    """
    margin = delta if stopped_margin is None else stopped_margin
    question = Question(budget or Budget(), delta, metric, *splits, stopped, margin)
    decision = _decide(options, question, chance)
    quality_DC = crossed_bootstrap(
        np.stack([o.report_SN for o in options]),
        draws=draws,
        seed=seed,
        strata_N=labels_N,
        priors=[decision.report_priors[o.model] for o in options],
    )
    latency_DC = latency_draws([option.latency_blocks_ms for option in options], draws=draws, seed=seed)
    assessed = _assess(decision, quality_DC, latency_DC)
    common: dict[str, Any] = {
        "metric": metric,
        "delta": delta,
        "select_split": question.select_split,
        "report_split": question.report_split,
        "images": options[0].report_SN.shape[1],
        "seeds": options[0].report_SN.shape[0],
        "options": assessed,
        "bound_level": decision.level,
        "warnings": tuple(warnings),
        "assumed": assumptions(options, question),
        "budget": asdict(question.budget),
    }
    if not decision.eligible_C.any():
        return _nothing(decision, common)
    if chance is not None and not decision.candidates_C.any():
        sentence = no_better_than_chance_sentence(
            decision.best,
            least=float(decision.least_C[decision.reference]),
            chance=chance,
            question=question,
            beyond=[o for i, o in enumerate(options) if not decision.fits_C[i] and decision.least_C[i] > chance[0]],
        )
        return Recommendation(CANNOT_TELL, sentence, None, None, decision.best.name, **common)
    chosen = _choose(options, decision.candidates_C & decision.passed_C)
    open_points = _uncertainty(decision, chosen)
    lost = regret(quality_DC, chosen, decision.eligible_C)  # not shown to beat chance is not shown to lose
    return Recommendation(
        status=CANNOT_TELL if open_points.doubts else RECOMMEND,
        sentence=verdict_sentence(
            assessed, question, chosen=chosen, cheaper=open_points.cheaper, doubts=open_points.doubts
        ),
        model=options[chosen].model,
        resolution=options[chosen].resolution,
        reference=decision.best.name,
        expected_regret=lost[0],
        regret_95=lost[1],
        would_change=open_points.would_change,
        **common,
    )


def _decide(options: Sequence[Option], question: Question, chance: tuple[float, str] | None) -> _Decision:
    models, sides = [option.model for option in options], [option.resolution for option in options]
    select_priors = {m: seed_prior([o.select_SN for o in options if o.model == m]) for m in dict.fromkeys(models)}
    report_priors = {m: seed_prior([o.report_SN for o in options if o.model == m]) for m in dict.fromkeys(models)}
    fits = np.array([_fits(option, question.budget) for option in options])
    enough, errors = reached(options, fits, question.budget.min_metric, select_priors)
    eligible = fits & enough
    least = _least_means(options, select_priors)
    candidates = eligible if chance is None else eligible & (least > chance[0])
    affordable = fits if fits.any() else np.ones(len(options), bool)
    reference = _best(options, next((some for some in (candidates, eligible) if some.any()), affordable))
    level = 1 - ALPHA / len(set(models))
    differences = [_difference(o, options[reference], "select_SN", select_priors) for o in options]
    bounds = [d.one_sided_low(level) if i != reference else 0.0 for i, d in enumerate(differences)]
    return _Decision(
        question=question,
        options=options,
        select_priors=select_priors,
        report_priors=report_priors,
        fits_C=fits,
        errors_C=errors,
        eligible_C=eligible,
        least_C=least,
        candidates_C=candidates,
        reference=reference,
        level=level,
        differences=differences,
        bounds=bounds,
        passed_C=fixed_sequence(models, sides, bounds, reference=reference, margin=question.delta),
    )


def _assess(decision: _Decision, quality_DC: np.ndarray, latency_DC: np.ndarray) -> tuple[Assessed, ...]:
    """Every option beside the reference.

    Args:
        quality_DC, latency_DC: draws of the metric on the reporting split, and of the median latency.
    """
    limit = decision.question.budget.max_latency_ms
    over = (latency_DC > (np.inf if limit is None else limit)).mean(axis=0)
    on_front = front_probability(quality_DC, latency_DC)
    priors = decision.report_priors
    return tuple(
        Assessed(
            model=option.model,
            resolution=option.resolution,
            latency_ms=option.latency_ms,
            memory_mib=option.memory_mib,
            within_budget=bool(decision.fits_C[i]),
            is_reference=i == decision.reference,
            metric=mean_estimate(option.report_SN, prior=priors[option.model], heaviest=option.heaviest[1]),
            difference=decision.differences[i],
            reported_difference=_difference(option, decision.best, "report_SN", priors),
            lower_bound=max(-1.0, decision.bounds[i]),
            not_inferior=bool(decision.passed_C[i]),
            front_probability=float(on_front[i]),
            over_budget_probability=float(over[i]),
        )
        for i, option in enumerate(decision.options)
    )


def _uncertainty(decision: _Decision, chosen: int) -> _Uncertainty:
    """Which cheaper options may do and which dearer ones may gain, and what would tell."""
    options, delta, passed = decision.options, decision.question.delta, decision.passed_C
    compared, split = decision.differences, decision.question.select_split
    cheaper = [i for i, option in enumerate(options) if _slower(options[chosen], option)]
    open_ones = [i for i in cheaper if decision.candidates_C[i] and not passed[i] and compared[i].high >= -delta]
    held = {i for i in open_ones if decision.bounds[i] > -delta}  # by the sequence alone: no data would change that
    promising = [i for i in open_ones if i not in held and compared[i].value >= -delta]
    alone = {i: needed.for_difference(d, d.value + delta, decision.level) for i, d in enumerate(compared)}
    needs = {i: needed.most(alone[k] for k in _not_passed_until(decision, i)) for i in promising}
    better = _may_gain(decision, chosen)
    settled = {i: needed.for_difference(gain, delta - gain.value, 1 - ALPHA) for i, gain in better.items()}
    stopped = _stopped_that_may_do(decision, chosen)
    is_best = chosen == decision.reference
    doubts = Doubts(needs if is_best else {}, settled, stopped if is_best else ())
    return _Uncertainty(
        cheaper=cheaper,
        doubts=doubts if doubts.cheaper or doubts.dearer or doubts.stopped else None,
        would_change=(
            *(
                held_back(options[i], delta)
                if i in held
                else would_change(options[i], compared[i], delta, needs.get(i), split)
                for i in open_ones
            ),
            *(stopped_may_do(option, decision.question.stopped_margin) for option in stopped),
            *(would_settle(options[i], need, delta, split) for i, need in settled.items()),
        ),
    )


def _stopped_that_may_do(decision: _Decision, chosen: int) -> list[StoppedOption]:
    """Cheaper ones, where being worse than the best run by what they were stopped for rules none out.

    That is so where more may be lost, and where the best of all is not what others are compared with.
    """
    question, means = decision.question, [option.select_SN.mean() for option in decision.options]
    if question.delta <= question.stopped_margin and means[decision.reference] >= max(means):
        return []
    limit = decision.options[chosen].latency_ms
    fitting = [option for option in question.stopped if _fits(option, question.budget)]
    return [option for option in fitting if option.latency_ms is None or option.latency_ms < limit]


def _fits(option: Option | StoppedOption, budget: Budget) -> bool:
    """Whether it is within the limits, as far as is known."""
    limits = (option.latency_ms, budget.max_latency_ms), (option.memory_mib, budget.max_memory_mib)
    return all(value is None or limit is None or value <= limit for value, limit in limits)


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


def _difference(option: Option, reference: Option, which: str, priors: Priors) -> Estimate:
    prior, prior_of_b = priors[option.model], priors[reference.model]
    a_SN, b_SN = getattr(option, which), getattr(reference, which)
    heaviest = option.heaviest[which == "report_SN"]
    return difference_estimate(
        a_SN, b_SN, prior=prior, prior_of_b=prior_of_b, same_runs=option is reference, heaviest=heaviest
    )


def _not_passed_until(decision: _Decision, i: int) -> list[int]:
    """An option and the larger sizes of its model that must pass before it and have not."""
    options = decision.options
    order = largest_first([o.model for o in options], [o.resolution for o in options], options[i].model)
    if decision.reference in order:
        order = order[order.index(decision.reference) + 1 :]
    return [k for k in order[: order.index(i) + 1] if not decision.passed_C[k]]


def _least_means(options: Sequence[Option], priors: Priors) -> np.ndarray:
    """(C,) lower bounds of the means on the deciding split that hold for all options together (Bonferroni)."""
    level = 1 - 2 * ALPHA / len(options)
    found = [mean_estimate(o.select_SN, level=level, prior=priors[o.model], heaviest=o.heaviest[0]) for o in options]
    return np.array([one.low for one in found])


def _may_gain(decision: _Decision, chosen: int) -> dict[int, Estimate]:
    """Dearer options, but the reference, that are not shown to gain at most delta over the chosen one: their gains."""
    options, ship = decision.options, decision.options[chosen]
    dearer = [i for i in np.flatnonzero(decision.eligible_C).tolist() if options[i].latency_ms > ship.latency_ms]
    gains = {
        i: _difference(options[i], ship, "select_SN", decision.select_priors) for i in dearer if i != decision.reference
    }
    return {i: gain for i, gain in gains.items() if gain.one_sided_high(1 - ALPHA) > decision.question.delta}


def _nothing(decision: _Decision, common: Mapping[str, Any]) -> Recommendation:
    """No option is within the budget and known to reach the least metric."""
    options, least = decision.options, decision.question.budget.min_metric
    if not decision.fits_C.any() or least is None:
        within = [option for option in decision.question.stopped if _fits(option, decision.question.budget)]
        sentence = none_fits_sentence(options, decision.question, stopped=within)
        return Recommendation(NONE_FITS, sentence, None, None, decision.best.name, **common)
    open_one = may_reach(options, decision.fits_C, decision.errors_C, least, decision.select_priors)
    named, need = open_one or (decision.best, None)
    sentence = least_metric_sentence(named, least=least, need=need, question=decision.question)
    status = NONE_FITS if need is None else CANNOT_TELL
    return Recommendation(status, sentence, None, None, decision.best.name, **common)
