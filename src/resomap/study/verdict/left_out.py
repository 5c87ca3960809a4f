"""What was planned or run and the verdict does not rest on, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from resomap.printable import counted, listed
from resomap.study.load import Study


def left_out(study: Study) -> Iterator[str]:
    """Failed and unfinished runs; models, resolutions and seeds that are not compared, and for want of what."""
    yield from _unfinished(study)
    for model, sides in study.seeds.items():
        if model in study.grid:
            yield from _within(model, sides, *study.grid[model])
        else:
            yield f"{model} is left out: none of its seeds is finished at two resolutions ({_listed(sides)} px)"
    yield from _between(study)


def _unfinished(study: Study) -> Iterator[str]:
    states: dict[str, list[str]] = {}
    options: dict[str, None] = {}
    for cell, state in study.unfinished.items():
        states.setdefault("failed" if state == "failed" else "not finished", []).append(str(cell))
        if (cell.model, cell.resolution) not in study.stopped and cell.resolution not in study.seeds.get(
            cell.model, {}
        ):
            options[f"{cell.model} @{cell.resolution}"] = None
    for state, cells in sorted(states.items()):
        runs = f"{counted(len(cells), 'run')} {state} and not assessed"
        yield f"{runs} (`resomap status` says more): {listed(cells, most=6)}"
    if options:
        yield f"left out, since no run of them is finished: {', '.join(options)}"


def _within(
    model: str, sides: dict[int, frozenset[int]], resolutions: tuple[int, ...], shared: tuple[int, ...]
) -> Iterator[str]:
    for side, seeds in sides.items():
        if side not in resolutions:
            yield (f"{model} @{side} is left out: it has {_seeds(sorted(seeds))}; without it {_compared(shared)}")
    yield from _lacking(model, {f"@{side}": sides[side] for side in resolutions}, shared)


def _between(study: Study) -> Iterator[str]:
    models, shared = study.compared
    for model, (_, seeds) in study.grid.items():
        if model not in models:
            yield (f"{model} is left out of the recommendation: it has {_seeds(seeds)}; without it {_compared(shared)}")
    own = {model: frozenset(study.grid[model][1]) for model in models}
    yield from _lacking("models together", own, shared)


def _lacking(where: str, seeds_of: dict[str, frozenset[int]], shared: Iterable[int]) -> Iterator[str]:
    """Seeds that some have and not all, by who lacks them."""
    lacking: dict[tuple[str, ...], list[int]] = {}
    for seed in sorted(frozenset().union(*seeds_of.values()) - frozenset(shared)):
        lacking.setdefault(tuple(name for name, own in seeds_of.items() if seed not in own), []).append(seed)
    for names, seeds in lacking.items():
        yield f"{where}: {_seeds(seeds)} left out, not finished by {_listed(names)}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {_listed(seeds)}"


def _compared(seeds: Sequence[int]) -> str:
    return f"{_seeds(seeds)} {'is' if len(seeds) == 1 else 'are'} compared"


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
