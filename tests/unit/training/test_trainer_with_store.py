"""The Trainer on ResoMap's own loaders: windows, augmentation, resumption."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from resomap.data.augmentation import AugmentationSettings
from resomap.data.loaders import EvalLoader, TrainLoader
from resomap.data.pyramid import ImageStore, StoreSettings, open_store
from resomap.data.sources import open_dataset
from resomap.errors import ConfigError
from resomap.training.callbacks import Callback

RGB = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
SIDE = 32


@pytest.fixture
def stores(make_images, tmp_path) -> dict[str, ImageStore]:
    """26 training and 6 validation photographs of two classes."""
    root = make_images(tmp_path / "images", splits={"train": 13, "val": 3, "test": 1})
    images = open_dataset(root, cache_dir=tmp_path / "cache")
    return {
        split: open_store(
            records,
            settings=StoreSettings(resolutions=(SIDE,), crop="random_resized", min_scale=0.35),
            cache_dir=tmp_path / "cache",
            cache_gib=1.0,
            content_hashes={record.image_id: record.image_id for record in records},
        )
        for split, records in images.splits.items()
    }


@pytest.fixture
def loaders(stores) -> Callable[..., tuple[TrainLoader, EvalLoader]]:
    """Windows of 12, 12 and 2 images."""

    def make(*, micro_batch: int = 12, **options) -> tuple[TrainLoader, EvalLoader]:
        train = TrainLoader(
            stores["train"],
            resolution=SIDE,
            augmentation=AugmentationSettings(),
            effective_batch=12,
            micro_batch=micro_batch,
            seed=3,
            **RGB,
            **options,
        )
        return train, EvalLoader(stores["val"], resolution=SIDE, batch_size=4, **RGB)

    return make


class Stop(Callback):
    def on_update_end(self, trainer) -> None:
        if trainer.update == 5:
            trainer.request_stop()


def test_micro_batches_equal_the_window(trainer, network, loaders, weights):
    results = []
    for micro_batch in (12, 5):
        model = network()
        result = trainer(model, *loaders(micro_batch=micro_batch), learning_rate=0.01).fit()
        results.append((result, weights(model)))
    (one, big), (other, small) = results
    assert one.updates == other.updates == 3 * 3
    for name in big:
        assert torch.allclose(big[name], small[name], atol=1e-6), name
    assert [r.train_loss for r in one.epochs] == pytest.approx([r.train_loss for r in other.epochs], abs=1e-6)


def test_update_images_count_the_whole_window(trainer, loaders):
    seen: list[int] = []

    class Watch(Callback):
        def on_update_end(self, made) -> None:
            seen.append(made.images_in_update)

    trainer(None, *loaders(micro_batch=5), epochs=1, callbacks=[Watch()]).fit()
    assert seen == [12, 12, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_in_the_middle_of_an_epoch_is_bit_identical(
    trainer, network, loaders, weights, assert_identical, tmp_path, workers
):
    options = {"optimizer": "adamw", "learning_rate": 0.01, "state_path": tmp_path / "last.pt"}
    whole = network(dropout=0.3, norm=True)
    expected = trainer(whole, *loaders(micro_batch=5), **options | {"state_path": None}).fit()
    with pytest.raises(KeyboardInterrupt):
        trainer(network(dropout=0.3, norm=True), *loaders(micro_batch=5), callbacks=[Stop()], **options).fit()
    model = network(dropout=0.3, norm=True)
    resumed = trainer(model, *loaders(micro_batch=5, workers=workers), **options)
    assert resumed.resume() == 5
    result = resumed.fit()
    assert_identical(weights(whole), weights(model))
    assert result.best_epoch == expected.best_epoch


def test_loader_of_another_rank_is_refused(trainer, loaders):
    with pytest.raises(ConfigError, match="made for rank 1 of 2, this process is rank 0 of 1"):
        trainer(None, *loaders(micro_batch=5, rank=1, world_size=2))
