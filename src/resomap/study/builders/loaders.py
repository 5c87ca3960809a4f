"""Batches for training and evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resomap.config.schema import ResoMapConfig
from resomap.records import Cell, ImageDataset, Preprocessing
from resomap.study.builders.data import augmentation, cache_dir, max_pixels
from resomap.study.builders.models import preprocessing
from resomap.study.ranks import Ranks

if TYPE_CHECKING:
    from resomap.data.loaders import EvalLoader, TrainLoader
    from resomap.data.pyramid import ImageStore


def _loader_options(config: ResoMapConfig, device_type: str) -> dict[str, Any]:
    workers = config.data.workers
    if workers is None:
        workers = 0 if device_type == "cpu" else 4
    return {
        "workers": workers,
        "pin_memory": config.data.pin_memory and device_type != "cpu",
        "prefetch_factor": config.data.prefetch_factor if workers else None,
        "persistent_workers": config.data.persistent_workers and workers > 0,
    }


def micro_batch(config: ResoMapConfig, ranks: Ranks) -> int:
    """Images per forward pass and process; the same at every resolution."""
    share = max(1, config.training.batch_size // ranks.world_size)
    return min(config.training.micro_batch or share, share)


def train_loader(
    config: ResoMapConfig, store: ImageStore, cell: Cell, *, device_type: str, ranks: Ranks
) -> TrainLoader:
    """Batches of augmented training images; the same crops at every resolution of a seed."""
    from resomap.data.loaders import TrainLoader

    seen = preprocessing(config, cell)
    return TrainLoader(
        store,
        resolution=cell.resolution,
        augmentation=augmentation(config, cell.resolution),
        effective_batch=config.training.batch_size,
        micro_batch=micro_batch(config, ranks),
        seed=cell.seed,
        mean=seen.mean,
        std=seen.std,
        rank=ranks.rank,
        world_size=ranks.world_size,
        **_loader_options(config, device_type),
    )


def eval_loader(config: ResoMapConfig, store: ImageStore, cell: Cell, *, device_type: str, ranks: Ranks) -> EvalLoader:
    """Batches of the centre squares, exactly as Pillow resizes them."""
    from resomap.data.loaders import EvalLoader

    seen = preprocessing(config, cell)
    return EvalLoader(
        store,
        resolution=cell.resolution,
        batch_size=config.training.micro_batch or config.training.batch_size,
        mean=seen.mean,
        std=seen.std,
        rank=ranks.rank,
        world_size=ranks.world_size,
        **_loader_options(config, device_type),
    )


def checkpoint_loader(
    config: ResoMapConfig, images: ImageDataset, split: str, *, preprocessing: Preprocessing, device: str
) -> EvalLoader:
    """Images of one split as a stored checkpoint wants them."""
    from resomap.data.hashes import content_hashes
    from resomap.data.loaders import EvalLoader
    from resomap.data.pyramid import StoreSettings, open_store

    records = images.splits[split]
    settings = StoreSettings(
        resolutions=(preprocessing.resolution,),
        kernel=preprocessing.kernel,
        crop="center",
        min_scale=1.0,
        max_pixels=max_pixels(config),
    )
    store = open_store(
        records,
        settings=settings,
        cache_dir=cache_dir(config),
        cache_gib=config.data.cache_gib,
        content_hashes=content_hashes(records, cache_dir=cache_dir(config)),
        on_bad_file=config.data.on_bad_file,
    )
    return EvalLoader(
        store,
        resolution=preprocessing.resolution,
        batch_size=config.training.batch_size,
        mean=preprocessing.mean,
        std=preprocessing.std,
        **_loader_options(config, device.partition(":")[0]),
    )
