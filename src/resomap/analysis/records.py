"""What the recommendation is given and what it answers.

Legend: S seeds, N images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from resomap.analysis.needed import Need
from resomap.analysis.statistics.intervals import Estimate

RECOMMEND, NONE_FITS, CANNOT_TELL = "recommend", "none fits", "cannot tell"
"""A recommendation's status."""

ALPHA = 0.05
"""Error that a one-sided statement of the recommendation may have."""


@dataclass(frozen=True, slots=True, eq=False)
class Option:
    """A model at a resolution with what it achieves and costs."""

    model: str
    resolution: int
    select_SN: np.ndarray
    """Metric values by seed and image of the split that decides."""
    report_SN: np.ndarray
    """Metric values by seed and image of the split that is reported."""
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
        """The option for people: 'resnet18 at 96 px'."""
        return option_name(self.model, self.resolution)


@dataclass(frozen=True, slots=True)
class StoppedOption:
    """A model at a resolution that is not assessed, since a run of it was stopped as dominated."""

    model: str
    resolution: int
    latency_ms: float | None
    """Median at batch 1; None: not profiled."""
    memory_mib: float | None
    """Peak of inference, one image; None: not profiled."""

    @property
    def name(self) -> str:
        """The option for people: 'resnet18 at 96 px'."""
        return option_name(self.model, self.resolution)


def option_name(model: str, resolution: int) -> str:
    """'resnet18 at 96 px'."""
    return f"{model} at {resolution} px"


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent and must be reached; None: no limit."""

    max_latency_ms: float | None = None
    max_memory_mib: float | None = None
    min_metric: float | None = None
    """Below 1: that every new image is answered right is never shown."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the options."""

    budget: Budget
    delta: float
    """Largest loss of the metric that is accepted."""
    metric: str
    select_split: str
    """Split that decides."""
    report_split: str
    """Split that is reported."""
    stopped: Sequence[StoppedOption] = ()
    stopped_margin: float = 0.0
    """A run was stopped where it was shown to be worse than the best one by more than this."""


@dataclass(frozen=True, slots=True)
class Assessed:
    """One option beside the reference."""

    model: str
    resolution: int
    latency_ms: float
    memory_mib: float
    within_budget: bool
    is_reference: bool
    """Whether it is what the others are compared with."""
    metric: Estimate
    """Metric on the reporting split."""
    difference: Estimate
    """Option less reference, on the deciding split."""
    reported_difference: Estimate
    """Option less reference, on the reporting split."""
    lower_bound: float
    """One-sided bound of the difference on the deciding split."""
    not_inferior: bool
    front_probability: float
    """Probability of lying on the Pareto front of metric and latency."""
    over_budget_probability: float
    """Probability that the median latency exceeds the budget; 0 without one."""

    @property
    def name(self) -> str:
        """The option for people: 'resnet18 at 96 px'."""
        return option_name(self.model, self.resolution)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer with its evidence."""

    status: str
    """RECOMMEND, NONE_FITS or CANNOT_TELL."""
    sentence: str
    model: str | None
    resolution: int | None
    reference: str | None
    metric: str
    delta: float
    select_split: str
    report_split: str
    images: int
    """Number of images of the reporting split."""
    seeds: int
    options: tuple[Assessed, ...]
    bound_level: float
    """Level of each option's lower_bound, one-sided."""
    expected_regret: float | None = None
    regret_95: float | None = None
    would_change: tuple[str, ...] = ()
    """What would change the answer."""
    assumed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    budget: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Doubts:
    """What keeps a choice from being sure, by position, each with what would settle it."""

    cheaper: Mapping[int, Need]
    """Options that may do."""
    dearer: Mapping[int, Need]
    """Options that may gain more than delta."""
    stopped: Sequence[StoppedOption] = ()
    """Options that may do, and were not trained to their end."""
