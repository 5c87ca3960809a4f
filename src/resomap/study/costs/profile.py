"""What the models of a study cost at its resolutions: measured, and stored as profiles/{model}/{resolution}.json."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from resomap.allocator import keeps_freed_memory
from resomap.config.schema import ResoMapConfig
from resomap.data.hashes import content_hashes
from resomap.errors import DatasetError, StudyError
from resomap.layout import StudyLayout
from resomap.models.devices import device_name
from resomap.models.resolutions import takes
from resomap.profiling.complexity import get_model_complexity
from resomap.profiling.end_to_end import time_files
from resomap.profiling.latency import BATCH_1, latency_ratio
from resomap.profiling.profiler import PROFILE_VERSION, profile_subjects
from resomap.profiling.records import ProfileRecord, ProfilingPlan, Subject
from resomap.records import Cell, ImageDataset, ImageRecord
from resomap.serialize import check_writable, digest, package_version, provenance, write_json
from resomap.study import build
from resomap.study.costs.cost import shared_mode
from resomap.study.explaining.images import evenly_spread
from resomap.study.load import Study
from resomap.study.same_images import open_images
from resomap.study.stored_files import read_profile
from resomap.training.ranks import Ranks

log = logging.getLogger(__name__)

_MACS_OF_A_STEP = 2e10
"""The training step whose memory is measured shall take seconds, not minutes: smaller batches for larger models."""
_ROUNDS = 3
_PACKAGES = ("torch", "torchvision", "timm", "onnxruntime")
"""Another version computes otherwise."""


def profile_study(
    config: ResoMapConfig,
    *,
    images: ImageDataset | None = None,
    layout: StudyLayout | None = None,
    training_s: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[ProfileRecord]:
    """Profile every model and resolution of the grid, all timed in turn, and store the records.

    Weights do not matter for cost: the networks are built as training would build them.

    Args:
        images: the data set, whose files are timed from disk to answer, the study's own where there is a study; None:
            they are opened. A finished study needs none: then that is not timed.
        layout: where profiles are stored; None: the configuration's study.
        training_s: seconds that the study has trained, to which timing is held; None: it gets its whole budget.
    Raises:
        StudyError: the images are not those that the study was made from.
    """
    build.check_models(config)
    build.settle_process(config)
    device, precision = build.device_and_precision(config)
    if images is None:
        images, layout = _opened(config, layout)
    elif layout is None:
        layout = build.layout(config, images)
    num_classes = len(Study(layout).class_names) if images is None else images.num_classes
    subjects = list(_subjects(config, num_classes=num_classes))
    check_writable(*(layout.profile_path(subject.model, subject.resolution) for subject in subjects))
    plan = ProfilingPlan(
        device=device,
        precision=precision,
        optimizer=build.optimizer_factory(config),
        training_batch=_training_batch(config, subjects),
        **build.profiling_options(config, training_s=training_s),
    )
    records = profile_subjects(subjects, plan, progress=progress)
    paths = [] if images is None else [r.path for r in _files(images, count=build.end_to_end_images(config))]
    if paths:
        progress("file to answer")
        recipes = [build.preprocessing(config, Cell(s.model, s.resolution, 0)) for s in subjects]
        ends = time_files(
            [subject.network for subject in subjects],
            recipes,
            paths,
            device=torch.device(device),
            max_pixels=build.max_pixels(config),
        )
        records = [replace(record, end_to_end=end) for record, end in zip(records, ends, strict=True)]
    where = provenance(device=device, precision=precision)
    digests = _digests(config, images, num_classes=num_classes)
    for record in records:
        about = {"digest": digests[record.model, record.resolution], "provenance": where}
        write_json(layout.profile_path(record.model, record.resolution), asdict(record) | about)
    return records


def _opened(config: ResoMapConfig, layout: StudyLayout | None) -> tuple[ImageDataset | None, StudyLayout]:
    """The study's images and folder; no images where a finished study's are not on this machine."""
    try:
        return open_images(config, layout)
    except DatasetError as gone:
        layout = layout or build.layout_without_images(config)
        if layout is None or not layout.results_json_path.exists():
            raise
        log.warning("what lies between a file and its answer is not timed: %s", gone)
        return None, layout


def profiles_are_current(
    config: ResoMapConfig, images: ImageDataset, layout: StudyLayout, *, training_s: float | None = None
) -> bool:
    """Whether every model and resolution of the grid has a profile of this hardware, network and these settings.

    Args:
        training_s: as profile_study's. A profile that had at least half of the time that it would get now is good
            enough: a seed more does not ask for another.
    """
    device = torch.device(build.device_and_precision(config)[0])
    here = {"device": str(device), "device_name": device_name(device), "threads": torch.get_num_threads(),
            "keeps_freed_memory": keeps_freed_memory()}  # fmt: skip
    least_s = build.profiling_options(config, training_s=training_s)["rounds"].budget_s / 2
    for (model, resolution), wanted in _digests(config, images, num_classes=images.num_classes).items():
        path = layout.profile_path(model, resolution)
        if not path.exists():
            return False
        try:
            stored = read_profile(layout, path)
        except StudyError as damaged:
            log.warning("measured again: %s", damaged)
            return False
        if stored.get("digest") != wanted or {name: stored.get(name) for name in here} != here:
            return False
        had_s = (stored.get("rounds") or {}).get("budget_s")
        if had_s is not None and had_s < least_s:
            return False
    return True


def _digests(config: ResoMapConfig, images: ImageDataset | None, *, num_classes: int) -> dict[tuple[str, int], str]:
    """(model, resolution) -> digest of all that figures follow from besides the hardware and the time of measuring."""
    _, precision = build.device_and_precision(config)
    files = [] if images is None else _files(images, count=build.end_to_end_images(config))
    shared = {
        "version": PROFILE_VERSION,
        "packages": {name: package_version(name) for name in _PACKAGES},
        "precision": precision,
        "files": list(content_hashes(files, cache_dir=build.cache_dir(config)).values()),
    }
    options = {(cell.model, cell.resolution): cell for cell in build.cells(config)}
    return {
        option: digest(shared | build.profile_determinants(config, cell, num_classes=num_classes))
        for option, cell in options.items()
    }


def _subjects(config: ResoMapConfig, *, num_classes: int) -> Iterable[Subject]:
    """One network a model serves all resolutions that it can take, so that 65 cells do not fill the memory."""
    sides: dict[str, list[int]] = {}
    for cell in build.cells(config):
        if cell.resolution not in sides.setdefault(cell.model, []):
            sides[cell.model].append(cell.resolution)
    for model, resolutions in sides.items():
        shared: nn.Module | None = None
        for resolution in resolutions:
            if shared is None or not takes(shared, resolution):
                shared = build.model(config, Cell(model, resolution, 0), num_classes=num_classes).eval()
            yield Subject(model, shared, resolution)


def _training_batch(config: ResoMapConfig, subjects: Sequence[Subject]) -> int:
    largest = {s.model: s for s in sorted(subjects, key=lambda s: s.resolution)}.values()
    macs = max(get_model_complexity(s.network, (1, 3, s.resolution, s.resolution)).macs for s in largest)
    return int(np.clip(_MACS_OF_A_STEP // max(1, macs), 1, build.micro_batch(config, Ranks())))


def _files(images: ImageDataset, *, count: int) -> list[ImageRecord]:
    _, split = images.splits_used
    records = images.splits[split]
    return [records[i] for i in evenly_spread(len(records), count)]


def ratios_to_smallest(records: Sequence[ProfileRecord], *, protocol: str = BATCH_1) -> list[dict[str, Any]]:
    """Latency of each resolution over that of the model's smallest, from paired rounds.

    In the first mode in which all of the model's resolutions were timed; without such a mode there is none.
    """
    rows = []
    for model in dict.fromkeys(r.model for r in records):
        of_model = sorted((r for r in records if r.model == model and r.latency), key=lambda r: r.resolution)
        mode = shared_mode(of_model, protocol)
        for record in of_model[1:] if mode is not None else ():
            ratio = latency_ratio(record.at(protocol, mode), of_model[0].at(protocol, mode))
            rows.append({"model": model, "mode": mode, "resolution": record.resolution, "over": of_model[0].resolution}
                        | asdict(ratio))  # fmt: skip
    return rows


def unreached(records: Sequence[ProfileRecord], ratios: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the budget of time did not suffice for, in words."""
    wanted = records[0].rounds
    if wanted.precision is None:
        return []
    widths = [(r["high"] - r["low"]) / r["value"] for r in ratios]
    few = min(r["rounds"] for r in ratios)
    lines = []
    if max(widths) > wanted.precision:
        lines.append(f"intervals up to {max(widths):.1%} of the ratio wide, where {wanted.precision:.1%} was wanted")
    if few < wanted.least:
        lines.append(f"{few} undisturbed rounds, where {wanted.least} were wanted: something else slowed this machine")
    if lines:
        lines.append(f"timing ended after {wanted.budget_s:g} s; system.profiling.budget_s gives it more")
    return lines
