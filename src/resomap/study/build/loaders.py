"""Batches for training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from resomap.config.schema import ResoMapConfig
from resomap.errors import ConfigError
from resomap.printable import listed
from resomap.records import Cell, ImageDataset, Preprocessing
from resomap.study.build.data import augmentation, squares_store
from resomap.study.build.grid import cells
from resomap.study.build.models import model_on_meta, preprocessing
from resomap.study.build.training import device_type, processes_per_run, uses_graphs
from resomap.study.build.workers import fewest_workers, loader_workers
from resomap.training.ranks import Ranks

if TYPE_CHECKING:
    from resomap.data.loaders import EvalLoader, TrainLoader
    from resomap.data.pyramid import ImageStore
    from resomap.data.sizes_loader import SizesLoader


def _loader_options(config: ResoMapConfig, device_type: str, *, trains: bool = False) -> dict[str, Any]:
    workers = (loader_workers if trains else fewest_workers)(config, device_type)
    return {
        "workers": workers,
        "pin_memory": config.data.pin_memory and device_type != "cpu",
        "prefetch_factor": config.data.prefetch_factor if workers else None,
        "persistent_workers": config.data.persistent_workers and workers > 0,
    }


def micro_batch(config: ResoMapConfig, ranks: Ranks) -> int:
    """Images per forward pass and process; the same at every resolution."""
    processes = ranks.world_size if ranks.world_size > 1 else processes_per_run(config)
    share = max(1, config.training.batch_size // processes)
    return min(config.training.micro_batch or share, share)


def gradients_stay(config: ResoMapConfig, model: str, micro_batch: int, ranks: Ranks) -> bool:
    """Whether a forward pass in training finds gradients there: of the update's other micro-batches, or a graph's."""
    import torch

    from resomap.training.cuda_graphs import can_capture

    processes = ranks.world_size if ranks.world_size > 1 else processes_per_run(config)
    graphs = uses_graphs(config, model) and can_capture(torch.device(device_type(config)))
    return graphs or micro_batch * processes < config.training.batch_size


def fewest_images(config: ResoMapConfig, model: str, *, num_classes: int) -> dict[int, int]:
    """resolution -> fewest images of a micro-batch that the model can be trained on there."""
    from resomap.models.resolutions import least_training_batch

    sides = sorted({cell.resolution for cell in cells(config) if cell.model == model})
    network = model_on_meta(config, Cell(model, sides[0], 0), num_classes=num_classes)
    return {side: least_training_batch(network, side) for side in sides}


def smallest_micro_batch(config: ResoMapConfig, micro_batch: int, *, images: int) -> int:
    """Images of the smallest micro-batch of an epoch of so many images: what is left over is cut too."""
    from resomap.data.epoch_plan import smallest_part

    return smallest_part(images, effective_batch=config.training.batch_size, micro_batch=micro_batch)


def check_micro_batch(config: ResoMapConfig, ranks: Ranks, *, images: int, num_classes: int) -> None:
    """Every model can be trained on the smallest micro-batch at every resolution.

    Args:
        images: of the training split.
    Raises:
        ConfigError: BatchNorm cannot normalise the single image that there would be.
    """
    micro = micro_batch(config, ranks)
    if smallest_micro_batch(config, micro, images=images) > 1:
        return
    needing = [
        f"{model} @{side}"
        for model in dict.fromkeys(cell.model for cell in cells(config))
        for side, fewest in fewest_images(config, model, num_classes=num_classes).items()
        if fewest > 1
    ]
    if not needing:
        return
    training = config.training
    larger = range(micro + 1, training.batch_size + 1)
    works = next((m for m in larger if smallest_micro_batch(config, m, images=images) > 1), None)
    asked = "micro_batch" if training.micro_batch is not None and works is not None else "batch_size"
    advice = f"set it to {works}" if asked == "micro_batch" else "raise it"
    raise ConfigError(
        f"training.{asked}: with {micro} image(s) at once some micro-batches hold a single one, on which "
        f"{listed(needing, most=6)} cannot be trained (feature maps of 1 x 1: BatchNorm needs two images); {advice}, "
        "or leave these resolutions out"
    )


def with_micro_batch_limit(config: ResoMapConfig, limit: int | None) -> ResoMapConfig:
    """The configuration with at most `limit` images at once; None: unchanged."""
    if limit is None:
        return config
    micro = min(limit, config.training.micro_batch or config.training.batch_size)
    return config.model_copy(update={"training": config.training.model_copy(update={"micro_batch": micro})})


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
        **_loader_options(config, device_type, trains=True),
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
    config: ResoMapConfig,
    images: ImageDataset,
    split: str,
    *,
    preprocessing: Preprocessing,
    device: str,
    trains: bool = False,
) -> EvalLoader:
    """Images of one split as a stored checkpoint wants them.

    Args:
        trains: in a random order, cut into the updates and micro-batches that training has.
    """
    from resomap.data.loaders import EvalLoader

    side = preprocessing.resolution
    return EvalLoader(
        squares_store(
            config,
            images,
            split,
            resolutions=[side],
            kernel=preprocessing.kernel,
            information=preprocessing.information_resolution,
        ),
        resolution=side,
        order_seed=0 if trains else None,
        update_batch=config.training.batch_size if trains else None,
        **_evaluation_options(config, preprocessing, device),
    )


def sizes_loader(
    config: ResoMapConfig,
    images: ImageDataset,
    split: str,
    *,
    preprocessing: Preprocessing,
    resolutions: Sequence[int],
    device: str,
) -> SizesLoader:
    """Images of one split as a stored checkpoint wants them, but at all of these resolutions, each decoded once."""
    from resomap.data.sizes_loader import SizesLoader

    return SizesLoader(
        squares_store(config, images, split, resolutions=resolutions, kernel=preprocessing.kernel),
        resolutions=resolutions,
        **_evaluation_options(config, preprocessing, device),
    )


def _evaluation_options(config: ResoMapConfig, preprocessing: Preprocessing, device: str) -> dict[str, Any]:
    return {
        "batch_size": config.training.micro_batch or config.training.batch_size,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        **_loader_options(config, device.partition(":")[0]),
    }
