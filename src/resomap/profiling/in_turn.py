"""Latency and throughput of several models and resolutions: the blocks of all, in both protocols, timed in turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from resomap.errors import DeviceError
from resomap.profiling.latency import (
    BATCH_1,
    SATURATED,
    LatencyRecord,
    paired_ratio,
    saturating_batch,
    summarise,
)
from resomap.profiling.modes import COMPILES, Deployed, deploy
from resomap.profiling.records import ProfilingPlan, Rounds, Subject
from resomap.profiling.timing import Call, Clock, Enough, clock_of, fastest, time_in_turn

_DRAWS_TO_GO_ON = 400
"""Of the bootstrap that is asked every few rounds for each model and resolution; what it finds narrow enough is looked
at with all draws before timing ends."""

_SEARCH_CALLS = 3
"""Of each batch that is tried for the throughput."""


@dataclass(frozen=True, slots=True)
class Timed:
    """What one way to deploy a subject came to."""

    latency: tuple[LatencyRecord, ...]
    """One for each protocol that it ran in."""
    unavailable: str | None
    """Why it cannot run."""


def time_mode(subjects: Sequence[Subject], mode: str, plan: ProfilingPlan, largest: Sequence[int]) -> list[Timed]:
    """Time one way to deploy all subjects.

    Args:
        largest: batch of each subject that the search for the throughput may try.
    Returns:
        One for each subject.
    """
    device = torch.device(plan.device)
    clock = clock_of(device)
    deployed, missing = _deploy_all(subjects, mode, device)

    def batch_in(protocol: str, i: int) -> tuple[int, bool]:
        """(images, whether more may be faster) of a subject's calls."""
        if protocol != SATURATED:
            return 1, False
        searched = _seconds_of(_searchable(subjects[i], deployed[i], mode, plan), subjects[i].resolution, clock)
        return saturating_batch(searched, largest=largest[i])

    groups: dict[str, list[_Prepared]] = {}
    for protocol in plan.protocols:
        left = {i: ready for i, ready in deployed.items() if i not in missing}
        groups[protocol], failed = _prepare(subjects, left, partial(batch_in, protocol))
        missing |= failed
    twice = _same_as_batch_1(subjects, groups.get(SATURATED, [])) if BATCH_1 in groups else {}
    groups = {p: [one for one in g if p == BATCH_1 or one.position not in twice] for p, g in groups.items()}
    groups = {protocol: group for protocol, group in groups.items() if group}
    times = time_in_turn(
        [[one.call for one in group] for group in groups.values()],
        clock=clock,
        blocks=plan.rounds.least,
        enough=None if plan.rounds.precision is None else _enough(subjects, list(groups.values()), plan.rounds),
        budget_s=math.inf if plan.rounds.budget_s is None else plan.rounds.budget_s,
        warmup=plan.warmup,
        shifted=device.type == "cpu",
    )
    found: list[list[LatencyRecord]] = [[] for _ in subjects]
    for (protocol, group), of_group in zip(groups.items(), times, strict=True):
        for one, seconds in zip(group, of_group, strict=True):
            record = summarise(seconds, protocol=protocol, mode=mode, batch_size=one.batch, at_least=one.at_least)
            found[one.position].append(record)
            if protocol == BATCH_1 and one.position in twice:
                found[one.position].append(replace(record, protocol=SATURATED, at_least=twice[one.position]))
    return [Timed(tuple(records), missing.get(i)) for i, records in enumerate(found)]


def _deploy_all(
    subjects: Sequence[Subject], mode: str, device: torch.device
) -> tuple[dict[int, Deployed], dict[int, str]]:
    """Position -> the deployed network, and position -> why there is none; a network is deployed once."""
    made: dict[int, Deployed | str] = {}
    for subject in subjects:
        if id(subject.network) not in made:
            try:
                made[id(subject.network)] = deploy(subject.network, mode, device=device)
            except DeviceError as wrong:
                made[id(subject.network)] = str(wrong)
    of_all = {i: made[id(subject.network)] for i, subject in enumerate(subjects)}
    return (
        {i: ready for i, ready in of_all.items() if not isinstance(ready, str)},
        {i: why for i, why in of_all.items() if isinstance(why, str)},
    )


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A subject that can be timed: its position among all, its batch, whether a larger one may be faster, the call."""

    position: int
    batch: int
    at_least: bool
    call: Call


def _same_as_batch_1(subjects: Sequence[Subject], saturated: Sequence[_Prepared]) -> dict[int, bool]:
    """Positions of the models that one image saturates at every resolution -> at_least of their throughput.

    Their calls are those of batch 1: the time is better spent on more rounds.
    """
    larger = {subjects[one.position].model for one in saturated if one.batch > 1}
    return {one.position: one.at_least for one in saturated if subjects[one.position].model not in larger}


def _prepare(
    subjects: Sequence[Subject], deployed: Mapping[int, Deployed], batch_of: Callable[[int], tuple[int, bool]]
) -> tuple[list[_Prepared], dict[int, str]]:
    """The calls of one protocol, and position -> why there is none.

    Args:
        deployed: position -> the network.
        batch_of: position -> (images, whether more may be faster).
    """
    group: list[_Prepared] = []
    failed: dict[int, str] = {}
    for i, ready in deployed.items():
        try:
            batch, at_least = batch_of(i)
            group.append(_Prepared(i, batch, at_least, ready(_images(batch, subjects[i].resolution))))
        except DeviceError as wrong:
            failed[i] = str(wrong)
    return group, failed


def _enough(subjects: Sequence[Subject], groups: Sequence[Sequence[_Prepared]], wanted: Rounds) -> Enough:
    """Whether every model's ratios to its smallest resolution are known as well as wanted."""

    def enough(number: int, times: list[np.ndarray]) -> bool:
        return known(number, times, draws=_DRAWS_TO_GO_ON) and known(number, times)

    def known(number: int, times: list[np.ndarray], **options: int) -> bool:
        of_model: dict[str, list[tuple[int, np.ndarray]]] = {}
        for one, seconds in zip(groups[number], times, strict=True):
            subject = subjects[one.position]
            of_model.setdefault(subject.model, []).append((subject.resolution, np.median(seconds, axis=1)))
        for sides in of_model.values():
            (_, smallest), *others = sorted(sides, key=lambda side: side[0])
            for _, blocks in others:
                ratio = paired_ratio(blocks, smallest, **options)
                if ratio.rounds < wanted.least or ratio.width > (wanted.precision or 0):
                    return False
        return True

    return enough


def _searchable(subject: Subject, ready: Deployed, mode: str, plan: ProfilingPlan) -> Deployed:
    """What the search for the saturating batch times: modes that compile for every shape are spared it."""
    if mode in COMPILES:
        return deploy(subject.network, "channels_last", device=torch.device(plan.device))
    return ready


def _seconds_of(ready: Deployed, resolution: int, clock: Clock) -> Callable[[int], float]:
    def seconds(batch: int) -> float:
        try:
            return fastest(ready(_images(batch, resolution)), clock=clock, calls=_SEARCH_CALLS)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            return math.inf

    return seconds


def _images(batch: int, resolution: int) -> Tensor:
    """One image of noise, repeated: the time of dense operations does not depend on the values."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, resolution, resolution, generator=generator).repeat(batch, 1, 1, 1)
