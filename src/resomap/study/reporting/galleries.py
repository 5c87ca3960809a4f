"""The galleries of the report: where the models look, and images whose answer turns with resolution."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from resomap.data.decode import decode_rgb
from resomap.data.resize import to_square
from resomap.errors import BadImageError
from resomap.explainability.overlay import overlay
from resomap.explainability.store import read_maps
from resomap.printable import counted, printable
from resomap.records import ImageDataset
from resomap.report.html import data_uri
from resomap.study.explaining.images import ExplainedImages, evenly_spread
from resomap.study.load import Study

log = logging.getLogger(__name__)

PictureOf = Callable[[str], Image.Image | None]
"""Image id -> the decoded image; None where it cannot be read."""

_PICTURE = 168
_TURNED = 224
"""Side of the pictures that show what a network was given: larger inputs look like this one."""
_KINDS = (("gained", "right only with more pixels"), ("lost", "wrong with more pixels"))


def pictures_of(images: ImageDataset, split: str, *, max_pixels: int) -> PictureOf:
    """Opens images of one split by their id."""
    records = {record.image_id: record for record in images.splits.get(split, ())}

    def picture_of(image_id: str) -> Image.Image | None:
        if image_id not in records:
            return None
        try:
            return decode_rgb(records[image_id].path, max_pixels=max_pixels)
        except BadImageError as bad:
            log.warning("left out of the gallery: %s", bad)
            return None

    return picture_of


def explanation_galleries(study: Study, explained: ExplainedImages, count: int) -> Iterator[dict[str, Any]]:
    """The explained images of each model, first seed, with their maps at every resolution.

    Args:
        count: images shown.
    """
    if study.explanations is None:
        return
    method = study.explanations["methods"][0]
    chosen = evenly_spread(len(explained.records), count)
    squares = explained.squares(_PICTURE, kernel="bilinear")
    names = explained.class_names
    for model, (resolutions, seeds) in study.grid.items():
        stored = []
        for side in resolutions:
            record = next(
                r for r in study.runs if (r.cell.model, r.cell.resolution, r.cell.seed) == (model, side, seeds[0])
            )
            maps = read_maps(study.layout.maps_path(record.cell, method))
            if maps is not None and len(maps.maps) == len(squares):
                stored.append(maps)
        if not stored:
            continue
        yield {
            "model": model,
            "method": method.replace("_", " "),
            "seed": seeds[0],
            "sides": [maps.cell.resolution for maps in stored],
            "images": [
                {
                    "name": printable(explained.records[i].image_id),
                    "label": names[int(explained.labels[i])],
                    "original": data_uri(squares[i]),
                    "at": [
                        {
                            "side": maps.cell.resolution,
                            "src": data_uri(overlay(squares[i], maps.maps[i])),
                            "answer": names[int(maps.predicted[i])],
                            "confidence": float(maps.confidence[i]),
                            "right": bool(maps.correct[i]),
                        }
                        for maps in stored
                    ],
                }
                for i in chosen
            ],
        }


def flip_galleries(
    study: Study, verdict: Mapping[str, Any], *, picture_of: PictureOf, kernel: str, count: int
) -> Iterator[dict[str, Any]]:
    """For each model: images that only a larger input gets right, and images that it gets wrong.

    Args:
        count: images shown of each kind.
    """
    for turned in verdict["flips"]:
        sides = study.grid[turned["model"]][0]
        shown_at = {side: study.information(side) for side in sides}
        for kind, words in _KINDS:
            shown: list[dict[str, Any]] = []
            for example in turned["examples"].get(kind, ()):
                picture = picture_of(example["image_id"]) if len(shown) < count else None
                if picture is not None:
                    shown.append(_turned(example, picture, shown_at, kernel=kernel))
            if shown:
                step = f"{turned['low_resolution']} to {turned['high_resolution']} px"
                about = f"{counted(turned[kind], 'image')} {words} ({step})"
                yield {"model": turned["model"], "about": about, "sides": list(sides), "images": shown}


def _turned(
    example: Mapping[str, Any], picture: Image.Image, shown_at: Mapping[int, int], *, kernel: str
) -> dict[str, Any]:
    """One image at every input size.

    Args:
        shown_at: input resolution -> information resolution.
    """
    return {
        "name": printable(example["image_id"]),
        "label": example["label"],
        "at": [
            {"side": side, "src": data_uri(_as_given(picture, side, kernel=kernel, information=information)), **answer}
            for (side, information), answer in zip(shown_at.items(), example["answers"], strict=True)
        ],
    }


def _as_given(picture: Image.Image, side: int, *, kernel: str, information: int) -> np.ndarray:
    """The square that a network of this input size was given, its pixels enlarged as they are."""
    square = Image.fromarray(to_square(picture, side, kernel=kernel, information=information))
    how = Image.Resampling.NEAREST if side < _TURNED else Image.Resampling.LANCZOS
    return np.asarray(square.resize((_TURNED, _TURNED), how))
