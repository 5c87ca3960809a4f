"""Which of the explained images are shown, and looked at closely."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resomap.explainability.store import StoredMaps, write_maps
from resomap.layout import StudyLayout
from resomap.records import Cell, ImageDataset, ImageRecord
from resomap.study.costs import profile
from resomap.study.explaining.images import ExplainedImages, evenly_spread
from resomap.study.reporting import paper_figures
from resomap.study.reporting.galleries import explanation_galleries

CELL = Cell("tiny_cnn", 32, 0)
SHOWN = [0, 13, 25, 38, 50, 63]  # 63 / 5 is 12.6 images a step


@pytest.fixture
def explained() -> ExplainedImages:
    """64 images, the i-th of grey level 2 i."""
    records = tuple(ImageRecord(f"test/a/{i}.png", Path(f"{i}.png"), 0) for i in range(64))
    pictures = tuple(Image.new("RGB", (8, 8), (2 * i,) * 3) for i in range(64))
    return ExplainedImages("test", ("a",), records, pictures)


def _maps() -> StoredMaps:
    zeros = np.zeros(64, dtype=np.int64)
    boxes = np.tile([0.0, 0.0, 1.0, 1.0], (64, 1))
    ids = tuple(f"test/a/{i}.png" for i in range(64))
    maps = np.random.default_rng(0).random((64, 2, 2)).astype(np.float32)
    return StoredMaps(CELL, "gradcam", "k", ids, maps, boxes, zeros, zeros, zeros, np.ones(64, np.float32), {})


def test_positions_are_evenly_spread_and_no_image_comes_twice() -> None:
    assert evenly_spread(64, 6).tolist() == SHOWN
    assert evenly_spread(3, 6).tolist() == [0, 1, 2]
    assert evenly_spread(5, 1).tolist() == [0]
    for images in range(1, 40):
        for count in range(1, images + 1):
            assert len(set(evenly_spread(images, count).tolist())) == count


def test_report_figures_probes_and_timed_files_take_the_same_images(
    explained: ExplainedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = StudyLayout(tmp_path)
    write_maps(layout.maps_path(CELL, "gradcam"), _maps())
    study: Any = SimpleNamespace(
        layout=layout, explanations={"methods": ["gradcam"]}, grid={"tiny_cnn": ((32,), (0,))},
        runs=(SimpleNamespace(cell=CELL),),
    )  # fmt: skip
    (gallery,) = explanation_galleries(study, explained, 6)
    assert [image["name"] for image in gallery["images"]] == [f"test/a/{i}.png" for i in SHOWN]
    monkeypatch.setattr(
        paper_figures, "gallery_figure", lambda rows, **_: [row[0].picture[0, 0, 0] // 2 for row in rows]
    )
    assert paper_figures.across_resolutions(explained, [_maps()], count=6) == SHOWN
    assert paper_figures.across_methods(explained, [_maps(), _maps()], count=6) == SHOWN
    assert explained.spread_over(6)[0].tolist() == SHOWN
    images = ImageDataset("data", tmp_path, ("a",), {"test": explained.records})
    assert [record.path.stem for record in profile._files(images, count=6)] == list(map(str, SHOWN))
