"""From the configuration to objects. Besides the command line, the only module that reads config objects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resomap.config.load import flatten
from resomap.config.schema import ResoMapConfig
from resomap.errors import CheckpointError, ConfigError, DatasetError, ResoMapError, printable
from resomap.layout import StudyLayout, folder_name
from resomap.records import Cell, ImageDataset, Preprocessing, RunRecord
from resomap.study.ranks import Ranks

if TYPE_CHECKING:
    from torch import nn

    from resomap.data.augmentation import AugmentationSettings
    from resomap.data.loaders import EvalLoader, TrainLoader
    from resomap.data.pyramid import ImageStore, StoreSettings
    from resomap.study.known_answers import KnownAnswer
    from resomap.tracking.protocol import Tracker
    from resomap.training.callbacks import Callback
    from resomap.training.trainer import Trainer

PROTOCOL_VERSION = 1
"""Counts up when the same settings would train other weights than before."""


def cache_dir(config: ResoMapConfig) -> Path:
    """Where decoded, generated and downloaded images are kept."""
    return Path(config.data.cache_dir).expanduser()


def dataset(config: ResoMapConfig) -> ImageDataset:
    """Open the data source and split it."""
    from resomap.data.sources import open_dataset

    return open_dataset(
        config.data.source,
        val_fraction=config.data.val_fraction,
        test_fraction=config.data.test_fraction,
        split_seed=config.data.split_seed,
        cache_dir=cache_dir(config),
        acuity_options=acuity_options(config),
    )


def acuity_options(config: ResoMapConfig) -> dict[str, Any]:
    """Arguments of make_acuity."""
    acuity = config.data.acuity
    return {
        "variant": acuity.variant,
        "size": acuity.size,
        "bands": tuple(acuity.bands),
        "train": acuity.train,
        "val": acuity.val,
        "test": acuity.test,
        "native_dprime": acuity.native_dprime,
        "seed": acuity.seed,
    }


def layout(config: ResoMapConfig, images: ImageDataset) -> StudyLayout:
    """The study's directory."""
    output = config.study.output.replace("{data}", folder_name(images.name))
    return StudyLayout(Path(output).expanduser())


def study_name(config: ResoMapConfig, images: ImageDataset) -> str:
    """The study's name, for people and for MLflow."""
    return config.study.name or images.name


def known_answers(config: ResoMapConfig, study: StudyLayout, records: Iterable[RunRecord]) -> list[KnownAnswer]:
    """Each band's accuracy beside the ideal observer's; empty unless the images are acuity's."""
    from resomap.study.known_answers import known_answers as compare

    source, _, variant = config.data.source.partition(":")
    if source != "acuity":
        return []
    from resomap.data.acuity_render import AcuitySpec

    options = acuity_options(config)
    spec = AcuitySpec(**(options | {"variant": variant or options["variant"]}))
    pairs = zip(spec.class_names[::2], spec.class_names[1::2], strict=True)
    return compare(
        study,
        records,
        bands=dict(zip(spec.evidence_bands, pairs, strict=True)),
        ideal=spec.observer(config.data.kernel).within_band,
    )


def max_pixels(config: ResoMapConfig) -> int:
    """Images with more pixels are refused."""
    return int(config.data.max_megapixels * 1e6)


def fingerprint(config: ResoMapConfig, images: ImageDataset) -> str:
    """Hash of all images, labels and splits."""
    from resomap.data.hashes import fingerprint as fingerprint_of

    return fingerprint_of(images, cache_dir=cache_dir(config))


def stores(
    config: ResoMapConfig, images: ImageDataset, *, on_progress: Callable[[str, int, int], None]
) -> dict[str, ImageStore]:
    """Decode every split once; unreadable files stop here, all named together, or are left out."""
    from resomap.data.hashes import content_hashes
    from resomap.data.pyramid import open_store

    every = [record for split in images.splits.values() for record in split]
    hashes = content_hashes(every, cache_dir=cache_dir(config))
    opened: dict[str, ImageStore] = {}
    problems: list[str] = []
    for split, records in images.splits.items():
        try:
            opened[split] = open_store(
                records,
                settings=_store_settings(config, split),
                cache_dir=cache_dir(config),
                cache_gib=config.data.cache_gib,
                content_hashes=hashes,
                on_bad_file=config.data.on_bad_file,
                progress=partial(on_progress, split),
            )
        except DatasetError as error:
            problems.append(f"{split}: {error}")
    if problems:
        raise DatasetError("\n".join(problems))
    return opened


