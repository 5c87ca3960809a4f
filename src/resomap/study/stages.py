"""What a study does after its last run: cost, explanations, figures.

Each stage imports what it needs when its turn comes: together they load for seconds, and training shall not wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from resomap.config.schema import ResoMapConfig
from resomap.errors import DatasetError, ResoMapError, StorageError, StudyError
from resomap.layout import STAGES_LEASE, StudyLayout
from resomap.records import ImageDataset
from resomap.serialize import remove_leftovers
from resomap.study import build
from resomap.study.progress import StudyProgress
from resomap.study.stored_files import read_answer

if TYPE_CHECKING:
    from resomap.study.load import Study
    from resomap.study.reporting.page import Shown
    from resomap.study.sweep import StudyResult

log = logging.getLogger(__name__)

Tell = Callable[[str], None]

REPORT = "report"
"""The stage that makes the verdict."""


@dataclass(frozen=True, slots=True)
class StagesOutcome:
    """What became of what a study does after its last run."""

    undone: Mapping[str, str] = field(default_factory=dict)
    """Stage -> why it could not be done; the others are done all the same."""
    left_to_other: bool = False
    """Another process has begun it, which may not come to its end."""

    @property
    def is_judged(self) -> bool:
        """Whether the stored verdict is about these results, as far as this process knows."""
        return REPORT not in self.undone


def finish_study(config: ResoMapConfig, result: StudyResult, *, progress: StudyProgress) -> StagesOutcome:
    """Profile, explain and draw, as configured; nothing where other processes still train, or no run finished.

    One process at a time: another one waits, and finds done what the first has done (or does nothing, where
    study.wait_for_others is off).

    Raises:
        StorageError: no room left, no permission.
    """
    if not result.is_main or result.elsewhere or len(result.failed) == len(result.cells):
        return StagesOutcome()
    leases = build.leases(config, result.layout)
    if build.waits_for_others(config):
        with leases.hold(STAGES_LEASE):
            return StagesOutcome(_stages(config, result, progress))
    lease = leases.acquire(STAGES_LEASE)
    if lease is None:
        return StagesOutcome(left_to_other=True)
    try:
        return StagesOutcome(_stages(config, result, progress))
    finally:
        lease.release()


def _stages(config: ResoMapConfig, result: StudyResult, progress: StudyProgress) -> dict[str, str]:
    from resomap.study.same_images import open_images

    layout = result.layout
    training_s = sum(epoch.seconds for record in result.read_records() for epoch in record.epochs)
    undone: dict[str, str] = {}

    def attempt(stage: str, work: Callable[[], object]) -> None:
        try:
            work()
        except StorageError:
            raise
        except ResoMapError as error:
            undone[stage] = str(error)
        except Exception as error:
            # As for a run: a bug or a device error in one stage must not cost the others, nor the tables.
            log.error("%s failed: %r", stage, error, exc_info=True)
            undone[stage] = repr(error)

    images: ImageDataset | None = None
    try:
        images, _ = open_images(config, layout)
    except (DatasetError, StudyError) as changed:  # while it trained
        undone["cost, explanations and whatever else needs the images"] = str(changed)
    else:
        for stage, work in _image_stages(config, images, layout, training_s, progress.stage):
            attempt(stage, work)
    if build.report_wanted(config):
        attempt(REPORT, lambda: report_study(config, images=images, layout=layout, progress=progress.stage))
    remove_leftovers(layout.root)
    return undone


def _image_stages(
    config: ResoMapConfig, images: ImageDataset, layout: StudyLayout, training_s: float, progress: Tell
) -> Iterator[tuple[str, Callable[[], object]]]:
    """(stage, what does it), of those that are asked for."""
    if build.profiles_wanted(config):
        yield "profiling", lambda: _profile(config, images, layout, training_s, progress)
    if build.explanations_wanted(config):
        yield "explanations", lambda: _explain(config, images, layout, progress)
    if build.profiles_wanted(config) or build.explanations_wanted(config):
        yield "figures", lambda: _draw(config, images, layout, progress)
    if build.matrix_wanted(config):
        yield "matrix", lambda: _evaluate_conditions(config, images, layout, progress)


def _profile(
    config: ResoMapConfig, images: ImageDataset, layout: StudyLayout, training_s: float, progress: Tell
) -> None:
    from resomap.study.costs.profile import profile_study, profiles_are_current

    if not profiles_are_current(config, images, layout, training_s=training_s):
        profile_study(config, images=images, layout=layout, training_s=training_s, progress=progress)


def _explain(config: ResoMapConfig, images: ImageDataset, layout: StudyLayout, progress: Tell) -> None:
    from resomap.study.explaining.explanations import explain_study

    explain_study(config, images=images, layout=layout, progress=progress)


def _draw(config: ResoMapConfig, images: ImageDataset, layout: StudyLayout, progress: Tell) -> None:
    from resomap.study.reporting.paper_figures import draw_figures

    draw_figures(config, images=images, layout=layout, progress=progress)


def _evaluate_conditions(config: ResoMapConfig, images: ImageDataset, layout: StudyLayout, progress: Tell) -> None:
    from resomap.study.cross_resolution import run_conditions
    from resomap.study.load import load_study

    run_conditions(config, load_study(layout.root), images=images, progress=progress)


def stored_sentence(layout: StudyLayout) -> str | None:
    """The verdict in one sentence; None where there is none."""
    answer = read_answer(layout)
    return None if answer is None else str(answer["sentence"])


def report_study(
    config: ResoMapConfig,
    *,
    images: ImageDataset | None = None,
    layout: StudyLayout | None = None,
    progress: Tell = lambda _: None,
) -> dict[str, Any]:
    """The verdict (analysis/verdict.json) and report/index.html from what is stored.

    Raises:
        StudyError: runs or profiles are missing.
    """
    from resomap.study.load import load_study
    from resomap.study.reporting.page import write_report
    from resomap.study.verdict.verdict import store_verdict

    progress("report")
    layout = layout or build.layout(config, images or build.dataset(config))
    study = load_study(layout.root)
    metric = build.table_metric(config)
    verdict = store_verdict(study, metric=metric, delta=build.accepted_loss(config))
    write_report(study, verdict, metric=metric, shown=_shown(config, study, images), differs=_differs(config))
    return verdict


def _differs(config: ResoMapConfig) -> list[str]:
    """What does between the runs of a model besides resolution, in the report's terms."""
    from resomap.report import text

    found = {
        text.COMPUTE_MATCHED: build.is_compute_matched(config),
        text.STOPS_EARLY: build.may_stop_early(config),
        text.STOPS_DOMINATED: build.stops_dominated_runs(config),
        text.RESOLUTION_AWARE: build.is_resolution_aware(config),
    }
    return [what for what, differs in found.items() if differs]


def _shown(config: ResoMapConfig, study: Study, images: ImageDataset | None) -> Shown:
    """The images for the galleries; none where the data set is gone or another: all else of a report is as always."""
    from resomap.study.explaining.explanations import explained_of
    from resomap.study.reporting.galleries import pictures_of
    from resomap.study.reporting.page import Shown
    from resomap.study.same_images import open_images

    count, kernel = build.explanation_extras(config)["gallery"], build.kernel(config)
    if not count:
        return Shown(0, kernel, None, None)
    try:
        images = images or open_images(config, study.layout)[0]
        explained = explained_of(config, images) if study.explanations is not None else None
    except (DatasetError, StudyError) as gone:
        log.warning("the report has no galleries: %s", gone)
        return Shown(0, kernel, None, None)
    picture_of = pictures_of(images, study.splits[1], max_pixels=build.max_pixels(config))
    return Shown(count, kernel, picture_of, explained)
