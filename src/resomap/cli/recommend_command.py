"""resomap recommend: which model and resolution to ship, how sure that is, and what would change it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from resomap.cli.options import study_config
from resomap.cli.tables import print_table
from resomap.errors import ConfigError
from resomap.printable import apart, counted, printable, share

if TYPE_CHECKING:
    from resomap.analysis.records import Assessed, Recommendation


def recommend(
    study: Annotated[Path, typer.Argument(help="A study's folder.")],
    max_latency_ms: Annotated[float | None, typer.Option(help="Median latency of one image at most.")] = None,
    max_memory_mib: Annotated[float | None, typer.Option(help="Peak memory of inference at most.")] = None,
    min_accuracy: Annotated[float | None, typer.Option(help="Least value of the metric.")] = None,
    delta: Annotated[
        float | None, typer.Option(help="Largest loss against the best that is accepted; default: the study's.")
    ] = None,
    metric: Annotated[
        Literal["accuracy", "balanced_accuracy", "macro_f1"] | None,
        typer.Option(help="What is to be kept high; default: the study's."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device whose cost counts, as `profile` named it; refused if it was another.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="Way to deploy whose latency counts; default: the first.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the answer with all figures here.")] = None,
) -> None:
    """One sentence, the evidence, the risk, what was assumed, and what would change it."""
    from resomap.analysis.records import Budget
    from resomap.serialize import check_writable, write_json
    from resomap.study import build
    from resomap.study.load import load_study
    from resomap.study.status import missing_runs_first
    from resomap.study.verdict.verdict import judge

    if delta is not None and not 0 < delta < 1:
        raise ConfigError(f"--delta: expected a share between 0 and 1 (0.01 is one point), got {delta:g}")
    for name, limit in (("--max-latency-ms", max_latency_ms), ("--max-memory-mib", max_memory_mib)):
        if limit is not None and not limit > 0:
            raise ConfigError(f"{name}: expected a number above 0, got {limit:g}")
    if min_accuracy is not None and not 0 <= min_accuracy < 1:
        raise ConfigError(f"--min-accuracy: expected a share from 0 to below 1 (0.9 is 90 %), got {min_accuracy:g}")
    check_writable(json)
    budget = Budget(max_latency_ms, max_memory_mib, min_accuracy)
    with missing_runs_first(study):
        opened = load_study(study)
    config = study_config(study, None, None, data=None, device=None)
    with missing_runs_first(study):
        found = judge(
            opened,
            metric=metric or build.table_metric(config),
            delta=build.accepted_loss(config) if delta is None else delta,
            stopped_margin=build.accepted_loss(config),
            budget=budget,
            mode=mode,
            device=device,
        )
    if json is not None:
        write_json(json, found)  # before anything is printed: who reads that may have seen enough (`| head -1`)
    print_recommendation(found)


def _difference(option: Assessed, delta: float) -> str:
    """'-0.004 (> -0.012)'"""
    return f"{option.difference.value:+z.3f} (> {apart(option.lower_bound, -delta, digits=3, sign='+')})"


def print_recommendation(found: Recommendation) -> None:
    """The sentence first, then what it rests on."""
    from resomap.analysis.wording import over_limit, the_best
    from resomap.metrics.classification import metric_name

    print(printable(found.sentence))
    rows = [
        [
            o.model,
            str(o.resolution),
            f"{share(o.metric.value)} ({share(o.metric.low)}-{share(o.metric.high)})",
            apart(o.latency_ms, found.budget.get("max_latency_ms"), digits=2),
            apart(o.memory_mib, found.budget.get("max_memory_mib"), digits=1),
            "best" if o.is_reference else _difference(o, found.delta),
            "yes" if o.not_inferior else "no",
            f"{o.front_probability:.2f}",
            ("yes" if o.within_budget else "no")
            + (f" (over: {o.over_budget_probability:.0%})" if 0.01 < o.over_budget_probability < 0.99 else ""),
        ]
        for o in found.options
    ]
    name = metric_name(found.metric)
    best = the_best((o.within_budget, o.difference.value) for o in found.options)
    against = f"against best{' in budget' if best != 'the best' else ''} (> {100 * found.bound_level:.3g} %)"
    columns = ["model", "side", f"{name}, 95 %", "ms", "MiB", against, "enough", "P(front)", "fits"]
    title = f"{name} on {found.report_split} ({counted(found.images, 'image')}, {counted(found.seeds, 'seed')})"
    print_table(f"{title}; differences on {found.select_split}", columns, rows)
    if found.expected_regret is not None:
        chosen = next(o for o in found.options if (o.model, o.resolution) == (found.model, found.resolution))
        over = over_limit(chosen.over_budget_probability, found.budget["max_latency_ms"])
        print(
            f"risk: expected loss against {best} {found.expected_regret:.4f}, 95 % of the time below "
            f"{found.regret_95:.4f}{over and f'; {over}'}"
        )
    for line in found.would_change:
        print(f"would change it: {line}")
    print(f"assumed: {'; '.join(found.assumed)}")
    for line in found.warnings:
        print(f"warning: {line}")
