"""Grad-CAM explains one layer of a model at all resolutions of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resomap.errors import TargetLayerError
from resomap.explainability.map_comparisons import compare_maps
from resomap.explainability.store import StoredMaps, read_maps
from resomap.layout import BEST_WEIGHTS, StudyLayout
from resomap.models.checkpoints import embedded_metadata, make_metadata, save_weights, write_metadata
from resomap.models.registry import build_model
from resomap.models.simple_cnn import SimpleCnn
from resomap.models.target_layers import get_target_layer
from resomap.records import Cell, ImageRecord, Preprocessing
from resomap.study.explaining import maps as explain
from resomap.study.explaining.explanations import analyse_sources
from resomap.study.explaining.images import ExplainedImages
from resomap.study.explaining.maps import MapRecipe
from resomap.study.resolution import find_checkpoints

MODEL = "mobilenet_v3_small"


@pytest.fixture
def checkpoints(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The network (MODEL, or the parameter) at 32 and 64 px."""
    model = getattr(request, "param", MODEL)
    for side in (32, 64):
        folder = tmp_path / "checkpoints" / str(side)
        folder.mkdir(parents=True)
        network = build_model(model, num_classes=2, pretrained=False, seed=0)
        known = Preprocessing(side, "bilinear", (0.5,) * 3, (0.25,) * 3)
        fields: dict[str, Any] = {
            "model": model, "family": "mobilenet", "resolution": side, "class_names": ("a", "b"),
            "preprocessing": known, "seed": 0,
        }  # fmt: skip
        save_weights(folder / BEST_WEIGHTS, network, metadata=make_metadata(**fields))
        write_metadata(folder, **fields)
    return tmp_path / "checkpoints"


@pytest.fixture
def analyse(checkpoints: Path, tmp_path: Path):
    """analyse(resolutions=None, faithfulness=True, **recipe): tables of those."""
    rng = np.random.default_rng(0)
    pictures = tuple(Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in range(4))
    records = tuple(ImageRecord(f"test/{i}.png", Path(f"{i}.png"), i % 2) for i in range(4))
    images = ExplainedImages("test", ("a", "b"), records, pictures)

    def run(resolutions: tuple[int, ...] = (32, 64), *, faithfulness: bool = True, **recipe: Any) -> dict[str, Any]:
        return analyse_sources(
            find_checkpoints(checkpoints, resolutions=resolutions), images,
            recipe=MapRecipe(**({"methods": ("gradcam",)} | recipe)), layout=StudyLayout(tmp_path / "study"),
            masks=None,
            agreement={"similarity": "spearman", "draws": 50, "seed": 0},
            extras={"faithfulness": faithfulness, "spectral": False, "random_weights": 0},
        )  # fmt: skip

    return run


def _stored(tmp_path: Path, side: int, model: str = MODEL) -> StoredMaps:
    stored = read_maps(StudyLayout(tmp_path / "study").maps_path(Cell(model, side, 0), "gradcam"))
    assert stored is not None
    return stored


def test_the_layer_of_the_smallest_resolution_is_explained_at_all(analyse, tmp_path: Path) -> None:
    network = build_model(MODEL, num_classes=2, pretrained=False, seed=0)
    layer = get_target_layer(network, resolution=32)
    last = get_target_layer(network, resolution=64)
    assert layer != last  # at 32 px the last feature map has one cell
    tables = analyse()
    assert tables["layers"] == {MODEL: layer}
    assert [_stored(tmp_path, side).notes["layer"] for side in (32, 64)] == [[layer] * 4] * 2
    assert _stored(tmp_path, 64).maps.shape[1] == 2 * _stored(tmp_path, 32).maps.shape[1]
    fields = {row["resolution"]: row["receptive_field_px"] for row in tables["faithfulness"]}
    assert fields[32] <= 32 < fields[64] <= 64


def test_maps_of_another_layer_are_made_again_when_a_smaller_resolution_comes(analyse, tmp_path: Path) -> None:
    last = analyse((64,))["layers"][MODEL]
    assert _stored(tmp_path, 64).notes["layer"] == [last] * 4
    layer = analyse()["layers"][MODEL]
    assert layer != last
    assert _stored(tmp_path, 64).notes["layer"] == [layer] * 4
    written = StudyLayout(tmp_path / "study").maps_path(Cell(MODEL, 64, 0), "gradcam")
    before = written.stat().st_mtime_ns
    analyse()
    assert written.stat().st_mtime_ns == before


