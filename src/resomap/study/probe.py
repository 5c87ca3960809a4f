"""One trained network at many input sizes, without training: the answer for somebody who already has a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from resomap.analysis.recommend import recommend
from resomap.analysis.records import Budget, Option, Recommendation
from resomap.analysis.statistics.pseudo import heaviest_image, pseudo_values
from resomap.analysis.wording import few_images
from resomap.config.schema import ResoMapConfig
from resomap.errors import CheckpointError, ConfigError, DeviceError, ResolutionError
from resomap.evaluation.many_resolutions import View, predict_many
from resomap.models.checkpoints import embedded_metadata, load_checkpoint
from resomap.models.folding import for_inference
from resomap.models.modules import SIZE_ERRORS, run_here
from resomap.models.registry import build_model
from resomap.models.user_callable import users_error
from resomap.models.weights import OTHER_NAMES, load_weights
from resomap.printable import counted, listed, printable
from resomap.profiling.latency import BATCH_1, LatencyRecord
from resomap.profiling.profiler import profile_subjects
from resomap.profiling.records import ProfileRecord, ProfilingPlan, Subject
from resomap.records import Cell, Condition, ImageDataset, Predictions, Preprocessing, information_at
from resomap.study import build
from resomap.study.costs.cost import mode_gaps, shared_mode
from resomap.study.verdict.evidence import chance_of

Progress = Callable[[str], None]


def probe(
    config: ResoMapConfig,
    *,
    checkpoint: Path | None = None,
    model: str | None = None,
    weights: Path | None = None,
    resolutions: Sequence[int],
    metric: str,
    delta: float,
    budget: Budget | None = None,
    progress: Progress = lambda _: None,
) -> tuple[Recommendation, dict[Condition, Predictions], list[ProfileRecord]]:
    """Evaluate, time and judge a network at each resolution.

    Args:
        checkpoint: a run's folder; or
        model, weights: a model's name and its weights file. Where ResoMap wrote the file, its header says its classes
            and preprocessing; else its classes are the data's in the order of their names.
    Returns:
        (recommendation, predictions on the reporting split, ordered as `resolutions`, profiles). Images are reduced
        first where the network was trained so (data.information_resolution).
    Raises:
        CheckpointError, ResolutionError: weights that do not fit the data, or a size that the network does not take.
    """
    build.settle_process(config)
    device, precision = build.device_and_precision(config)
    images = build.dataset(config)
    given = _network(config, images, checkpoint, model, weights, side=max(resolutions))
    network, recipe, name = given.network, given.recipe, given.name
    for side in resolutions:  # any size that it runs at: a table of positions, or a branch, shows with values only
        try:
            run_here(network, side)
        except SIZE_ERRORS as wrong:
            raise ResolutionError(
                f"{name} does not take {side} px ({printable(wrong)}); leave it out of --resolutions"
            ) from wrong
        except Exception as wrong:  # of code of the user's
            raise users_error(name, f"in forward, at {side} px", wrong) from wrong
    splits = images.splits_used
    evaluated = for_inference(network, recipe.resolution, precision=precision)
    shown = {side: information_at(side, recipe.information_resolution) for side in resolutions}
    views = {side: View(evaluated, side, shown[side]) for side in resolutions}
    answers: dict[tuple[str, int], Predictions] = {}
    for split in dict.fromkeys(splits):
        progress(f"{split} at {counted(len(views), 'size')}")
        loader = build.sizes_loader(
            config, images, split, preprocessing=recipe, resolutions=list(shown.values()), device=device
        )
        found = predict_many(
            views, loader, device=device, kernel=recipe.kernel, class_names=images.class_names,
            mixed_precision=precision,
        )  # fmt: skip
        answers |= {(split, side): stored for side, stored in found.items()}
    options: dict[str, Any] = build.profiling_options(config)
    plan = ProfilingPlan(device=device, protocols=(BATCH_1,), **options)
    profiles = profile_subjects([Subject(name, network, side) for side in resolutions], plan, progress=progress)
    timed = _compared(profiles)
    chance = chance_of(answers[splits[0], resolutions[0]].labels, images.class_names, metric)
    verdict = recommend(
        [
            _option(name, side, answers, splits, metric, timed[side], profile.inference_memory.peak_mib)
            for side, profile in zip(resolutions, profiles, strict=True)
        ],
        budget=budget,
        delta=delta,
        metric=metric,
        splits=splits,
        labels_N=answers[splits[1], resolutions[0]].labels,
        chance=(chance["value"], chance["how"]),
        warnings=(
            "one network trained at one size: a network trained at each size may do better there (resomap run)",
            *given.warnings,
            *_modes_left_out(profiles),
            *(
                line
                for split in dict.fromkeys(splits)
                for line in few_images(answers[split, resolutions[0]].labels, images.class_names, split)
            ),
        ),
    )
    reported = {Condition(splits[1], side, shown[side]): answers[splits[1], side] for side in resolutions}
    return verdict, reported, profiles


@dataclass(frozen=True, slots=True, eq=False)
class _Given:
    """The network that is probed."""

    network: nn.Module
    recipe: Preprocessing
    name: str
    warnings: tuple[str, ...] = ()
    """Of its weights, for the verdict."""


def _network(
    config: ResoMapConfig,
    images: ImageDataset,
    checkpoint: Path | None,
    model: str | None,
    weights: Path | None,
    *,
    side: int,
) -> _Given:
    if (checkpoint is None) == (model is None or weights is None):
        raise ConfigError("probe: expected either --checkpoint, or --model with --weights")
    if checkpoint is not None:
        stored = load_checkpoint(checkpoint, allow_callables=build.allows_callables(config))
        _check_classes("the checkpoint", stored.metadata.class_names, images)
        return _Given(stored.model, stored.preprocessing, stored.metadata.model)
    assert model is not None
    assert weights is not None
    network = build_model(
        model,
        num_classes=images.num_classes,
        pretrained=False,
        specs=build.model_specs(config),
        allow_callables=build.allows_callables(config),
    ).eval()
    fit = load_weights(network, weights, name=model)
    known = embedded_metadata(weights)
    if known is not None:
        _check_classes(printable(weights), known.class_names, images)
    if fit.left_as_initialised:
        raise CheckpointError(
            f"{printable(weights)} has no classifier for the {images.num_classes} classes of the data (missing: "
            f"{', '.join(fit.left_as_initialised)}), and probe trains none; give the weights of a network that was "
            "trained for them"
        )
    recipe = build.preprocessing(config, Cell(model, side, seed=0)) if known is None else known.preprocessing.record()
    return _Given(network, recipe, model, (f"{printable(weights)}: {OTHER_NAMES}",) if fit.by_order else ())


def _check_classes(what: str, class_names: Sequence[str], images: ImageDataset) -> None:
    if tuple(class_names) != images.class_names:
        raise CheckpointError(
            f"{what} tells apart {listed(class_names)}; the data has {listed(images.class_names)}: give the data that "
            "it was trained for with --data"
        )


def _compared(profiles: Sequence[ProfileRecord]) -> dict[int, LatencyRecord]:
    """Side -> latency, all in one mode: the first in which every side was timed."""
    mode = shared_mode(profiles, BATCH_1)
    if mode is None:
        raise DeviceError(
            "expected a way to deploy that can be timed at every size, got none: "
            f"{'; '.join(_modes_left_out(profiles))}. Choose others with --set system.profiling.modes=[...]"
        )
    return {profile.resolution: profile.at(BATCH_1, mode) for profile in profiles}


def _modes_left_out(profiles: Sequence[ProfileRecord]) -> list[str]:
    gaps = mode_gaps([asdict(profile) for profile in profiles], BATCH_1)
    return [
        f"latency in mode {mode} is not compared, since it was not timed at {where}" for mode, where in gaps.items()
    ]


def _option(
    name: str,
    side: int,
    answers: dict[tuple[str, int], Predictions],
    splits: tuple[str, str],
    metric: str,
    timed: LatencyRecord,
    memory_mib: float,
) -> Option:
    def values(split: str) -> np.ndarray:
        stored = answers[split, side]
        classes = stored.probabilities.shape[1]
        return pseudo_values(stored.labels, stored.predicted, metric=metric, num_classes=classes)[None]

    def heaviest(split: str) -> float:
        stored = answers[split, side]
        return heaviest_image(stored.labels, metric=metric, num_classes=stored.probabilities.shape[1])

    return Option(
        model=name,
        resolution=side,
        select_SN=values(splits[0]),
        report_SN=values(splits[1]),
        latency_ms=timed.median_ms,
        latency_blocks_ms=timed.block_medians_ms,
        memory_mib=memory_mib,
        heaviest=(heaviest(splits[0]), heaviest(splits[1])),
    )
