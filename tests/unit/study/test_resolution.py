"""ResolutionExplainabilityAnalyzer: which checkpoints it takes, of which images, and where it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resomap.config.load import load_config
from resomap.errors import CheckpointError, DatasetError, StudyError
from resomap.layout import BEST_WEIGHTS
from resomap.models.checkpoints import make_metadata, save_weights, write_metadata
from resomap.models.registry import build_model
from resomap.records import Preprocessing
from resomap.study.resolution import ResolutionExplainabilityAnalyzer, find_checkpoints


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """tiny_cnn at 32 px."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    fields: dict[str, Any] = {
        "model": "tiny_cnn", "family": "cnn", "resolution": 32, "class_names": ("a", "b"), "seed": 0,
        "preprocessing": Preprocessing(32, "bilinear", (0.5,) * 3, (0.25,) * 3),
    }  # fmt: skip
    network = build_model("tiny_cnn", num_classes=2, seed=0)
    save_weights(folder / BEST_WEIGHTS, network, metadata=make_metadata(**fields))
    write_metadata(folder, **fields)
    return folder


def test_images_that_are_named_are_taken_beside_a_configuration_too(checkpoints: Path, tmp_path: Path) -> None:
    config = load_config(overrides=["data.source=acuity", "system.device=cpu"])
    analyzer = ResolutionExplainabilityAnalyzer(
        checkpoints, tmp_path / "out", data=str(tmp_path / "photos"), config=config
    )
    with pytest.raises(DatasetError, match="photos"):
        analyzer.run()
    assert not (tmp_path / "out").exists()


def test_a_study_is_not_written_over(checkpoints: Path, tmp_path: Path) -> None:
    for file in ("study.yaml", "results.csv", "results.json"):
        (tmp_path / file).write_text("{}")
    inside = tmp_path / "checkpoints/cnn/tiny_cnn/32/new"  # tmp_path/checkpoints is that of the study now
    for folder, said in ((tmp_path, "is a study"), (inside, "lies among the runs of a study")):
        with pytest.raises(StudyError, match=f"^output_dir: expected a folder for the files, .*{said}; choose another"):
            ResolutionExplainabilityAnalyzer(checkpoints, folder)


def test_models_are_named_in_any_case(checkpoints: Path) -> None:
    (found,) = find_checkpoints(checkpoints, models=["vgg11", "Tiny-CNN"])
    assert found.cell.model == "tiny_cnn"
    with pytest.raises(CheckpointError, match="found: tiny_cnn @32"):
        find_checkpoints(checkpoints, models=["Simple-CNN"])