def test_a_layer_that_is_asked_for_is_explained(analyse, tmp_path: Path) -> None:
    assert analyse(options={"gradcam": {"target_layer": "blocks.1"}})["layers"] == {MODEL: "blocks.1"}
    assert _stored(tmp_path, 64).notes["layer"] == ["blocks.1"] * 4


def test_maps_of_two_layers_are_not_compared(analyse, tmp_path: Path) -> None:
    analyse((64,))
    at_64 = _stored(tmp_path, 64)
    analyse((32,))
    with pytest.raises(TargetLayerError, match=f"{MODEL}, gradcam: maps of different layers .* one target_layer"):
        compare_maps([_stored(tmp_path, 32), at_64])


@pytest.mark.parametrize("checkpoints", ["tiny_cnn"], indirect=True)
def test_maps_of_an_earlier_version_are_made_again(analyse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "REVISIONS", {})
    analyse((32,), faithfulness=False)
    before = _stored(tmp_path, 32, "tiny_cnn").key
    monkeypatch.undo()
    analyse((32,), faithfulness=False)
    assert _stored(tmp_path, 32, "tiny_cnn").key != before


@pytest.mark.parametrize("checkpoints", ["tiny_cnn"], indirect=True)
def test_maps_of_earlier_weights_in_the_same_folder_are_made_again(analyse, checkpoints: Path, tmp_path: Path) -> None:
    analyse((32,), faithfulness=False)
    before = _stored(tmp_path, 32, "tiny_cnn")
    other = build_model("tiny_cnn", num_classes=2, seed=1)
    weights = checkpoints / "32" / BEST_WEIGHTS
    save_weights(weights, other, metadata=embedded_metadata(weights))
    analyse((32,), faithfulness=False)
    after = _stored(tmp_path, 32, "tiny_cnn")
    assert before.key != after.key
    assert not np.array_equal(before.maps, after.maps)


@pytest.mark.parametrize("checkpoints", ["tiny_cnn"], indirect=True)
def test_a_model_without_a_layer_has_no_gradcam_and_leaves_the_others_theirs(
    analyse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    analyse((32,), faithfulness=False)

    def none(*_: object, **__: object) -> str:
        raise TargetLayerError("Transformer goes on with tokens; choose another method")

    monkeypatch.setattr(explain, "get_target_layer", none)
    tables = analyse((32,), faithfulness=False, methods=("gradcam", "saliency"))
    assert {row["method"] for row in tables["spread"]} == {"saliency"}
    assert "no Grad-CAM of tiny_cnn: Transformer goes on with tokens" in caplog.text
    assert read_maps(StudyLayout(tmp_path / "study").maps_path(Cell("tiny_cnn", 32, 0), "gradcam")) is None
    with pytest.raises(TargetLayerError, match=r"^tiny_cnn: Grad-CAM needs a convolutional layer, .*another method"):
        analyse((32,), faithfulness=False)


@pytest.mark.parametrize("target", ["label", "predicted"])
@pytest.mark.parametrize("checkpoints", ["tiny_cnn"], indirect=True)
def test_a_run_s_answers_come_from_the_pass_that_is_explained(
    analyse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    passes: list[torch.Tensor] = []
    networks: list[SimpleCnn] = []

    def counted(network: SimpleCnn, images_BCHW: torch.Tensor) -> torch.Tensor:
        if images_BCHW.device.type != "meta":
            passes.append(images_BCHW)
            networks.append(network)
        return forward(network, images_BCHW)

    forward = SimpleCnn.forward
    monkeypatch.setattr(SimpleCnn, "forward", counted)
    analyse((32,), faithfulness=False, target=target, batch_size=2)
    assert [len(images) for images in passes] == [2, 2]
    monkeypatch.undo()
    with torch.inference_mode():
        probabilities = torch.cat([networks[0].eval()(images) for images in passes]).softmax(dim=1)
    stored = _stored(tmp_path, 32, "tiny_cnn")
    np.testing.assert_allclose(stored.confidence, probabilities.amax(dim=1), rtol=1e-5)
    assert stored.predicted.tolist() == probabilities.argmax(dim=1).tolist()
    assert stored.targets.tolist() == ([0, 1, 0, 1] if target == "label" else stored.predicted.tolist())
    kinds = [column.dtype for column in (stored.maps, stored.targets, stored.predicted, stored.confidence)]
    assert kinds == [np.float32, np.int64, np.int64, np.float32]
