"""What weakens a verdict, in words that stand beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from resomap.analysis.records import Option
from resomap.analysis.statistics.intervals import difference_estimate, seed_prior
from resomap.analysis.wording import few_images
from resomap.metrics.classification import metric_name
from resomap.printable import counted
from resomap.profiling.latency import BATCH_1
from resomap.study.costs.cost import mode_gaps
from resomap.study.load import Study
from resomap.study.runs import stopped_in_words
from resomap.study.verdict.left_out import left_out


def warnings_of(study: Study, options: Sequence[Option], metric: str, delta: float) -> Iterator[str]:
    """One line each: one seed, too few images, runs that still improved, what was left out, what the plan warned of."""
    yield from study.about["notes"]
    yield from left_out(study)
    improving = [str(record.cell) for record in study.runs if record.still_improving]
    if improving:
        was = "was best in its" if len(improving) == 1 else "were best in their"
        yield (
            f"{len(improving)} of {counted(len(study.runs), 'run')} {was} last epochs ({', '.join(improving[:3])}"
            f"{' ...' if len(improving) > 3 else ''}): longer training may change the order"
        )
    if study.stopped:
        yield f"stopped early, shown to be dominated, and not assessed: {stopped_in_words(study.stopped)}"
    ranked = {(o.model, o.resolution) for o in options}
    used = [p for p in study.profiles if (p["model"], p["resolution"]) in ranked]
    for mode, where in mode_gaps(used, BATCH_1).items():
        yield f"latency in mode {mode} is not compared, since it was not timed at {where}"
    model = options[0].model
    for split in dict.fromkeys(study.splits):
        labels, _ = study.stack(model, split, seeds=[study.grid[model][1][0]])
        yield from few_images(labels, study.class_names, split)
    seeds, images = options[0].select_SN.shape
    if seeds == 1:
        yield "one seed: how much another seed would change is not known, and intervals do not contain it"
    least = _told_apart(options)
    if least is not None and least > 2 * delta:
        yield (
            f"{images} images in {study.splits[0]} and {counted(seeds, 'seed')} tell differences of "
            f"{metric_name(metric)} of about {least:.2g} apart (80 % power), not {delta:g}"
        )


def _told_apart(options: Sequence[Option]) -> float | None:
    """Difference between neighbouring resolutions on the deciding split that is told from 0 in 80 % of studies.

    None where no model has two. The median over pairs of (t at 97.5 % + t at 80 %) standard errors, at most 1.
    """
    least = []
    for model in {option.model for option in options}:
        of_model = [option for option in options if option.model == model]
        prior = seed_prior([option.select_SN for option in of_model])
        for low, high in pairwise(of_model):
            found = difference_estimate(high.select_SN, low.select_SN, prior=prior, heaviest=high.heaviest[0])
            least.append(2 * found.value - found.one_sided_low(0.975) - found.one_sided_low(0.8))
    return min(1.0, float(np.median(least))) if least else None
