from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from resomap.data.loaders import EvalLoader
from resomap.errors import DatasetError, StudyError
from resomap.evaluation.predict import predict
from resomap.evaluation.store import read_predictions, write_predictions
from resomap.records import Cell, Condition, ImageRecord, Predictions


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


def test_a_model_can_be_trained_after_predict_in_inference_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.inference_mode():
        predict(model, batches(), device="cpu")
    model.train()(batches()[0][0]).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_model_is_shown_images_in_its_own_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    expected = predict(model, batches(), device="cpu")
    found = predict(model.to(dtype), batches(), device="cpu")
    assert found.probabilities == pytest.approx(expected.probabilities, abs=0.01)
    assert found.probabilities.dtype == np.float32


def test_a_softmax_at_the_end_of_a_model_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    class EndsInSoftmax(MeanColour):
        def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            return super().forward(images_BCHW).softmax(dim=1)

    class EndsInRelu(MeanColour):
        def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            return super().forward(images_BCHW).relu()

    for model in (MeanColour(), EndsInRelu(), EndsInSoftmax(), EndsInSoftmax()):
        predict(model, batches(), device="cpu")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("EndsInSoftmax answers with probabilities (none below 0, sum 1) where logits are expected")


def test_predict_without_images() -> None:
    with pytest.raises(DatasetError, match="no images to evaluate"):
        predict(MeanColour(), [], device="cpu")


class FiveSquares:
    """What EvalLoader asks of a store: image i is plain grey 50 * i."""

    images = tuple(ImageRecord(f"c/{i}.png", Path(f"{i}.png"), i % 3) for i in range(5))
    labels = np.array([i % 3 for i in range(5)])

    def __len__(self) -> int:
        return 5

    def squares(self, resolution: int, indices: np.ndarray) -> np.ndarray:
        return np.stack([np.full((resolution, resolution, 3), 50 * i, dtype=np.uint8) for i in indices])


class Threshold(nn.Module):
    """Class 1 where the image is brighter than 0.5, by twice the difference in logits."""

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        brightness = images_BCHW.mean(dim=(1, 2, 3))
        return torch.stack([torch.full_like(brightness, 0.5), brightness], dim=1) * 2


def eval_loader(*, rank: int = 0, world_size: int = 1) -> EvalLoader:
    return EvalLoader(
        FiveSquares(),  # type: ignore[arg-type]
        resolution=4,
        batch_size=2,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        rank=rank,
        world_size=world_size,
    )


def test_predict_names_the_images_of_a_store() -> None:
    answers = predict(Threshold(), eval_loader(), device="cpu", class_names=["dark", "light"])
    assert answers.image_ids.tolist() == ["c/0.png", "c/1.png", "c/2.png", "c/3.png", "c/4.png"]
    assert answers.labels.tolist() == [0, 1, 2, 0, 1]
    # 0, 50, 100, 150, 200 of 255: brighter than a half from 150 on.
    assert answers.predicted.tolist() == [0, 0, 0, 1, 1]
    assert answers.probabilities[4, 1] == pytest.approx(1 / (1 + np.exp(2 * (0.5 - 200 / 255))), abs=1e-6)
    assert answers.class_names == ("dark", "light")


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_predict_of_several_ranks_equals_one(world_size: int) -> None:
    one = predict(Threshold(), eval_loader(), device="cpu")
    shards: list[object] = []
    for rank in range(world_size):
        with pytest.raises(DatasetError, match="no images"):  # gathering nothing only collects this rank's shard
            predict(
                Threshold(),
                eval_loader(rank=rank, world_size=world_size),
                device="cpu",
                world_size=world_size,
                gather=lambda own: shards.append(own) or [],
            )
    # The first rank's shard comes twice, as after a padded gather: each image counts once.
    both = predict(
        Threshold(),
        eval_loader(world_size=world_size),
        device="cpu",
        world_size=world_size,
        gather=lambda own: [*shards, own],
    )
    assert both.image_ids.tolist() == one.image_ids.tolist()
    assert both.labels.tolist() == one.labels.tolist()
    assert np.array_equal(both.probabilities, one.probabilities)


@pytest.mark.parametrize("mixed_precision", ["bf16", "fp16"])
def test_predict_in_low_precision_gives_float32_probabilities(mixed_precision: str) -> None:
    layer = nn.Conv2d(3, 3, 4)
    model = nn.Sequential(layer, nn.Flatten())
    exact = predict(model, batches(), device="cpu")
    rough = predict(model, batches(), device="cpu", mixed_precision=mixed_precision)
    assert rough.probabilities.dtype == np.float32
    assert rough.probabilities.sum(1) == pytest.approx(np.ones(5), abs=1e-6)
    assert rough.probabilities == pytest.approx(exact.probabilities, abs=0.02)
    assert layer.weight.dtype == torch.float32


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


def test_read_predictions_refuses_a_changed_value_and_a_changed_text(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_predictions(path, predictions(), cell=Cell("m", 32, 0), condition=Condition("val", 32, 32))
    whole = read_predictions(path)
    data = path.read_bytes()
    refused = 0
    for position in range(0, len(data), 5):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :])
        try:
            now = read_predictions(path)
        except StudyError:
            refused += 1
            continue
        # Padding, statistics and encodings may change without a meaning; no answer may.
        assert now.class_names == whole.class_names
        assert now.image_ids.tolist() == whole.image_ids.tolist()
        assert now.labels.tolist() == whole.labels.tolist()
        assert now.probabilities.tobytes() == whole.probabilities.tobytes()
    assert refused > 100
