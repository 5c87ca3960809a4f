"""Which cell next: the longest first, so that no worker is left alone with a long one at the end.

List scheduling, longest processing time first, ends within 4/3 - 1/(3 W) of the best possible on W equal workers
(Graham 1969, SIAM J. Appl. Math. 17(2), 416-429).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence

from resomap.config.schema import ResoMapConfig
from resomap.errors import ResolutionError
from resomap.records import Cell
from resomap.study import build

_UNCOUNTED_MACS = 1e15
"""More than any model has: what cannot be predicted is not left for the end."""


def longest_first(cells: Iterable[Cell], cost: Callable[[Cell], float]) -> list[Cell]:
    """The cells by falling cost; equal ones stay in the order they came in."""
    return sorted(cells, key=cost, reverse=True)


def makespan(costs: Sequence[float], workers: int) -> float:
    """When the last of `workers` is done if each takes the next of `costs` as soon as it is free."""
    free_at = [0.0] * workers
    for cost in costs:
        heapq.heapreplace(free_at, free_at[0] + cost)
    return max(free_at)


def lower_bound(costs: Sequence[float], workers: int) -> float:
    """No schedule ends earlier: all workers busy throughout, and the longest cell is one worker's."""
    return max(sum(costs) / workers, max(costs))


def seed_by_seed(cells: Iterable[Cell], cost: Callable[[Cell], float]) -> list[Cell]:
    """Whole seeds in the order they came in, the longest cells first within each.

    For one worker, whose time no order changes: a study cut short has whole comparisons, and what needs the most
    memory is tried first.
    """
    cells = list(cells)
    turn = {seed: number for number, seed in enumerate(dict.fromkeys(cell.seed for cell in cells))}
    return sorted(cells, key=lambda cell: (turn[cell.seed], -cost(cell)))


def predicted_cost(
    config: ResoMapConfig, *, num_classes: int, epochs: Callable[[Cell], int] = lambda _: 1
) -> Callable[[Cell], float]:
    """Cell -> predicted work relative to the study's other cells.

    All cells of a study see the same images, so what differs is their epochs (where the budget is compute_matched) and
    the multiply-accumulates of an image: counted on shapes at the smallest side, and in proportion to the pixels from
    there (as convolutions are, and as `resomap plan` scales its timing). A model that cannot be counted comes first.
    """
    grid = build.cells(config)
    if len({cell.model for cell in grid}) == 1:
        return lambda cell: float(cell.resolution**2 * epochs(cell))
    smallest = min(cell.resolution for cell in grid)
    macs: dict[str, float] = {}

    def cost(cell: Cell) -> float:
        if cell.model not in macs:
            macs[cell.model] = _macs(config, Cell(cell.model, smallest, 0), num_classes=num_classes)
        return macs[cell.model] * cell.resolution**2 * epochs(cell)

    return cost


def _macs(config: ResoMapConfig, cell: Cell, *, num_classes: int) -> float:
    from resomap.profiling.complexity import get_model_complexity

    network = build.model_on_meta(config, cell, num_classes=num_classes)
    try:
        return get_model_complexity(network, (1, 3, cell.resolution, cell.resolution)).macs
    except ResolutionError:
        return _UNCOUNTED_MACS
