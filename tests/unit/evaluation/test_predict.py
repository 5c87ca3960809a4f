from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from resomap.errors import DatasetError, StudyError
from resomap.evaluation.predict import predict
from resomap.evaluation.store import read_predictions, write_predictions
from resomap.records import Cell, Condition, Predictions


class MeanColour(nn.Module):
    """Logits are the mean of each of the three channels; dropout and batch norm would show a wrong mode."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(images_BCHW)).mean(dim=(2, 3))


def batches(n: int = 5, size: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    images = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(n) % 3
    return [(images[i : i + size], labels[i : i + size]) for i in range(0, n, size)]


def test_predict_gives_the_softmax_of_the_models_logits() -> None:
    answers = predict(MeanColour(), batches(), device="cpu")
    images = torch.cat([b[0] for b in batches()])
    # Fresh batch norm in evaluation mode divides by sqrt(1 + 1e-5).
    expected = (images.mean(dim=(2, 3)) / np.sqrt(1 + 1e-5)).softmax(1)
    assert answers.probabilities == pytest.approx(expected.numpy(), abs=1e-6)
    assert answers.labels.tolist() == [0, 1, 2, 0, 1]
    assert answers.class_names == ("0", "1", "2")


def test_predict_restores_each_modules_mode_also_after_an_error() -> None:
    model = MeanColour().train()
    model.norm.eval()
    before = model.norm.running_mean.clone()
    predict(model, batches(), device="cpu")
    assert (model.training, model.drop.training, model.norm.training) == (True, True, False)
    assert torch.equal(model.norm.running_mean, before)
    with pytest.raises(RuntimeError):
        predict(model, [(torch.rand(2, 7, 4, 4), torch.zeros(2))], device="cpu")
    assert (model.training, model.drop.training, model.norm.training) == (True, True, False)
    assert all(p.grad is None for p in model.parameters())


def test_predict_without_images() -> None:
    with pytest.raises(DatasetError, match="no images to evaluate"):
        predict(MeanColour(), [], device="cpu")


def predictions(names: tuple[str, ...] = ("a", "b")) -> Predictions:
    return Predictions(
        np.array(["x/1.png", "y/2\n.png", "z/é.png"]),
        np.array([0, 1, 1]),
        np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]], dtype=np.float32),
        names,
    )


def test_write_and_read_predictions(tmp_path: Path) -> None:
    path = tmp_path / "p" / "test.parquet"
    cell, condition = Cell("tiny_cnn", 32, 0), Condition("test", 32, 32)
    write_predictions(path, predictions(("<b>", "鳥")), cell=cell, condition=condition)
    stored = read_predictions(path)
    assert stored.class_names == ("<b>", "鳥")
    assert stored.image_ids.tolist() == predictions().image_ids.tolist()
    assert stored.labels.tolist() == [0, 1, 1]
    assert np.array_equal(stored.probabilities, predictions().probabilities)
    assert stored.predicted.tolist() == [1, 0, 0]


def test_predictions_are_plain_parquet(tmp_path: Path) -> None:
    import pandas as pd

    path = tmp_path / "test.parquet"
    write_predictions(path, predictions(), cell=Cell("m", 32, 0), condition=Condition("val", 32, 32))
    frame = pd.read_parquet(path)
    assert list(frame.columns) == ["image_id", "label", "prediction", "probabilities"]
    assert frame["probabilities"].iloc[0].tolist() == [0.25, 0.75]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_read_predictions_names_a_damaged_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "test.parquet"
    path.write_bytes(content)
    with pytest.raises(StudyError, match=r"test\.parquet is damaged"):
        read_predictions(path)


def test_read_predictions_of_a_foreign_parquet_file(tmp_path: Path) -> None:
    import pandas as pd

    path = tmp_path / "other.parquet"
    pd.DataFrame({"x": [1]}).to_parquet(path)
    with pytest.raises(StudyError, match="damaged"):
        read_predictions(path)


def test_read_predictions_missing(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="is missing"):
        read_predictions(tmp_path / "no.parquet")
