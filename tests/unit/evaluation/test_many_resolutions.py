"""Many conditions in one pass: the answers of separate evaluations, and each image decoded once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resomap.data import on_the_fly, pyramid
from resomap.data.loaders import EvalLoader
from resomap.data.pyramid import ImageStore, StoreSettings, open_store
from resomap.data.resize import to_square
from resomap.data.sizes_loader import SizesLoader
from resomap.errors import DatasetError
from resomap.evaluation.many_resolutions import View, predict_many
from resomap.evaluation.predict import predict
from resomap.models.registry import build_model
from resomap.records import ImageRecord

COMMON = {"batch_size": 2, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}


@pytest.fixture(params=["cached", "on the fly"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ImageStore:
    rng = np.random.default_rng(0)
    records = []
    for i in range(5):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
        records.append(ImageRecord(path.name, path, i % 2))
    return open_store(
        records,
        settings=StoreSettings((32, 48)),
        cache_dir=tmp_path / "cache",
        cache_gib=1.0 if request.param == "cached" else 0.0,
        content_hashes={record.image_id: record.image_id for record in records},
    )


def test_a_network_can_be_trained_after_predict_many_in_inference_mode(store: ImageStore) -> None:
    network = build_model("tiny_cnn", num_classes=2, seed=0)
    with torch.inference_mode():
        predict_many(
            {0: View(network, 32, 32)}, SizesLoader(store, resolutions=(32,), **COMMON), device="cpu", kernel="bilinear"
        )
    network.train()(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_networks_of_several_precisions_are_shown_the_same_images(store: ImageStore) -> None:
    networks = {
        dtype: build_model("tiny_cnn", num_classes=2, seed=0).to(dtype) for dtype in (torch.float32, torch.half)
    }
    views = {dtype: View(network, 32, 32) for dtype, network in networks.items()}
    found = predict_many(views, SizesLoader(store, resolutions=(32,), **COMMON), device="cpu", kernel="bilinear")
    assert found[torch.half].probabilities == pytest.approx(found[torch.float32].probabilities, abs=0.01)


def test_predict_many_gives_what_predict_gives(store: ImageStore) -> None:
    one, other = (build_model("tiny_cnn", num_classes=2, seed=seed).train() for seed in (0, 1))
    views = {"a32": View(one, 32, 32), "a48": View(one, 48, 48), "b48": View(other, 48, 48)}
    found = predict_many(views, SizesLoader(store, resolutions=(32, 48), **COMMON), device="cpu", kernel="bilinear")
    assert one.training  # as before
    for key, view in views.items():
        expected = predict(view.network, EvalLoader(store, resolution=view.side, **COMMON), device="cpu")
        assert np.array_equal(found[key].probabilities, expected.probabilities)
        assert found[key].image_ids.tolist() == expected.image_ids.tolist()
        assert found[key].labels.tolist() == expected.labels.tolist()


def test_less_information_is_the_smaller_square_enlarged(store: ImageStore) -> None:
    network = build_model("tiny_cnn", num_classes=2, seed=0)
    (found,) = predict_many(
        {0: View(network, 48, 32)}, SizesLoader(store, resolutions=[32], **COMMON), device="cpu", kernel="bicubic"
    ).values()
    pictures = [Image.fromarray(store.square(i, 32)) for i in range(5)]
    squares = np.stack([to_square(picture, 48, kernel="bicubic") for picture in pictures]).astype(np.float32) / 255
    images = torch.from_numpy((squares - COMMON["mean"]) / COMMON["std"]).float().permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = network.eval()(images).softmax(1)
    assert found.probabilities == pytest.approx(expected.numpy(), abs=1e-5)


def test_each_image_is_decoded_once(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    real: Callable = pyramid.decode_rgb
    for module in (pyramid, on_the_fly):
        monkeypatch.setattr(
            module, "decode_rgb", lambda path, **options: decoded.append(path.name) or real(path, **options)
        )
    network = build_model("tiny_cnn", num_classes=2, seed=0)
    views = {(side, info): View(network, side, info) for side, info in ((32, 32), (48, 48), (48, 32))}
    predict_many(views, SizesLoader(store, resolutions=(32, 48), **COMMON), device="cpu", kernel="bilinear")
    assert sorted(decoded) == ([] if isinstance(store, pyramid.CachedStore) else [f"{i}.png" for i in range(5)])


def test_predict_many_without_images(store: ImageStore) -> None:
    loader = SizesLoader(store, resolutions=(32,), **COMMON)
    loader._loader = []  # type: ignore[assignment]
    with pytest.raises(DatasetError, match="no images to evaluate"):
        predict_many({0: View(build_model("tiny_cnn", num_classes=2), 32, 32)}, loader, device="cpu", kernel="box")
