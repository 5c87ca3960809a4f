"""ModelExplainer and its example see a picture as evaluation does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import resomap
from resomap.data.decode import decode_rgb
from resomap.errors import ConfigError
from resomap.explainability.explainer import ModelExplainer
from resomap.records import ImageRecord, Preprocessing

ROOT = Path(__file__).parents[3]


def _stored_sideways(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_noise(24, 40, 3)).save(path, exif=exif)


def _half_transparent(path: Path) -> None:
    rgba = _noise(24, 40, 4)
    rgba[:, :20] = 0
    Image.fromarray(rgba).save(path)


def _sixteen_bits(path: Path) -> None:
    Image.fromarray(_noise(24, 40, 1)[..., 0].astype(np.uint16) << 8).save(path)


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Flatten(), nn.Linear(4 * 4 * 4, 2)).eval()


@pytest.mark.parametrize("store", [_stored_sideways, _half_transparent, _sixteen_bits])
def test_an_opened_file_is_explained_as_evaluation_decodes_it(network: nn.Module, tmp_path: Path, store: Any) -> None:
    store(tmp_path / "x.png")
    explainer, decoded = ModelExplainer(network), decode_rgb(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as opened:
        found, expected = (explainer.explain_image(p, resolution=16, method="saliency") for p in (opened, decoded))
        assert np.array_equal(found.map_hw, expected.map_hw)
        assert found.confidence == expected.confidence
        drawn = [explainer.visualize_explanation(p, resolution=16).axes[0].get_images()[0] for p in (opened, decoded)]
        assert np.array_equal(drawn[0].get_array(), drawn[1].get_array())
        files = explainer.generate([("a", opened, 0), ("b", decoded, 0)], tmp_path / "out", resolution=16)
    assert files[1].read_bytes() == files[3].read_bytes()


def test_a_picture_that_cannot_be_decoded_is_one_line(network: nn.Module, tmp_path: Path) -> None:
    Image.fromarray(_noise(64, 64, 3)).save(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:4000])
    with Image.open(tmp_path / "x.png") as opened, pytest.raises(ConfigError, match=r"^picture: expected one that can"):
        ModelExplainer(network).explain_image(opened, resolution=16)


def _example(network: nn.Module, path: Path, monkeypatch: pytest.MonkeyPatch, output: Path) -> ModuleType:
    """The example on that image, with the checkpoint and data set that it would read."""
    spec = importlib.util.spec_from_file_location("example", ROOT / "example_explainability.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    known = SimpleNamespace(model="own", class_names=("a", "b"))
    recipe = Preprocessing(16, "bilinear", (0.5,) * 3, (0.25,) * 3)
    checkpoint = SimpleNamespace(model=network, metadata=known, preprocessing=recipe)
    images = SimpleNamespace(name="own", class_names=("a", "b"), splits={"test": (ImageRecord("x", path, 0),)})
    monkeypatch.setattr(resomap, "load_checkpoint", lambda _: checkpoint, raising=False)
    monkeypatch.setattr(resomap, "load_config", lambda *_, **__: None, raising=False)
    monkeypatch.setattr(example, "dataset", lambda _: images)
    monkeypatch.setattr(sys, "argv", ["example", "--checkpoint", str(path), "--output", str(output)])
    return example


def test_the_example_explains_what_evaluation_sees(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _stored_sideways(tmp_path / "x.png")
    assert _example(network, tmp_path / "x.png", monkeypatch, tmp_path / "a").main() == 0
    decode_rgb(tmp_path / "x.png").save(tmp_path / "y.png")
    assert _example(network, tmp_path / "y.png", monkeypatch, tmp_path / "b").main() == 0
    drawn = [np.asarray(Image.open(line)) for line in capsys.readouterr().out.splitlines()]
    assert np.array_equal(*drawn)


def test_the_example_ends_in_one_line_on_an_image_that_cannot_be_read(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    assert _example(network, tmp_path / "x.png", monkeypatch, tmp_path / "a").main() == 2
    assert capsys.readouterr().err.startswith("error: ")
