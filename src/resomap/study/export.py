"""The chosen run as files for deployment, checked on real images."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resomap.config.schema import ResoMapConfig
from resomap.data.resize import MAX_ASPECT
from resomap.errors import DeviceError, StudyError
from resomap.layout import BEST_WEIGHTS, EXPORTED_RECIPE, METADATA, ONNX_MODEL
from resomap.models.checkpoints import load_checkpoint
from resomap.models.names import as_listed
from resomap.models.onnx import INSTALL, onnx_bytes
from resomap.records import Preprocessing, RunRecord
from resomap.serialize import check_writable, make_dirs, write_atomic, write_json
from resomap.study import build
from resomap.study.explaining.images import ExplainedImages, open_explained
from resomap.study.load import Study
from resomap.study.output_folder import check_output_folder
from resomap.study.stored_files import read_answer

CHECKED_IMAGES = 16
_LARGEST_DIFFERENCE = 1e-3
"""Of the logits, relative to the largest where that is more than 1: float32 has seven digits."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and how it was checked."""

    folder: Path
    run: str
    files: tuple[str, ...]
    images: int
    """Real images that both answered."""
    largest_difference: float
    """Of the logits."""


def chosen_run(
    study: Study, *, model: str | None = None, resolution: int | None = None, seed: int | None = None, metric: str
) -> RunRecord:
    """The run asked for; what is left open is taken from the verdict, and the seed that was best on val.

    Raises:
        StudyError: there is no verdict to take it from, or no such run.
    """
    if model is None or resolution is None:
        answer = read_answer(study.layout)
        if answer is None or answer["model"] is None:
            raise StudyError("the study has no recommendation; name a run with --model and --resolution")
        model = answer["model"] if model is None else model
        resolution = answer["resolution"] if resolution is None else resolution
    model = as_listed(model, {run.cell.model for run in study.runs})
    fitting = [
        run for run in study.runs
        if (run.cell.model, run.cell.resolution) == (model, resolution) and seed in (None, run.cell.seed)
    ]  # fmt: skip
    if not fitting:
        there = ", ".join(dict.fromkeys(f"{run.cell.model} @{run.cell.resolution}" for run in study.runs))
        raise StudyError(
            f"no finished run of {model} @{resolution}{f' seed {seed}' if seed is not None else ''}: {there}"
        )
    return max(fitting, key=lambda run: _val_metric(run, metric))


def _val_metric(run: RunRecord, metric: str) -> float:
    found = [values.get(metric) for values in run.metrics.values() if values["split"] == "val"]
    return float(found[0] or 0.0) if found else 0.0


def export_run(
    config: ResoMapConfig,
    study: Study,
    run: RunRecord,
    folder: Path,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Answer real images with the network and its ONNX, then write weights, ONNX and preprocessing.json.

    Raises:
        StudyError: the ONNX file answers differently, or the folder is a study or holds a run; nothing is written.
        DatasetError: there are no images to check with; nothing is written.
        DeviceError: the packages for ONNX are missing.
    """
    import importlib.util

    check_output_folder(folder, name="--output", holds_run=_holds_checkpoint(folder))
    check_writable(folder / EXPORTED_RECIPE)
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise DeviceError(f"export needs {', '.join(missing)}; {INSTALL}")
    checkpoint = load_checkpoint(
        study.layout.run_dir(run.cell, run.family), allow_callables=build.allows_callables(config)
    )
    recipe = checkpoint.preprocessing
    pictures = open_explained(build.dataset(config), count=CHECKED_IMAGES, seed=0, max_pixels=build.max_pixels(config))
    progress("ONNX")
    side = recipe.resolution
    content = onnx_bytes(checkpoint.model, (2, 3, side, side), dynamic_batch=True)
    progress("checking")
    images, difference = _compare(checkpoint, content, pictures)
    make_dirs(folder)
    write_atomic(folder / ONNX_MODEL, lambda stream: stream.write(content))
    for name in (BEST_WEIGHTS, METADATA):
        _copy(checkpoint.path.parent / name, folder / name)
    write_json(folder / EXPORTED_RECIPE, _preprocessing(recipe, checkpoint.metadata.class_names))
    files = (ONNX_MODEL, BEST_WEIGHTS, METADATA, EXPORTED_RECIPE)
    return Exported(folder, str(run.cell), files, images, difference)


def _holds_checkpoint(folder: Path) -> bool:
    """Whether weights in it would be written over; those of an earlier export may be."""
    return (folder / METADATA).exists() and not (folder / EXPORTED_RECIPE).exists()


def _copy(source: Path, target: Path) -> None:
    """A file of its own: another name of the target's file keeps what it had."""
    with open(source, "rb") as stream:
        write_atomic(target, lambda out: shutil.copyfileobj(stream, out))


def _preprocessing(recipe: Preprocessing, class_names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "steps": list(preprocessing_steps(recipe)),
        "resolution": recipe.resolution,
        "information_resolution": recipe.information,
        "crop": "center",
        "kernel": recipe.kernel,
        "antialias": True,
        "mean": recipe.mean,
        "std": recipe.std,
        "class_names": class_names,
        "input": "images",
        "output": "logits",
    }


def preprocessing_steps(recipe: Preprocessing) -> Iterator[str]:
    """What is done to an image, in words that pin every pixel of data.resize.to_square."""
    yield (
        "decode the first frame to 8-bit RGB, upright by EXIF orientation, transparency over white, 16-bit grey by its "
        "high byte, without ICC profiles"
    )
    yield (
        f"if the long side is more than {MAX_ASPECT} times the short side, cut the long side to {MAX_ASPECT} times the "
        f"short side about the centre: crop offset (long - {MAX_ASPECT} * short) // 2"
    )
    sides = (recipe.information, recipe.resolution) if recipe.information < recipe.resolution else (recipe.resolution,)
    for side in sides:
        yield (
            f"resize the short side to {side} px and the long side to long * {side} / short px, long side rounded to "
            f"nearest (half up): (2 * long * {side} + short) // (2 * short); antialiased {recipe.kernel}, as "
            f"PIL.Image.resize with Resampling.{recipe.kernel.upper()}, to 8 bits"
        )
        yield f"cut the centre square of {side} px: crop offset (w - {side}) // 2 from left, (h - {side}) // 2 from top"
    yield "divide by 255, subtract mean, divide by std, by channel"
    yield "layout: batch, channel (RGB), height, width; float32"


def _compare(checkpoint: Any, content: bytes, pictures: ExplainedImages) -> tuple[int, float]:
    """(images, largest difference of the logits) of torch and ONNX Runtime on real images."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    worst, images = 0.0, 0
    for _, images_BCHW in pictures.batches(checkpoint.preprocessing, batch_size=5):
        with torch.inference_mode():
            ours = checkpoint.model(images_BCHW).numpy()
        theirs = session.run(None, {"images": images_BCHW.numpy()})[0]
        worst = max(worst, same_answers(ours, theirs))
        images += len(ours)
    return images, worst


def same_answers(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two networks' logits (B, K), which must be rounding only.

    Raises:
        StudyError: an answer is another class or not finite, or logits differ by more than rounding.
    """
    difference = float(np.abs(ours - theirs).max())
    allowed = _LARGEST_DIFFERENCE * max(1.0, float(np.abs(ours).max()))
    # not <=: NaN is no small difference
    if not np.array_equal(ours.argmax(axis=1), theirs.argmax(axis=1)) or not difference <= allowed:
        raise StudyError(f"the ONNX file answers differently (logits differ by {difference:.2g}); do not ship it")
    return difference
