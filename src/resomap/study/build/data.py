"""Images: where they come from, how they are decoded and augmented."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resomap.config.schema import ResoMapConfig
from resomap.errors import DatasetError
from resomap.layout import StudyLayout
from resomap.records import ImageDataset, RunRecord, information_at

if TYPE_CHECKING:
    from resomap.data.augmentation import AugmentationSettings
    from resomap.data.pyramid import ImageStore, StoreSettings
    from resomap.data.store_need import StoreNeed
    from resomap.study.verdict.known_answers import KnownAnswer


def kernel(config: ResoMapConfig) -> str:
    """Of resizing."""
    return config.data.kernel


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


def cache_needs(config: ResoMapConfig, images: ImageDataset) -> dict[str, StoreNeed]:
    """split -> room of its decoded images in the cache; splits that stores() would not keep there are left out."""
    from resomap.data.store_need import store_need

    folder, limit = cache_dir(config), config.data.cache_gib * 2**30
    needs = {
        split: store_need(records, settings=_store_settings(config, split), cache_dir=folder)
        for split, records in images.splits.items()
    }
    return {split: need for split, need in needs.items() if need.is_there or need.bytes <= limit}


def squares_store(
    config: ResoMapConfig,
    images: ImageDataset,
    split: str,
    *,
    resolutions: Sequence[int],
    kernel: str,
    information: int | None = None,
) -> ImageStore:
    """Evaluation images at these resolutions: the runs' own store where it has them, else one decoded for them.

    Args:
        information: side to which they are reduced before.
    """
    from resomap.data.hashes import content_hashes
    from resomap.data.pyramid import StoreSettings, find_store, open_store

    records = images.splits[split]
    common: dict[str, Any] = {
        "cache_dir": cache_dir(config),
        "content_hashes": content_hashes(records, cache_dir=cache_dir(config)),
        "on_bad_file": config.data.on_bad_file,
    }
    own = config.data.information_resolution
    same = all(information_at(side, information) == information_at(side, own) for side in resolutions)
    if same and kernel == config.data.kernel and set(resolutions) <= set(config.sweep.resolutions):
        found = find_store(records, settings=_store_settings(config, split), **common)
        if found is not None:
            return found
    sides = tuple(sorted(set(resolutions)))
    settings = StoreSettings(sides, kernel=kernel, max_pixels=max_pixels(config), information=information)
    return open_store(records, settings=settings, cache_gib=config.data.cache_gib, **common)


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
        information=config.data.information_resolution,
    )


def information_resolution(config: ResoMapConfig) -> int | None:
    """Side to which every image is reduced before it is brought to the input resolution; None: none."""
    return config.data.information_resolution


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


def is_resolution_aware(config: ResoMapConfig) -> bool:
    """Whether augmentation differs by resolution."""
    return config.data.augmentation.resolution_aware


def class_weights(config: ResoMapConfig, store: ImageStore, num_classes: int) -> list[float] | None:
    """N / (K n_k) for each class where training.class_weights is 'balanced'."""
    if config.training.class_weights == "none":
        return None
    counts = [int((store.labels == k).sum()) for k in range(num_classes)]
    return [len(store.labels) / (num_classes * count) if count else 0.0 for count in counts]


def known_answers(config: ResoMapConfig, study: StudyLayout, records: Iterable[RunRecord]) -> list[KnownAnswer]:
    """Each band's accuracy beside the ideal observer's; empty unless the images are acuity's."""
    from resomap.study.verdict.known_answers import known_answers as compare

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
