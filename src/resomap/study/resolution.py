"""ResolutionExplainabilityAnalyzer: everything about a folder of checkpoints, however they came there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from resomap.config.load import load_config
from resomap.config.schema import ResoMapConfig
from resomap.errors import CheckpointError, DatasetError
from resomap.evaluation.predict import predict
from resomap.evaluation.store import write_predictions
from resomap.explainability.agreement import verdict_sentence
from resomap.layout import METADATA, StudyLayout
from resomap.metrics.classification import classification_metrics
from resomap.models.checkpoints import Checkpoint, load_checkpoint, read_metadata, weights_digest
from resomap.models.folding import for_inference
from resomap.models.names import as_listed
from resomap.printable import counted, listed, printable
from resomap.profiling.profiler import profile_subjects
from resomap.profiling.records import ProfileRecord, ProfilingPlan, Subject
from resomap.profiling.report import profiling_report
from resomap.records import Cell, Condition, ImageDataset
from resomap.serialize import provenance, write_json, write_text
from resomap.study import build
from resomap.study.explaining.explanations import analyse_sources, explained_of, recipe_of
from resomap.study.explaining.images import masks_of
from resomap.study.explaining.maps import Source
from resomap.study.output_folder import check_output_folder
from resomap.study.reporting.paper_figures import draw_study

log = logging.getLogger(__name__)
Progress = Callable[[str], None]


def find_checkpoints(
    folder: str | Path, *, models: Sequence[str] | None = None, resolutions: Sequence[int] | None = None
) -> list[Source]:
    """Every checkpoint below a folder, by the metadata that lies beside it; the folders' names do not matter.

    Raises:
        CheckpointError: none that fits, or one without weights.
    """
    found: dict[Cell, Source] = {}
    seen: set[tuple[str, int]] = set()
    for path in sorted(Path(folder).rglob(METADATA)):
        try:
            metadata = read_metadata(path)
        except CheckpointError as wrong:
            log.warning("left out: %s", wrong)
            continue
        cell = Cell(metadata.model, metadata.resolution, metadata.seed)
        seen.add((cell.model, cell.resolution))
        asked = {as_listed(name, (cell.model,)) for name in models or (cell.model,)}
        if cell.model not in asked or (resolutions and cell.resolution not in resolutions):
            continue
        if cell in found:
            log.warning("%s: a second checkpoint of %s is left out", printable(path), cell)
            continue
        found[cell] = Source(cell, path.parent, metadata.key or weights_digest(path))
    if not found:
        there = ", ".join(f"{model} @{side}" for model, side in sorted(seen)) or "none"
        raise CheckpointError(
            f"{printable(folder)}: expected checkpoints ({METADATA} beside weights) of the models and resolutions "
            f"asked for; found: {there}"
        )
    return [found[cell] for cell in sorted(found)]


class ResolutionExplainabilityAnalyzer:
    """Loads what it finds, evaluates, profiles, explains, compares; writes tables, a summary and figures.

    Args:
        checkpoint_dir: searched for checkpoints at any depth.
        output_dir: gets predictions/, profiles/, explanations/, analysis/explanations.json, results.csv, summary.txt
            and report/figures/.
        data: folder of images, torchvision:NAME or acuity; None: data.source of the configuration.
        models, resolutions: only these; None: all that are found.
        config: settings; None: those in ./configs, else the built-in ones.

    Raises:
        CheckpointError: no checkpoints that fit.
        StudyError: output_dir is a study or holds a run: its files would be written over.
    """

    def __init__(
        self,
        checkpoint_dir: str | Path,
        output_dir: str | Path,
        *,
        data: str | None = None,
        models: Sequence[str] | None = None,
        resolutions: Sequence[int] | None = None,
        config: ResoMapConfig | None = None,
        progress: Progress = lambda _: None,
    ) -> None:
        settings = config if config is not None else load_config()
        self.config = settings if data is None else build.with_source(settings, data)
        check_output_folder(Path(output_dir), name="output_dir")
        self.layout = StudyLayout(Path(output_dir))
        self.sources = find_checkpoints(checkpoint_dir, models=models, resolutions=resolutions)
        self.progress = progress

    def run(self) -> dict[str, Any]:
        """Everything; returns the tables that analysis/explanations.json holds.

        Raises:
            DatasetError: the data's classes are not those of the checkpoints.
        """
        build.settle_process(self.config)
        device, precision = build.device_and_precision(self.config)
        images = build.dataset(self.config)
        checkpoints = {s.cell: self._load(s, images) for s in self.sources}
        results = self.evaluate(images, checkpoints, device=device, precision=precision)
        profiles = self.profile(checkpoints, device=device)
        analysed = self.explain(images, device=device)
        self._draw(images)
        summary = summarise(results, profiles, analysed, metric=build.table_metric(self.config))
        write_text(self.layout.summary_text_path, summary)
        return analysed

    def _load(self, source: Source, images: ImageDataset) -> Checkpoint:
        checkpoint = load_checkpoint(source.checkpoint, allow_callables=build.allows_callables(self.config))
        if tuple(checkpoint.metadata.class_names) != images.class_names:
            raise DatasetError(
                f"{source.cell}: the checkpoint tells apart {listed(checkpoint.metadata.class_names)}; the data "
                f"{printable(images.name)} has {listed(images.class_names)}: give the data it was trained for"
            )
        return checkpoint

    def evaluate(
        self, images: ImageDataset, checkpoints: dict[Cell, Checkpoint], *, device: str, precision: str
    ) -> pd.DataFrame:
        """Predictions and metrics of each checkpoint at its own resolution, on test (val where there is none)."""
        _, split = images.splits_used
        rows = []
        for cell, checkpoint in checkpoints.items():
            self.progress(f"evaluating {cell}")
            loader = build.checkpoint_loader(
                self.config, images, split, preprocessing=checkpoint.preprocessing, device=device
            )
            network = for_inference(checkpoint.model, cell.resolution, precision=precision)
            answers = predict(network, loader, device=device, class_names=images.class_names, mixed_precision=precision)
            condition = Condition(split, cell.resolution, checkpoint.preprocessing.information)
            write_predictions(self.layout.predictions_path(cell, condition), answers, cell=cell, condition=condition)
            values = classification_metrics(
                answers.labels, answers.probabilities, class_names=answers.class_names,
                **build.metric_options(self.config),
            )  # fmt: skip
            scalars = {name: value for name, value in values.items() if isinstance(value, float)}
            rows.append(asdict(cell) | {"status": "finished", "split": split} | scalars)
        frame = pd.DataFrame(rows)
        write_text(self.layout.results_csv_path, frame.to_csv(index=False, lineterminator="\n"))
        return frame

    def profile(self, checkpoints: dict[Cell, Checkpoint], *, device: str) -> list[ProfileRecord]:
        """Cost of each model and resolution, all timed in turn."""
        firsts: dict[tuple[str, int], Subject] = {}
        for cell, checkpoint in checkpoints.items():
            key = (cell.model, cell.resolution)
            firsts.setdefault(key, Subject(cell.model, checkpoint.model, cell.resolution))
        plan = ProfilingPlan(
            device=device,
            optimizer=build.optimizer_factory(self.config),
            **build.profiling_options(self.config),
        )
        records = profile_subjects(list(firsts.values()), plan, progress=self.progress)
        where = provenance(device=device)
        for record in records:
            path = self.layout.profile_path(record.model, record.resolution)
            write_json(path, asdict(record) | {"provenance": where})
        return records

    def explain(self, images: ImageDataset, *, device: str) -> dict[str, Any]:
        """Maps of every checkpoint and all comparisons."""
        explained = explained_of(self.config, images)
        result = analyse_sources(
            self.sources,
            explained,
            recipe=recipe_of(self.config, device=device),
            layout=self.layout,
            masks=masks_of(images, explained.records, max_pixels=build.max_pixels(self.config)),
            agreement=build.agreement_options(self.config),
            extras=build.explanation_extras(self.config),
            progress=self.progress,
        )
        write_json(self.layout.explanations_path, result)
        return result

    def _draw(self, images: ImageDataset) -> list[Path]:
        return draw_study(
            self.layout,
            explained=explained_of(self.config, images),
            metric=build.table_metric(self.config),
            methods=build.explanation_methods(self.config),
            gallery=build.explanation_extras(self.config)["gallery"],
            cells=[source.cell for source in self.sources],
            progress=self.progress,
        )


def summarise(
    results: pd.DataFrame, profiles: Sequence[ProfileRecord], analysed: dict[str, Any], *, metric: str
) -> str:
    """summary.txt: performance, cost and agreement as aligned text."""
    table = results.groupby(["model", "resolution"])[list(dict.fromkeys([metric, "accuracy"]))].agg(["mean", "count"])
    parts = [
        f"Performance on {results['split'].iloc[0]}",
        table.round(4).to_string(),
        "",
        "Cost",
        profiling_report(profiles),
        "",
        f"Agreement of explanations ({analysed['similarity']}) on {counted(analysed['images'], 'image')}",
        *_agreement_lines(analysed),
    ]
    return "\n".join(parts) + "\n"


def _agreement_lines(analysed: dict[str, Any]) -> Iterable[str]:
    rows = [r for r in analysed["consistency"] if r["similarity"] == analysed["similarity"] and r["subset"] == "all"]
    for row in rows:
        c = row["consistency"]
        ratio = f"C {c['value']:.2f} ({c['low']:.2f}-{c['high']:.2f})" if c["value"] is not None else "no C"
        cross = row["cross"]["value"]
        alike = f"{cross:.2f}" if cross is not None else "-"
        sides = f"{row['low_resolution']} and {row['high_resolution']} px"
        told = verdict_sentence(row["verdict"])
        yield f"{row['model']}, {row['method']}, {sides}: similarity {alike}, {ratio}: {told}"
    if not rows:
        yield "one resolution only: nothing to compare"
