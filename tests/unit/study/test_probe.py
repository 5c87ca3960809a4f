"""A weights file that ResoMap wrote says what it tells apart and how it sees images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from resomap.config.load import load_config
from resomap.errors import CheckpointError
from resomap.models.checkpoints import make_metadata, save_weights
from resomap.models.registry import build_model
from resomap.records import Preprocessing
from resomap.study.probe import _network

RECIPE = Preprocessing(48, "bicubic", (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), 32)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    metadata = make_metadata(
        model="tiny_cnn", family="cnn", resolution=48, class_names=("bee", "ant"), preprocessing=RECIPE, seed=0
    )
    return save_weights(tmp_path / "mine.safetensors", build_model("tiny_cnn", num_classes=2), metadata=metadata)


def _probed(weights: Path, *class_names: str) -> Any:
    images: Any = SimpleNamespace(class_names=class_names, num_classes=len(class_names))
    return _network(load_config(), images, None, "tiny_cnn", weights, side=64)


def test_preprocessing_is_that_of_the_weights(weights: Path) -> None:
    given = _probed(weights, "bee", "ant")
    assert (given.recipe, given.name, given.warnings) == (RECIPE, "tiny_cnn", ())


@pytest.mark.parametrize("class_names", [("ant", "bee"), ("bee", "wasp")])
def test_other_classes_or_another_order_are_refused(weights: Path, class_names: tuple[str, str]) -> None:
    with pytest.raises(CheckpointError, match=r"mine.safetensors tells apart bee(,| and) ant; the data has .* --data"):
        _probed(weights, *class_names)


def test_weights_of_others_are_seen_as_the_configuration_says(tmp_path: Path) -> None:
    plain = save_weights(tmp_path / "plain.safetensors", build_model("tiny_cnn", num_classes=2))
    recipe = _probed(plain, "ant", "bee").recipe
    assert (recipe.resolution, recipe.information_resolution) == (64, None)


def test_weights_of_other_names_are_warned_of(tmp_path: Path) -> None:
    """What batch norm adds to the variance is in no file, and another library may add another."""
    state = build_model("tiny_cnn", num_classes=2).state_dict().items()
    torch.save({f"net{i}.{name.rpartition('.')[2]}": v for i, (name, v) in enumerate(state)}, tmp_path / "w.pth")
    (warning,) = _probed(tmp_path / "w.pth", "ant", "bee").warnings
    assert "w.pth: names are another library's" in warning
    assert "compare one answer" in warning