def _store_settings(config: ResoMapConfig, split: str) -> StoreSettings:
    """What of a split is kept: squares, and for training crops the levels that any resolution can ask for."""
    from resomap.data.pyramid import StoreSettings

    sides = tuple(sorted(config.sweep.resolutions))
    chosen = [augmentation(config, side) for side in sides]
    return StoreSettings(
        resolutions=sides,
        kernel=config.data.kernel,
        crop=config.data.augmentation.crop if split == "train" else "center",
        min_scale=min(each.scale[0] for each in chosen),
        min_ratio=min(min(each.ratio[0], 1 / each.ratio[1]) for each in chosen),
        max_pixels=max_pixels(config),
    )


def cells(config: ResoMapConfig) -> list[Cell]:
    """The grid, one seed after the other, so that a study cut short has whole comparisons."""
    from resomap.models.registry import canonical_name

    models = [canonical_name(name) for name in config.sweep.models]
    return [
        Cell(model, resolution, seed)
        for seed in config.sweep.seeds
        for model in models
        for resolution in config.sweep.resolutions
    ]


def check_models(config: ResoMapConfig) -> None:
    """Every model is known and takes every resolution; all problems in one ConfigError."""
    from resomap.models.registry import canonical_name, check_resolution

    problems: list[str] = []
    for index, name in enumerate(config.sweep.models):
        try:
            if ":" in name and not config.models.allow_callables:
                raise ConfigError(
                    f"{printable(name)} runs code of yours; allow it with --set models.allow_callables=true"
                )
            canonical_name(name)
        except ResoMapError as error:
            problems.append(f"sweep.yaml: sweep.models[{index}]: {error}")
            continue
        for position, resolution in enumerate(config.sweep.resolutions):
            try:
                check_resolution(name, resolution, specs=model_specs(config), num_classes=2)
            except ResoMapError as error:
                problems.append(f"sweep.yaml: sweep.resolutions[{position}]: {error}")
    if problems:
        raise ConfigError(problems)


def check_parameters(config: ResoMapConfig, *, num_classes: int) -> dict[str, int]:
    """Parameters of each model, the same at every resolution (DESIGN: only resolution differs).

    Raises:
        ResolutionError: a model's parameters depend on the resolution, or it cannot take one.
        CheckpointError: pretrained weights cannot be had, or are another model's.
    """
    from resomap.models.registry import assert_same_parameters, canonical_name, check_pretrained

    specs = model_specs(config)
    counts = {}
    for name in config.sweep.models:
        counts[canonical_name(name)] = assert_same_parameters(
            name, config.sweep.resolutions, num_classes=num_classes, specs=specs
        )
        check_pretrained(name, config.models.pretrained, num_classes=num_classes, specs=specs)
    return counts


def model_specs(config: ResoMapConfig) -> dict[str, dict[str, Any]]:
    """Descriptions of our own networks, by name."""
    return {
        name: {"channels": list(cnn.channels), "kernel_size": cnn.kernel_size, "dropout": cnn.dropout}
        for name, cnn in (("simple_cnn", config.models.simple_cnn), ("tiny_cnn", config.models.tiny_cnn))
    }


def family(config: ResoMapConfig, model: str) -> str:
    """The family whose folder holds the model's checkpoints."""
    from resomap.models.registry import family_of

    return family_of(model, families=config.models.families)


def model(config: ResoMapConfig, cell: Cell, *, num_classes: int) -> nn.Module:
    """The cell's model, initialised from its seed (or with the pretrained weights)."""
    from resomap.models.registry import build_model

    return build_model(
        cell.model,
        num_classes=num_classes,
        pretrained=config.models.pretrained,
        resolution=cell.resolution,
        specs=model_specs(config),
        seed=cell.seed,
    )


