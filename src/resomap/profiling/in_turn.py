"""Latency and throughput of several models and resolutions: the blocks of all, in both protocols, timed in turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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


def time_mode(
    subjects: Sequence[Subject],
    mode: str,
    plan: ProfilingPlan,
    largest: Sequence[int],
    *,
    found: list[list[LatencyRecord]],
    missing: list[dict[str, str]],
) -> None:
    """Time one way to deploy all subjects.

    Args:
        largest: batch of each subject that the search for the throughput may try.
        found, missing: of each subject; the records, and mode -> why it cannot run, are put there.
    """
    device = torch.device(plan.device)
    deployed = _deploy_all(subjects, mode, device, missing)
    clock = clock_of(device)
    groups = {p: _prepare(subjects, deployed, p, mode, plan, largest, clock, missing) for p in plan.protocols}
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
    for (protocol, group), of_group in zip(groups.items(), times, strict=True):
        for one, seconds in zip(group, of_group, strict=True):
            record = summarise(seconds, protocol=protocol, mode=mode, batch_size=one.batch, at_least=one.at_least)
            found[one.position].append(record)
            if protocol == BATCH_1 and one.position in twice:
                found[one.position].append(replace(record, protocol=SATURATED, at_least=twice[one.position]))


def _deploy_all(
    subjects: Sequence[Subject], mode: str, device: torch.device, missing: list[dict[str, str]]
) -> list[Deployed | None]:
    """One deployed network for each subject; resolutions that share a network share the deployed one."""
    made: dict[int, Deployed | None] = {}
    result: list[Deployed | None] = []
    for i, subject in enumerate(subjects):
        if id(subject.network) not in made:
            try:
                made[id(subject.network)] = deploy(subject.network, mode, device=device)
            except DeviceError as wrong:
                missing[i][mode] = str(wrong)
                made[id(subject.network)] = None
        result.append(made[id(subject.network)])
        if result[-1] is None and mode not in missing[i]:
            missing[i][mode] = next(m[mode] for m in missing if mode in m)
    return result


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
    subjects: Sequence[Subject],
    deployed: Sequence[Deployed | None],
    protocol: str,
    mode: str,
    plan: ProfilingPlan,
    largest: Sequence[int],
    clock: Clock,
    missing: list[dict[str, str]],
) -> list[_Prepared]:
    """The calls of one protocol, of all subjects that can run in this mode."""
    group: list[_Prepared] = []
    for i, (subject, ready) in enumerate(zip(subjects, deployed, strict=True)):
        if ready is None or mode in missing[i]:
            continue
        try:
            batch, at_least = 1, False
            if protocol == SATURATED:
                searched = _seconds_of(_searchable(subject, ready, mode, plan), subject.resolution, clock)
                batch, at_least = saturating_batch(searched, largest=largest[i])
            group.append(_Prepared(i, batch, at_least, ready(_images(batch, subject.resolution))))
        except DeviceError as wrong:
            missing[i][mode] = str(wrong)
    return group


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
