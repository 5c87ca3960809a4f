"""resomap run and resomap train."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from resomap.cli.live import make_progress
from resomap.cli.options import DiscardOption, ExecutorOption, GridFlags, RayAddressOption, grid_flags
from resomap.cli.tables import known_answers_text, results_text
from resomap.config.schema import ResoMapConfig
from resomap.printable import printable

if TYPE_CHECKING:
    from resomap.study.sweep import StudyResult


@grid_flags
def run(
    flags: GridFlags,
    executor: ExecutorOption = None,
    ray_address: RayAddressOption = None,
    discard_changed: DiscardOption = False,
) -> None:
    """Train and evaluate the grid models x resolutions x seeds; run it again to go on where it stopped."""
    resolved = flags.resolved({"system.executor": executor, "system.ray_address": ray_address})
    run_and_print(resolved, discard_changed=discard_changed)


@partial(grid_flags, without=("models", "resolutions", "seeds"))
def train(
    flags: GridFlags,
    model: Annotated[str, typer.Option("--model", "-m", help="Model name.")],
    resolution: Annotated[int, typer.Option("--resolution", "-r", help="Side in pixels.")],
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    discard_changed: DiscardOption = False,
) -> None:
    """Train and evaluate one model at one resolution with one seed."""
    cell = {"sweep.models": model, "sweep.resolutions": str(resolution), "sweep.seeds": str(seed)}
    run_and_print(flags.resolved(cell), discard_changed=discard_changed)


def run_and_print(config: ResoMapConfig, *, discard_changed: bool) -> None:
    """Run the study with progress; print its tables. Exit status 1 if a run failed, 130 if stopped."""
    from resomap.study import build
    from resomap.study.finished import finished_study, remember_finished

    try:
        finished = finished_study(config)
        if finished is not None:
            with make_progress() as progress:
                for note in finished.notes:
                    progress.note(note)
                progress.study_started(finished.cells, finished=len(finished.cells))
            print(finished.closing, end="")
            return
        with make_progress() as progress:
            with build.executor(config) as executor:  # first: Ray's workers take their time to start
                # Imported when there is something to do: both bring torch.
                from resomap.study.stages import finish_study
                from resomap.study.sweep import run_study

                result = run_study(config, progress=progress, discard_changed=discard_changed, executor=executor)
            stages = finish_study(config, result, progress=progress)
    except KeyboardInterrupt:
        print("\nstopped; everything so far is saved. Run the same command again to go on.", file=sys.stderr)
        raise typer.Exit(130) from None
    if not result.is_main:
        return
    shown, kept = closing_texts(config, result, is_judged=stages.is_judged)
    print(shown, end="")
    for stage, reason in stages.undone.items():
        print(f"not done: {stage}: {reason}", file=sys.stderr)
    if result.failed or stages.undone:
        raise typer.Exit(1)
    if not stages.left_to_other:
        remember_finished(config, result, closing=kept)


def closing_texts(config: ResoMapConfig, result: StudyResult, *, is_judged: bool) -> tuple[str, str]:
    """The tables, the verdict, and where everything lies: (for this terminal, whole whatever its width).

    Args:
        is_judged: whether the stored verdict is about these results.
    """
    from resomap.study import build
    from resomap.study.runs import assessed_runs
    from resomap.study.stages import stored_sentence

    records = result.read_records()
    answers = build.known_answers(config, result.layout, assessed_runs(records))
    verdict = stored_sentence(result.layout) if is_judged and build.report_wanted(config) else None

    def text(*, wide: bool) -> str:
        parts = [results_text(result, records, metric=config.analysis.metric, wide=wide)]
        if answers:
            parts.append(known_answers_text(answers, wide=wide))
        if verdict is not None:
            parts.append(f"\n{printable(verdict)}\nreport: {printable(result.layout.report_path)}\n")
        return "".join(parts)

    return text(wide=False), text(wide=True)
