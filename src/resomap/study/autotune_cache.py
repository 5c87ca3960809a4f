"""The tuned settings of a study: chosen once, kept with it (tuning.json), and remembered for other studies.

A choice decides what a run computes, to the last bit. So a study keeps the one that it began with, wherever it goes on,
also the one not to search ("untuned", effort 0); it goes when the last run of its model is discarded. Each run's record
holds it too, so that a lost file costs nothing.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resomap.errors import StorageError, StudyError
from resomap.layout import TUNING_LEASE, StudyLayout
from resomap.printable import precision_name, printable
from resomap.records import Cell, TunedSettings
from resomap.serialize import DAMAGE, digest, package_version, plain, provenance, read_record, write_json
from resomap.study import build
from resomap.study.out_of_memory import is_out_of_memory
from resomap.study.runs import stored_runs

if TYPE_CHECKING:
    from resomap.config.schema import ResoMapConfig
    from resomap.study.context import StudyContext
    from resomap.training.autotune import Options
    from resomap.training.ranks import Ranks

log = logging.getLogger(__name__)

_PRECISIONS = ("no", "bf16", "fp16")


def choices_in_force(config: ResoMapConfig, layout: StudyLayout, ranks: Ranks) -> dict[str, TunedSettings]:
    """model -> what this study trains it with: where nothing is tuned, that is what its runs were begun with."""
    if not build.applies_choices(config):
        return {}
    choices = {model: _choice(entry, layout.tuning_path) for model, entry in _entries(layout)[0].items()}
    if build.tuning_options(config, ranks) is None:
        begun = {record.cell.model for record in stored_runs(layout)}
        choices = {model: choice for model, choice in choices.items() if model in begun}
    return choices


def settle_tuning(context: StudyContext) -> dict[str, TunedSettings]:
    """The choices of all models of the grid that are tuned; those that are not known yet are searched for.

    What is stored stays, whatever it was chosen from: a process that runs may hold it.

    Side effects: tuning.json of the study, and the cache's memory of choices.
    """
    options = build.tuning_options(context.config, context.ranks)
    if options is not None and context.ranks.is_main:
        with context.leases.hold(TUNING_LEASE):
            _settle(context, options)
    context.ranks.barrier()
    return choices_in_force(context.config, context.layout, context.ranks)


def foreseen_choices(context: StudyContext) -> tuple[dict[str, TunedSettings], tuple[str, ...]]:
    """(model -> what the study would train it with if it began now, models that it would first search for).

    Nothing is searched or stored.
    """
    choices = choices_in_force(context.config, context.layout, context.ranks)
    options = build.tuning_options(context.config, context.ranks)
    if options is None:
        return choices, ()
    searched = []
    for model in _open_models(context, choices):
        known = _known(context, model, options)
        if known is not None:
            choices[model] = _choice(known, _memory_path(context, model, options))
        elif _effort(context, options) > 0:
            searched.append(model)
    return choices, tuple(searched)


def _settle(context: StudyContext, options: Options) -> None:
    entries, intact = _entries(context.layout)
    if entries and not intact:
        _write(context.layout, entries)
    for model in _open_models(context, entries):
        entries[model] = _find(context, model, options)
        _write(context.layout, entries)


def _open_models(context: StudyContext, decided: Collection[str]) -> list[str]:
    """Models of the grid without a choice and without a run."""
    begun = {record.cell.model for record in stored_runs(context.layout)}
    return [m for m in dict.fromkeys(cell.model for cell in context.cells) if m not in begun and m not in decided]


def forget_choices(context: StudyContext, models: Collection[str]) -> None:
    """Drop what was chosen for those of the models that have no run (any more)."""
    if not context.layout.tuning_path.exists():
        return
    with context.leases.hold(TUNING_LEASE):
        begun = {record.cell.model for record in stored_runs(context.layout)}
        entries, _ = _entries(context.layout)
        _write(context.layout, {m: entry for m, entry in entries.items() if m in begun or m not in models})


def _write(layout: StudyLayout, entries: Mapping[str, Any]) -> None:
    write_json(layout.tuning_path, {"models": entries})


def _work(context: StudyContext) -> tuple[list[int], float]:
    """(resolutions, images that a model is trained on at each of them, over all seeds)."""
    sides = build.sides(context.config)
    seeds = len({cell.seed for cell in context.cells})
    return sides, build.training_images(context.config, context.image_counts) * seeds


def _effort(context: StudyContext, options: Options) -> int:
    """What a search may cost."""
    from resomap.training.autotune import affordable

    sides, images = _work(context)
    return affordable(options, sides, images=images)


def _key(context: StudyContext, model: str, options: Options) -> str:
    subject = build.tuned_subject(context.config, model, num_classes=context.images.num_classes)
    return digest({"subject": subject, "options": options})


def _memory_path(context: StudyContext, model: str, options: Options) -> Path:
    """Where a choice for this model, these options and this machine is remembered."""
    name = digest({"key": _key(context, model, options), "machine": _machine(context)})
    return build.cache_dir(context.config) / "tuning" / f"{name}.json"


def _known(context: StudyContext, model: str, options: Options) -> dict[str, Any] | None:
    """What is remembered for this machine; None where a search may be more thorough."""
    path = _memory_path(context, model, options)
    known = _remembered(path)
    return known if known is not None and _choice(known, path).effort >= _effort(context, options) else None


def _find(context: StudyContext, model: str, options: Options) -> dict[str, Any]:
    """What is remembered for this machine, else what a search finds, else (effort 0) what is used without one."""
    path = _memory_path(context, model, options)
    known = _known(context, model, options)
    if known is not None:
        context.progress.tuned(f"{_in_words(model, _choice(known, path), options)} (remembered)")
        return known
    sides, images = _work(context)
    choice = _search(context, model, options, sides=sides, images=images)
    entry = {
        "key": _key(context, model, options),
        "machine": _machine(context),
        "choice": plain(choice),
        "provenance": provenance(),
    }
    if choice.effort == 0:
        if len(options.settings()) > 1:
            context.progress.tuned(f"{_in_words(model, choice, options)} (training is too short for a search to pay)")
        return entry
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
    started, num_classes = time.perf_counter(), context.images.num_classes
    device, _ = build.device_and_precision(context.config)
    try:
        return tune(
            build.model(context.config, Cell(model, sides[0], 0), num_classes=num_classes),
            options,
            sides=sides,
            images=images,
            num_classes=num_classes,
            device=torch.device(device),
            graphs=build.uses_graphs(context.config, model),
            started=started,
            is_out_of_memory=is_out_of_memory,
        )
    except Exception as error:
        # A search is a convenience: whatever ails the model, its runs say so, and the others go on.
        log.warning("%s is not tuned: %r", model, error)
        return untuned(options, sides)


def _machine(context: StudyContext) -> dict[str, Any]:
    """What the speed of a choice depends on."""
    import torch

    from resomap.allocator import keeps_freed_memory
    from resomap.models.devices import device_name

    device, _ = build.device_and_precision(context.config)
    return {
        "device": device_name(torch.device(device)),
        "threads": torch.get_num_threads(),
        "keeps_freed_memory": keeps_freed_memory(),
        "versions": {name: package_version(name) for name in ("torch", "resomap")},
    }


def _entries(layout: StudyLayout) -> tuple[dict[str, Any], bool]:
    """(model -> entry, whether tuning.json has them all): a lost or damaged one is made up for by the runs' records."""
    path, intact = layout.tuning_path, False
    entries: dict[str, Any] = {}
    if path.exists():
        mend = "the runs' own records are used"
        try:
            stored = read_record(path, lambda content: content["models"].items(), mend=mend)
        except StudyError as bad:
            log.warning("%s", bad)
        else:
            try:
                for model, entry in stored:
                    _choice(entry, path)
                    entries[model] = entry
                intact = True
            except StudyError as bad:
                log.warning("%s; %s", bad, mend)
    if not intact:
        for record in stored_runs(layout):
            of_run = {"choice": record.provenance.get("tuned")}
            if of_run["choice"] is not None and record.cell.model not in entries:
                with contextlib.suppress(StudyError):
                    _choice(of_run, path)
                    entries[record.cell.model] = of_run
    return entries, intact