def preprocessing(config: ResoMapConfig, cell: Cell) -> Preprocessing:
    """How the cell's model sees an image."""
    from resomap.models.registry import normalisation_of

    mean, std = normalisation_of(cell.model)
    return Preprocessing(
        resolution=cell.resolution,
        kernel=config.data.kernel,
        mean=config.data.mean or mean,
        std=config.data.std or std,
    )


def augmentation(config: ResoMapConfig, resolution: int) -> AugmentationSettings:
    """What the training images go through at this resolution."""
    from resomap.data.augmentation import AugmentationSettings, ResolutionAwareAugmentation

    chosen = config.data.augmentation
    base = AugmentationSettings(
        crop=chosen.crop,
        scale=chosen.scale,
        ratio=chosen.ratio,
        horizontal_flip=chosen.horizontal_flip,
        vertical_flip=chosen.vertical_flip,
        brightness=chosen.brightness,
        contrast=chosen.contrast,
        saturation=chosen.saturation,
        hue=chosen.hue,
        rotation_degrees=chosen.rotation_degrees,
        blur_probability=chosen.blur_probability,
        blur_sigma=chosen.blur_sigma,
    )
    if not chosen.resolution_aware:
        return base
    low, high = min(config.sweep.resolutions), max(config.sweep.resolutions)
    return ResolutionAwareAugmentation(base, low=low, high=high).at(resolution)


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


def device_name(config: ResoMapConfig) -> str:
    """The device asked for."""
    return config.system.device


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


def allows_callables(config: ResoMapConfig) -> bool:
    """Whether a model may be code of the user's."""
    return config.models.allow_callables


def set_threads(config: ResoMapConfig) -> None:
    """Apply system.threads."""
    import torch

    if config.system.threads is not None:
        torch.set_num_threads(config.system.threads)


def device_and_precision(config: ResoMapConfig) -> tuple[str, str]:
    """(device, precision) that the runs will use; DeviceError where they are not there."""
    from resomap.training.device import resolve_precision, select_device

    device = select_device(config.system.device)
    return str(device), resolve_precision(config.system.mixed_precision, device)


def class_weights(config: ResoMapConfig, store: ImageStore, num_classes: int) -> list[float] | None:
    """N / (K n_k) for each class where training.class_weights is 'balanced'."""
    if config.training.class_weights == "none":
        return None
    counts = [int((store.labels == k).sum()) for k in range(num_classes)]
    return [len(store.labels) / (num_classes * count) if count else 0.0 for count in counts]


def trainer(
    config: ResoMapConfig,
    network: nn.Module,
    loaders: tuple[TrainLoader, EvalLoader],
    *,
    cell: Cell,
    state_path: Path,
    weights: Sequence[float] | None,
    callbacks: Sequence[Callback],
) -> Trainer:
    """A Trainer for one cell."""
    from resomap.training.trainer import Trainer

    training, system = config.training, config.system
    return Trainer(
        network,
        loaders[0],
        loaders[1],
        epochs=training.epochs,
        optimizer=training.optimizer,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        momentum=training.momentum,
        schedule=training.schedule,
        warmup_epochs=training.warmup_epochs,
        step_epochs=training.step_epochs,
        gamma=training.gamma,
        plateau_patience=training.plateau_patience,
        label_smoothing=training.label_smoothing,
        class_weights=weights,
        clip_grad_norm=training.clip_grad_norm,
        monitor=training.monitor,
        monitor_mode=training.monitor_mode,
        save_every_s=training.save_every_s,
        state_path=state_path,
        seed=cell.seed,
        device=system.device,
        mixed_precision=system.mixed_precision,
        channels_last=system.channels_last,
        cudnn_benchmark=system.cudnn_benchmark,
        deterministic=system.deterministic,
        non_blocking=config.data.non_blocking,
        callbacks=callbacks,
    )


