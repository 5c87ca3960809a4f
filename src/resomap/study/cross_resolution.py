"""Trained networks under other conditions than their own: other input sizes, less information, repaired statistics.

The train x test matrix evaluates every run at every resolution of its model: as trained, and with the statistics of
BatchNorm estimated anew on training images of the test resolution, and with the classifier trained on besides (FixRes,
Touvron et al. 2019, arXiv:1906.06423). The information x input table gives a run images that were first reduced to a
smaller resolution, so that larger maps and more detail can be told apart.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from torch import nn

from resomap.config.schema import ResoMapConfig
from resomap.errors import StudyError
from resomap.evaluation.many_resolutions import View, predict_many
from resomap.evaluation.repair import finetune_head, reestimate_batch_norm
from resomap.evaluation.store import write_predictions
from resomap.models.checkpoints import Checkpoint, load_checkpoint
from resomap.models.folding import for_inference
from resomap.models.resolutions import takes_here
from resomap.records import AS_TRAINED, HEAD, WEIGHTS, Condition, ImageDataset, Predictions
from resomap.serialize import check_writable, write_text
from resomap.study import build
from resomap.study.load import Study
from resomap.study.same_images import open_images
from resomap.study.same_settings import check_settings, config_of_run
from resomap.study.verdict.gain import condition_rows

Progress = Callable[[str], None]


def run_conditions(
    config: ResoMapConfig,
    study: Study,
    *,
    images: ImageDataset | None = None,
    weights: Iterable[str] = (AS_TRAINED,),
    detail: bool = True,
    progress: Progress = lambda _: None,
) -> None:
    """Evaluate every run at every resolution of its model, and on less information; what is stored is left alone.

    Predictions go to predictions/{model}/{resolution}/seed{n}/{condition}.parquet, their metrics to
    analysis/conditions.csv. What is stored of other images than
    the run's own is made anew.

    Args:
        images: the study's own; None: they are opened.
    Raises:
        StudyError: the images are not those that the study was made from, or settings on which the answers depend are
            other than the runs'.
        DeviceError: this machine cannot compute as the runs were.
    """
    weights = tuple(weights)
    check_settings(config, study.layout, study.runs, trains=any(kind != AS_TRAINED for kind in weights))
    if images is None:
        images, _ = open_images(config, study.layout)
    build.settle_process(config)
    _, split = study.splits
    for record in study.runs:
        cell = record.cell
        resolutions, _ = study.grid.get(cell.model, ((), ()))
        if cell.resolution not in resolutions:
            continue
        wanted = [Condition(split, side, study.information(side), kind) for kind in weights for side in resolutions]
        if detail:
            less = {study.information(side) for side in resolutions if side < cell.resolution}
            wanted += [Condition(split, cell.resolution, side) for side in sorted(less)]
        missing = [c for c in dict.fromkeys(wanted) if study.answers(cell, c) is None]
        if not missing:
            continue
        progress(f"conditions: {cell}")
        check_writable(*(study.layout.predictions_path(cell, c) for c in missing))
        folder = study.layout.run_dir(cell, record.family)
        checkpoint = load_checkpoint(folder, allow_callables=build.allows_callables(config))
        own = config_of_run(config, record)
        device, precision = build.device_and_precision(own)
        for answers in evaluate_conditions(own, checkpoint, images, missing, device=device, precision=precision):
            for condition, found in answers.items():
                path = study.layout.predictions_path(cell, condition)
                write_predictions(path, found, cell=cell, condition=condition)
    table = pd.DataFrame(condition_rows(study))
    if not table.empty:
        write_text(study.layout.conditions_path, table.to_csv(index=False, lineterminator="\n"))


def evaluate_conditions(
    config: ResoMapConfig,
    checkpoint: Checkpoint,
    images: ImageDataset,
    conditions: Sequence[Condition],
    *,
    device: str,
    precision: str,
) -> Iterator[dict[Condition, Predictions]]:
    """Predictions of a network under conditions of one split, as they are made; sizes it does not take are left out.

    The weights as trained see all their sizes in one pass over the images; repaired weights, which differ at each size,
    see theirs in a pass a size, so that no more than two copies of the network are held.
    """
    taken = {side for side in {c.input_resolution for c in conditions} if takes_here(checkpoint.model, side)}
    fitting = [c for c in conditions if c.input_resolution in taken]
    options: dict[str, Any] = {"device": device, "class_names": images.class_names, "mixed_precision": precision}
    for group in _passes(fitting):
        views = _views(config, checkpoint, images, group, device=device, precision=precision)
        loader = build.sizes_loader(
            config,
            images,
            group[0].split,
            preprocessing=checkpoint.preprocessing,
            resolutions=[c.information_resolution for c in group],
            device=device,
        )
        yield predict_many(views, loader, kernel=checkpoint.preprocessing.kernel, **options)


def _passes(conditions: Sequence[Condition]) -> list[list[Condition]]:
    """Conditions that are evaluated together."""
    groups: dict[int, list[Condition]] = {}
    for condition in conditions:
        together = 0 if condition.weights == AS_TRAINED else condition.input_resolution
        groups.setdefault(together, []).append(condition)
    return list(groups.values())


def _views(
    config: ResoMapConfig,
    checkpoint: Checkpoint,
    images: ImageDataset,
    conditions: Sequence[Condition],
    *,
    device: str,
    precision: str,
) -> dict[Condition, View]:
    """Each condition's network, folded for inference; the weights as trained are one network for all sizes."""
    networks: dict[tuple[str, int], nn.Module] = {}
    views = {}
    for condition in conditions:
        side = condition.input_resolution
        key = (condition.weights, 0 if condition.weights == AS_TRAINED else side)
        if key not in networks:
            network = repaired(config, checkpoint, images, side, condition.weights, device=device)
            networks[key] = for_inference(network, side, precision=precision)
        views[condition] = View(networks[key], side, condition.information_resolution)
    return views


def repaired(
    config: ResoMapConfig, checkpoint: Checkpoint, images: ImageDataset, side: int, weights: str, *, device: str
) -> nn.Module:
    """The network as trained, or a copy with BatchNorm estimated anew, or with its classifier trained on besides."""
    if weights == AS_TRAINED:
        return checkpoint.model
    if weights not in WEIGHTS:
        raise StudyError(f"weights: expected one of {', '.join(WEIGHTS)}, got {weights!r}")
    network = copy.deepcopy(checkpoint.model).to(device)
    recipe = replace(checkpoint.preprocessing, resolution=side)
    # A split lists one class after the other: batches of one class would be estimated from, and learnt from.
    loader = build.checkpoint_loader(config, images, "train", preprocessing=recipe, device=device, trains=True)
    reestimate_batch_norm(network, loader, device=device)
    if weights == HEAD:
        finetune_head(network, loader, device=device)
    return network.eval()
