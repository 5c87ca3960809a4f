"""Images reduced to an information resolution before they are brought to the input: in training and evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from resomap.data.hashes import content_hashes
from resomap.data.pyramid import StoreSettings, open_store
from resomap.data.resize import to_square
from resomap.data.sources import open_dataset
from resomap.records import CropBox
from resomap.study.load import load_study
from resomap.study.verdict.gain import detail_rows

LIMITED = ("--set", "data.information_resolution=32")


@pytest.mark.parametrize("crop", ["center", "random_resized"])
@pytest.mark.parametrize("cache_gib", [0, 1])
def test_a_store_gives_the_smaller_input_s_pixels_enlarged(
    tmp_path: Path, make_images: Callable[..., Path], crop: str, cache_gib: int
) -> None:
    data = open_dataset(make_images(tmp_path / "data", size=(90, 70)), cache_dir=tmp_path / "cache")
    records = data.splits["train"]
    options = {
        "cache_dir": tmp_path / "cache", "cache_gib": cache_gib,
        "content_hashes": content_hashes(records, cache_dir=tmp_path / "cache"),
    }  # fmt: skip
    settings = StoreSettings((24, 64), crop=crop, min_scale=0.2)
    plain, limited = (open_store(records, settings=s, **options) for s in (settings, replace(settings, information=24)))
    small = plain.square(3, 24)
    np.testing.assert_array_equal(limited.square(3, 24), small)
    np.testing.assert_array_equal(limited.square(3, 64), to_square(Image.fromarray(small), 64, kernel="bilinear"))
    assert not np.array_equal(limited.square(3, 64), plain.square(3, 64))
    if crop == "random_resized":
        box = CropBox(0.1, 0.2, 0.7, 0.6)
        small = limited.crop(3, box, 24)
        np.testing.assert_array_equal(
            limited.crop(3, box, 64), to_square(Image.fromarray(small), 64, kernel="bilinear")
        )


def test_a_study_on_less_information(
    tmp_path: Path, make_images: Callable[..., Path], cli: Callable, small_run: Callable
) -> None:
    data = make_images(tmp_path / "data", size=(64, 64))
    run = small_run(data, "--resolutions", "32,48", "--seeds", "0", "--set", "analysis.matrix=true")
    outcome = cli(*run, *LIMITED)
    assert outcome.status == 0, outcome.err
    study = load_study(tmp_path / "study")
    folder = tmp_path / "study/predictions/tiny_cnn/48/seed0"
    assert sorted(path.name for path in folder.glob("test*")) == [
        "test-in32-info32-as_trained.parquet", "test-in48-info32-as_trained.parquet"
    ]  # fmt: skip
    assert any("reduced to 32 px" in note for note in study.about["notes"])
    (record,) = [r for r in study.runs if r.cell.resolution == 48]
    assert record.determinants["protocol"]["data"]["information_resolution"] == 32
    # Nothing of the gain is detail: the condition with less detail is the run's own.
    (row,) = detail_rows(study, metric="accuracy")
    assert (row["detail"]["value"], row["size"]["value"]) == (0, row["total"]["value"])
    # The checkpoint knows, so that whoever evaluates it without the setting gets the same answers.
    checkpoint = tmp_path / "study/checkpoints/cnn/tiny_cnn/48/seed0"
    assert json.loads((checkpoint / "metadata.json").read_text())["preprocessing"]["information_resolution"] == 32
    out = tmp_path / "evaluated.parquet"
    common = ["--data", data, "--set", f"data.cache_dir={tmp_path / 'cache'}", "--device", "cpu"]
    assert cli("evaluate", checkpoint, *common, "--predictions", out).status == 0
    stored = pd.read_parquet(folder / "test-in48-info32-as_trained.parquet")
    evaluated = pd.read_parquet(out)
    np.testing.assert_allclose(np.stack(evaluated["probabilities"]), np.stack(stored["probabilities"]), atol=1e-6)
    # A probe shows it the same images, though it is given many sizes at once.
    fast = ["system.profiling.blocks=5", "system.profiling.warmup=1", "system.profiling.precision=null"]
    options = [part for setting in fast for part in ("--set", setting)]
    asked = ["--checkpoint", checkpoint, "--resolutions", "32,48", "--output", tmp_path / "probed"]
    assert cli("probe", *common, *options, *asked).status == 0
    probed = pd.read_parquet(tmp_path / "probed" / "test-in48-info32-as_trained.parquet")
    np.testing.assert_allclose(np.stack(probed["probabilities"]), np.stack(stored["probabilities"]), atol=1e-6)
    # Other images, other runs: the same study is not gone on with, without the setting.
    refused = cli(*run)
    assert refused.status == 2
    assert "information_resolution" in refused.err