def keep_best(config: ResoMapConfig, run_dir: Path, fields: Mapping[str, object]) -> list[Callback]:
    """The callbacks that keep the best weights and, where asked, stop early."""
    from resomap.training.callbacks import EarlyStopping, ModelCheckpoint

    training = config.training
    kept: list[Callback] = [
        ModelCheckpoint(
            run_dir,
            monitor=training.monitor,
            mode=training.monitor_mode,
            top_k=training.top_k,
            metadata=fields,
        )
    ]
    if training.early_stopping_patience is not None:
        kept.append(
            EarlyStopping(
                monitor=training.monitor,
                mode=training.monitor_mode,
                patience=training.early_stopping_patience,
            )
        )
    return kept


def tracker(config: ResoMapConfig, study: StudyLayout, name: str) -> Tracker:
    """MLflow, or a tracker that does nothing."""
    from resomap.tracking.mlflow_tracker import MLflowTracker
    from resomap.tracking.null import NullTracker

    if not config.mlflow.enabled:
        return NullTracker()
    uri = config.mlflow.tracking_uri
    return MLflowTracker(
        uri or f"sqlite:///{study.mlflow_db_path.resolve()}",
        name,
        artifact_location=None if uri else study.mlflow_artifacts_dir.resolve().as_uri(),
        log_artifacts=config.mlflow.log_artifacts,
    )


def metric_options(config: ResoMapConfig) -> dict[str, Any]:
    """How metrics are computed from predictions."""
    return {
        "top_k": config.analysis.top_k,
        "bins": config.analysis.calibration_bins,
        "confidence": config.analysis.confidence,
    }


def kept_checkpoints(config: ResoMapConfig) -> int:
    """Weights files that each run leaves behind."""
    return config.training.top_k


def is_resolution_aware(config: ResoMapConfig) -> bool:
    """Whether augmentation differs by resolution."""
    return config.data.augmentation.resolution_aware


def study_params(config: ResoMapConfig) -> dict[str, object]:
    """The configuration as flat parameters for tracking."""
    return {key: value for key, value in flatten(config).items() if not key.startswith("mlflow.")}


def table_metric(config: ResoMapConfig) -> str:
    """The metric of the closing table."""
    return config.analysis.metric


def determinants(
    config: ResoMapConfig, cell: Cell, *, fingerprint: str, precision: str, ranks: Ranks
) -> dict[str, dict[str, Any]]:
    """What a run's weights depend on: 'protocol' (shared by the study's runs) and 'cell'.

    Left out on purpose: what changes speed or bookkeeping only (workers, cache, number of checkpoints).
    """
    training = config.training.model_dump() | {"micro_batch": micro_batch(config, ranks)}
    for bookkeeping in ("save_every_s", "top_k"):
        del training[bookkeeping]
    data = config.data
    protocol: dict[str, Any] = {
        "version": PROTOCOL_VERSION,
        "images": fingerprint,
        "training": training,
        "data": {
            "kernel": data.kernel,
            "mean": data.mean,
            "std": data.std,
            "on_bad_file": data.on_bad_file,
            "augmentation": data.augmentation.model_dump(),
        },
        "system": {
            "mixed_precision": precision,
            "channels_last": config.system.channels_last,
            "deterministic": config.system.deterministic,
        },
        "models": {"pretrained": _pretrained_identity(config.models.pretrained)},
    }
    if data.augmentation.resolution_aware:
        sides = sorted(config.sweep.resolutions)
        protocol["data"]["resolution_aware_range"] = [sides[0], sides[-1]]
    own = {
        "model": cell.model,
        "resolution": cell.resolution,
        "seed": cell.seed,
        "description": model_specs(config).get(cell.model),
    }
    return {"protocol": protocol, "cell": own}


def _pretrained_identity(pretrained: bool | str) -> bool | str:
    """A weights file is known by its content, so that moving it changes nothing."""
    if isinstance(pretrained, bool):
        return pretrained
    try:
        with open(pretrained, "rb") as stream:
            return hashlib.file_digest(stream, "blake2b").hexdigest()[:32]
    except OSError as error:
        raise CheckpointError(
            f"models.pretrained: cannot read {printable(pretrained)} ({error.strerror}); "
            "give true, false or the path of a weights file"
        ) from error
