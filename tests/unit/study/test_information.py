"""Where the images are reduced first (data.information_resolution), whoever shows or alters them reduces them too."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from resomap.data.colour import normalised
from resomap.data.resize import to_square
from resomap.records import ImageRecord, Preprocessing
from resomap.report.html import data_uri
from resomap.study.explaining.explanations import _spectral
from resomap.study.explaining.images import ExplainedImages
from resomap.study.reporting.galleries import flip_galleries

COLOURS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def picture() -> Image.Image:
    """Noise: reduced to 8 px it is another image."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8))


class Seen(torch.nn.Module):
    """Remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[torch.Tensor] = []

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        self.shown.append(images_BCHW)
        return images_BCHW.mean(dim=(2, 3))


def test_bands_are_taken_out_of_the_images_that_the_network_was_trained_on(tmp_path) -> None:
    network = Seen()
    recipe = Preprocessing(16, "bilinear", **COLOURS, information_resolution=8)
    metadata = SimpleNamespace(model="m", resolution=16, seed=0)
    images = ExplainedImages("test", ("a", "b", "c"), (ImageRecord("x", tmp_path / "x", 0),), (picture(),))
    checkpoint = SimpleNamespace(model=network, preprocessing=recipe, metadata=metadata)
    _spectral([checkpoint], images, SimpleNamespace(batch_size=1, device="cpu"), progress=lambda _: None)
    whole = to_square(picture(), 16, kernel="bilinear", information=8)[None].astype(np.float32)
    torch.testing.assert_close(network.shown[0], normalised(whole, **COLOURS))


def test_the_gallery_shows_the_reduced_images() -> None:
    study = SimpleNamespace(grid={"m": ((8, 16), (0,))}, information=lambda side: min(side, 8))
    example = {"image_id": "x", "label": "a", "answers": [{"right": False}, {"right": True}]}
    flips = {"flips": [{"model": "m", "low_resolution": 8, "high_resolution": 16, "gained": 1,
                        "examples": {"gained": [example]}}]}  # fmt: skip
    (gallery,) = flip_galleries(study, flips, picture_of=lambda _: picture(), kernel="bilinear", count=1)
    reduced = Image.fromarray(to_square(picture(), 16, kernel="bilinear", information=8))
    shown = gallery["images"][0]["at"][1]
    assert shown["src"] == data_uri(np.asarray(reduced.resize((224, 224), Image.Resampling.NEAREST)))