def _remembered(path: Path) -> dict[str, Any] | None:
    """An entry of the cache; None where there is none that can be used."""
    if not path.exists():
        return None
    try:
        known: dict[str, Any] = read_record(path, dict)
        _choice(known, path)
    except StudyError as error:
        log.warning("%s", error)
        return None
    return known


def _choice(entry: Mapping[str, Any], path: Path) -> TunedSettings:
    try:
        chosen = entry["choice"]
        if chosen["precision"] not in _PRECISIONS or int(chosen["micro_batch"]) < 1:
            raise ValueError(f"{chosen['precision']!r}, micro-batch {chosen['micro_batch']!r}")
        return TunedSettings(
            chosen["precision"],
            int(chosen["micro_batch"]),
            {int(side): bool(value) for side, value in chosen["channels_last"].items()},
            effort=int(chosen["effort"]),
            gain=float(chosen["gain"]),
            seconds=float(chosen["seconds"]),
        )
    except DAMAGE as bad:
        raise StudyError(f"{printable(path)} does not hold tuned settings ({printable(repr(bad))})") from bad


def _in_words(model: str, choice: TunedSettings, options: Options) -> str:
    """'autotune: resnet18: bf16, NHWC, micro-batch 16 of 32, 2.1 times as fast as untuned'"""
    formats = {"NHWC" if last else "NCHW" for last in choice.channels_last.values()}
    precision = precision_name(choice.precision)
    words = f"autotune: {model}: {precision}, {' and '.join(sorted(formats, reverse=True))}"
    words += f", micro-batch {choice.micro_batch} of {options.micro_batches[0]}"
    return words + (f", {choice.gain:.2f} times as fast as untuned" if choice.gain > 1 else "")
