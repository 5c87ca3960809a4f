"""The tuned settings of a study: chosen once, kept with it (tuning.json), and remembered for other studies.

A choice decides what a run computes, to the last bit. So a study keeps the one that it began with, wherever it goes on;
only a model without any run is tuned anew, and only when what is tuned has changed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resomap.errors import StorageError, StudyError, printable
from resomap.layout import TUNING_LEASE, StudyLayout
from resomap.records import Cell, TunedSettings
from resomap.serialize import digest, package_version, plain, provenance, read_json, write_json
from resomap.study import builders
from resomap.study.runs import stored_runs

if TYPE_CHECKING:
    from resomap.study.context import StudyContext
    from resomap.training.autotune import Options

log = logging.getLogger(__name__)


def stored_choices(layout: StudyLayout) -> dict[str, TunedSettings]:
    """model -> what this study trains it with.

    Raises:
        StudyError: tuning.json is damaged.
    """
    return {model: _choice(entry, layout.tuning_path) for model, entry in _entries(layout).items()}


def settle_tuning(context: StudyContext) -> dict[str, TunedSettings]:
    """The choices of all models of the grid that are tuned; those that are not known yet are searched for.

    Side effects: tuning.json of the study, and the cache's memory of choices.
    """
    options = builders.tuning_options(context.config, context.ranks)
    if options is None or not context.ranks.is_main:
        context.ranks.barrier()
        return stored_choices(context.layout)
    with context.leases.hold(TUNING_LEASE):
        entries = _entries(context.layout)
        runs = list(stored_runs(context.layout))
        begun = {record.cell.model for record in runs}
        finished = {record.cell for record in runs if record.status == "finished"}
        for model in dict.fromkeys(cell.model for cell in context.cells):
            pending = [cell for cell in context.cells if cell.model == model and cell not in finished]
            if not pending or model in begun:
                continue
            subject = builders.tuned_subject(context.config, model, num_classes=context.images.num_classes)
            key = digest({"subject": subject, "options": options})
            if entries.get(model, {}).get("key") == key:
                continue
            entries.pop(model, None)
            found = _find(context, model, options, key=key, runs_per_side=_per_side(pending))
            if found is not None:
                entries[model] = found
        if entries or context.layout.tuning_path.exists():
            write_json(context.layout.tuning_path, {"models": entries})
    context.ranks.barrier()
    return stored_choices(context.layout)


def _per_side(cells: list[Cell]) -> float:
    return len(cells) / len({cell.resolution for cell in cells})


def _find(
    context: StudyContext, model: str, options: Options, *, key: str, runs_per_side: float
) -> dict[str, Any] | None:
    """What is remembered for this machine, else what a search finds; None where neither is to be had."""
    from resomap.training.autotune import affordable

    sides = sorted(context.config.sweep.resolutions)
    counts = {split: len(store.images) for split, store in context.stores.items()}
    images = builders.training_images(context.config, counts) * runs_per_side
    machine = _machine(context)
    path = builders.cache_dir(context.config) / "tuning" / f"{digest({'key': key, 'machine': machine})}.json"
    known = _remembered(path)
    if known is not None and known["choice"]["effort"] >= affordable(options, sides, images=images):
        context.progress.tuned(f"{_in_words(model, _choice(known, path), options)} (remembered)")
        return known
    choice = _search(context, model, options, sides=sides, images=images)
    if choice.effort == 0:
        context.progress.tuned(f"{_in_words(model, choice, options)} (training is too short for a search to pay)")
        return None
    entry = {"key": key, "machine": machine, "choice": plain(choice), "provenance": provenance()}
    try:
        write_json(path, entry)
    except StorageError as error:
        log.warning("the tuned settings are not remembered: %s", error)
    context.progress.tuned(f"{_in_words(model, choice, options)} (found in {choice.seconds:.1f} s)")
    return entry


def _search(context: StudyContext, model: str, options: Options, *, sides: list[int], images: float) -> TunedSettings:
    import torch

    from resomap.training.autotune import affordable, tune, untuned

    if affordable(options, sides, images=images) == 0:
        return untuned(options, sides)
    num_classes = context.images.num_classes
    device, _ = builders.device_and_precision(context.config)
    network = builders.model(context.config, Cell(model, sides[0], 0), num_classes=num_classes)
    return tune(network, options, sides=sides, images=images, num_classes=num_classes, device=torch.device(device))


def _machine(context: StudyContext) -> dict[str, Any]:
    """What the speed of a choice depends on."""
    import torch

    from resomap.allocator import keeps_freed_memory
    from resomap.profiling.profiler import device_name

    device, _ = builders.device_and_precision(context.config)
    return {
        "device": device_name(torch.device(device)),
        "threads": torch.get_num_threads(),
        "keeps_freed_memory": keeps_freed_memory(),
        "versions": {name: package_version(name) for name in ("torch", "resomap")},
    }


def _entries(layout: StudyLayout) -> dict[str, Any]:
    if not layout.tuning_path.exists():
        return {}
    stored = read_json(layout.tuning_path, error=StudyError)
    entries = stored.get("models") if isinstance(stored, dict) else None
    if not isinstance(entries, dict):
        raise StudyError(f"{printable(layout.tuning_path)} does not hold tuned settings; restore it from a copy")
    return entries


def _remembered(path: Path) -> dict[str, Any] | None:
    """An entry of the cache; None where there is none that can be used."""
    if not path.exists():
        return None
    try:
        known: dict[str, Any] = read_json(path, error=StudyError)
        _choice(known, path)
    except StudyError as error:
        log.warning("%s", error)
        return None
    return known


def _choice(entry: Mapping[str, Any], path: Path) -> TunedSettings:
    try:
        fields = dict(entry["choice"])
        fields["channels_last"] = {int(side): bool(value) for side, value in fields["channels_last"].items()}
        return TunedSettings(**fields)
    except (KeyError, TypeError, ValueError, AttributeError) as bad:
        raise StudyError(f"{printable(path)} does not hold tuned settings ({bad!r}); restore it from a copy") from bad


def _in_words(model: str, choice: TunedSettings, options: Options) -> str:
    """'autotune: resnet18: bf16, NHWC, micro-batch 16 of 32, 2.1 times as fast as untuned'"""
    formats = {"NHWC" if last else "NCHW" for last in choice.channels_last.values()}
    precision = "fp32" if choice.precision == "no" else choice.precision
    words = f"autotune: {model}: {precision}, {' and '.join(sorted(formats, reverse=True))}"
    words += f", micro-batch {choice.micro_batch} of {options.micro_batches[0]}"
    return words + (f", {choice.gain:.2f} times as fast as untuned" if choice.gain > 1 else "")
