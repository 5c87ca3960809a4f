"""The report of a study: verdict.json and everything else that is stored, as one page, a summary and tables."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from resomap import __version__
from resomap.metrics.classification import metric_name
from resomap.report.html import render
from resomap.report.text import REFERENCES, methods
from resomap.serialize import write_text
from resomap.study.explaining.images import ExplainedImages
from resomap.study.load import Study
from resomap.study.reporting import cost_tables, map_tables
from resomap.study.reporting import verdict_tables as of_verdict
from resomap.study.reporting.captions import intervals, on, title
from resomap.study.reporting.galleries import PictureOf, explanation_galleries, flip_galleries
from resomap.study.reporting.interactive_plots import matrix_label, report_plots
from resomap.study.reporting.latex import latex
from resomap.study.reporting.provenance_table import provenance_table
from resomap.study.reporting.terminal_summary import summary


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """The images that a report shows; without them it has no galleries."""

    count: int
    """Images of each gallery; 0: no galleries."""
    kernel: str
    picture_of: PictureOf | None
    """None: the data set is not at hand."""
    explained: ExplainedImages | None
    """None: nothing was explained."""


def write_report(
    study: Study, verdict: Mapping[str, Any], *, metric: str, shown: Shown, differs: Collection[str] = ()
) -> None:
    """report/index.html, summary.txt and report/table.tex.

    Args:
        differs: what does between the runs of a model besides resolution (report.text).
    """
    name = metric_name(metric)
    plots = dict(report_plots(study, verdict, name))
    context = _context(study, verdict, name) | _galleries(study, verdict, shown)
    context["matrix_plots"] = [(id_, matrix_label(id_, verdict, name)) for id_ in plots if id_.startswith("matrix-")]
    context["methods"] = methods(differs)
    context["sections"] = list(_sections(context))
    write_text(study.layout.report_path, render(context, plots))
    write_text(study.layout.summary_text_path, summary(verdict, name))
    write_text(study.layout.latex_path, latex(verdict, study.about["data"], name))


def _context(study: Study, verdict: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What the template shows besides plots and pictures."""
    answer = verdict["recommendation"]
    split, compared = answer["report_split"], [option["metric"] for option in answer["options"]]
    return {
        "title": study.about["name"],
        "version": __version__,
        "metric": title(name),
        "curve_caption": (
            f"{title(name)} {on(split, verdict['metrics'])} against input resolution, "
            f"{intervals(verdict['metrics'])}; smooth lines: the saturating law where it holds"
        ),
        "front_caption": (
            f"{title(name)} {on(split, compared)} against latency of one image, {intervals(compared)}; "
            "the line joins those that none beats in both"
        ),
        "verdict": answer,
        "chance": verdict["chance"],
        "knee": verdict["knee"],
        "best": of_verdict.reference_words(answer),
        "over_limit": of_verdict.over_limit_words(answer),
        "hypervolume": verdict["hypervolume"] if len(answer["options"]) > 1 else None,
        "options_table": of_verdict.options_table(answer, name),
        "saturation_table": of_verdict.saturation_table(verdict, name),
        "front_table": of_verdict.front_table(verdict),
        "detail_table": of_verdict.detail_table(verdict, name),
        "class_detail_table": of_verdict.class_detail_table(verdict),
        "class_table": of_verdict.classes_table(verdict),
        "image_table": of_verdict.images_table(verdict),
        "flips_table": of_verdict.flips_table(verdict),
        "omnibus_table": of_verdict.omnibus_table(verdict),
        "comparison_table": of_verdict.comparisons_table(verdict, name),
        "cascade_table": of_verdict.cascades_table(verdict, name),
        "consistency_table": map_tables.consistency_table(study),
        "agreement_table": map_tables.agreement_table(study),
        "masks_table": map_tables.masks_table(study),
        "faithfulness_table": map_tables.faithfulness_table(study),
        "cost_table": cost_tables.cost_table(study),
        "files_table": cost_tables.files_table(study),
        "memory_table": cost_tables.memory_table(study),
        "references": REFERENCES,
        "provenance_table": provenance_table(study),
        "config": _config(study),
        "commands": _commands(study),
    }


def _galleries(study: Study, verdict: Mapping[str, Any], shown: Shown) -> dict[str, Any]:
    explained: list[dict[str, Any]] = []
    flips: list[dict[str, Any]] = []
    if shown.explained is not None and shown.count:
        explained = list(explanation_galleries(study, shown.explained, shown.count))
    if shown.picture_of is not None and shown.count:
        options: dict[str, Any] = {"picture_of": shown.picture_of, "kernel": shown.kernel, "count": shown.count}
        flips = list(flip_galleries(study, verdict, **options))
    return {"galleries": explained, "flip_galleries": flips}


def _sections(context: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    present = {
        "evidence": "Evidence",
        "curves": "Curves",
        "front": "Trade-off",
        "matrix": "Matrix" if context["matrix_plots"] else "",
        "detail": "Detail or size" if context["detail_table"] else "",
        "classes": "Classes",
        "images": "Images",
        "comparisons": "Differences" if context["comparison_table"] or context["cascade_table"] else "",
        "gallery": "Explanations" if context["galleries"] else "",
        "consistency": "Consistency" if context["consistency_table"] else "",
        "faithfulness": "Faithfulness" if context["masks_table"] or context["faithfulness_table"] else "",
        "cost": "Cost",
        "methods": "Methods",
        "provenance": "Provenance",
    }
    yield from ((id_, name) for id_, name in present.items() if name)


def _config(study: Study) -> str:
    path = study.layout.config_path
    return path.read_text("utf-8") if path.exists() else "not stored"


def _commands(study: Study) -> str:
    root, config = shlex.quote(str(study.layout.root)), shlex.quote(str(study.layout.config_path))
    return (
        f"resomap run --config {config}   # train, evaluate, profile, explain, report\n"
        f"resomap recommend {root} --max-latency-ms ... --delta ...\n"
        f"resomap explain {root}\nresomap profile --config {config}\n"
        f"resomap matrix {root}\nresomap report {root}\n"
    )
