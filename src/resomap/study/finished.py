"""A study with nothing left to do: found out in a second, without torch.

When a study is finished in every part, finished.json keeps what that rests on: a hash of the configuration, images,
versions, code and machine, and the size and time of every file of the study. Another start that finds all of it
unchanged has nothing to do. Where anything differs, or the file is gone, everything is looked at as always.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resomap.config.schema import ResoMapConfig
from resomap.errors import ResoMapError, StorageError
from resomap.layout import StudyLayout
from resomap.records import Cell
from resomap.serialize import digest, package_version, write_json
from resomap.study import build

if TYPE_CHECKING:
    from resomap.study.sweep import StudyResult

log = logging.getLogger(__name__)

_PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow", "pandas", "matplotlib", "onnxruntime")
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
_DEVICE_FILES = ("nvidia0", "kfd", "dri", "accel")


@dataclass(frozen=True, slots=True)
class Finished:
    """What a start that has nothing to do shows."""

    cells: tuple[Cell, ...]
    notes: tuple[str, ...]
    closing: str
    """The text that the study ended with."""


def finished_study(config: ResoMapConfig) -> Finished | None:
    """The study if nothing is left to do for this configuration; None where that is not certain."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or not build.may_be_finished(config):
        return None
    try:
        images = build.dataset(config)
        layout = build.layout(config, images)
        stored = json.loads(layout.finished_path.read_text("utf-8"))
        if stored["files"] != _files(layout):
            return None
        if stored["key"] != _key(config, build.fingerprint(config, images)):
            return None
        cells = tuple(Cell(model, side, seed) for model, side, seed in stored["cells"])
        return Finished(cells, tuple(stored["notes"]), str(stored["closing"]))
    except (OSError, ValueError, KeyError, TypeError, ResoMapError):
        return None  # the start that looks at everything says what is wrong


def remember_finished(config: ResoMapConfig, result: StudyResult, *, closing: str) -> None:
    """Keep that the study is finished in every part.

    Args:
        closing: the text that it ended with.
    """
    if result.elsewhere or not result.fingerprint:
        return
    cells = [(cell.model, cell.resolution, cell.seed) for cell in result.cells]
    value = {
        "key": _key(config, result.fingerprint),
        "cells": cells,
        "notes": result.notes,
        "closing": closing,
        "files": _files(result.layout),
    }
    try:
        write_json(result.layout.finished_path, value)
    except StorageError as error:
        log.warning("%s", error)


def _key(config: ResoMapConfig, fingerprint: str) -> str:
    """Of everything outside the study that its results follow from."""
    return digest(
        {
            "config": build.storable(config).model_dump(mode="json"),
            "images": fingerprint,
            "weights": [_stamp(path) for path in build.weight_files(config)],
            "versions": {name: package_version(name) for name in _PACKAGES},
            "code": dict(_stamps(Path(__file__).parents[1], pattern="*.py")),
            "machine": {
                "platform": platform.platform(),
                "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
                "devices": [name for name in _DEVICE_FILES if Path("/dev", name).exists()],
                "variables": {name: os.environ.get(name) for name in _VARIABLES},
            },
        }
    )


def _files(layout: StudyLayout) -> dict[str, Any]:
    """Path in the study -> size and time of every file of its results."""
    found: dict[str, Any] = {}
    for part in layout.finished_parts():
        if part.is_dir():
            found |= {f"{part.name}/{name}": stamp for name, stamp in _stamps(part)}
        elif part.exists():
            found[part.name] = _stamp(part)
    return found


def _stamps(folder: Path, *, pattern: str = "*") -> Iterator[tuple[str, list[int]]]:
    for path in sorted(folder.rglob(pattern)):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                yield path.relative_to(folder).as_posix(), _stamp(path)


def _stamp(path: Path) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]
