"""How much longer than the lower bound a study takes on W equal workers, in grid order and longest first.

    python benchmarks/schedule.py

No worker runs: the default grid (13 models x 5 resolutions x 3 seeds) is scheduled by the multiply-accumulates that the
study predicts. `off by up to 2x`: the order is the predicted one, but each model's true speed differs from its
prediction by a random factor between 1/2 and 2 (median and worst of 200 draws).
"""

from __future__ import annotations

import random
from statistics import median

from resomap.config.schema import ResoMapConfig
from resomap.study import build
from resomap.study.costs.schedule import longest_first, lower_bound, makespan, predicted_cost, seed_by_seed

WORKERS = (1, 2, 4, 8, 16, 32, 64)
DRAWS = 200


def main() -> None:
    config = ResoMapConfig()
    predict = predicted_cost(config, num_classes=2)
    grid = build.cells(config)
    cost = {cell: predict(cell) for cell in grid}
    orders = {
        "grid": grid,
        "seed by seed": seed_by_seed(grid, cost.__getitem__),
        "longest first": longest_first(grid, cost.__getitem__),
    }
    print(f"{len(grid)} cells; makespan / max(total / W, longest cell)")
    print(f"{'workers':>7}" + "".join(f"{name:>15}" for name in orders) + f"{'off by up to 2x':>20}")
    for workers in WORKERS:
        bound = lower_bound(list(cost.values()), workers)
        ratios = [makespan([cost[cell] for cell in order], workers) / bound for order in orders.values()]
        wrong = sorted(_with_wrong_predictions(orders["longest first"], cost, workers, draw) for draw in range(DRAWS))
        print(
            f"{workers:>7}"
            + "".join(f"{ratio:>15.3f}" for ratio in ratios)
            + f"{f'{median(wrong):.3f} ({wrong[-1]:.3f})':>20}"
        )


def _with_wrong_predictions(order: list, cost: dict, workers: int, draw: int) -> float:
    """The ratio where each model is faster or slower than predicted."""
    rng = random.Random(draw)
    factor = {model: 2 ** rng.uniform(-1, 1) for model in sorted({cell.model for cell in order})}
    true = [cost[cell] * factor[cell.model] for cell in order]
    return makespan(true, workers) / lower_bound(true, workers)


if __name__ == "__main__":
    main()
