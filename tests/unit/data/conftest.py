"""Small photographs of several sizes, and stores of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resomap.data.hashes import content_hashes
from resomap.data.pyramid import ImageStore, StoreSettings, open_store
from resomap.records import ImageRecord

SIZES_WH = ((200, 150), (90, 170), (64, 64), (41, 37), (160, 160))


def picture(seed: int, size_wh: tuple[int, int]) -> Image.Image:
    """Smooth colours with some fine noise, as a photograph has."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(size_wh, Image.Resampling.BICUBIC)
    noise = rng.normal(0, 8, (size_wh[1], size_wh[0], 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture
def photographs(tmp_path: Path) -> Callable[..., list[ImageRecord]]:
    """photographs(7): records of seven PNG files, classes 0 and 1 in turn."""

    def make(count: int = 6, *, sizes_wh: Sequence[tuple[int, int]] = SIZES_WH) -> list[ImageRecord]:
        records = []
        for i in range(count):
            name = f"{'ab'[i % 2]}/{i}.png"
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(i, sizes_wh[i % len(sizes_wh)]).save(path)
            records.append(ImageRecord(name, path, i % 2))
        return records

    return make


@pytest.fixture
def open_images(tmp_path: Path) -> Callable[..., ImageStore]:
    """open_images(records, resolutions=(32,), crop='center', ...): a store under tmp_path / 'cache'."""

    def open_(
        records: Sequence[ImageRecord],
        *,
        resolutions: tuple[int, ...] = (16, 32),
        crop: str = "random_resized",
        kernel: str = "bilinear",
        min_scale: float = 0.35,
        information: int | None = None,
        cache_gib: float = 1.0,
        **options: object,
    ) -> ImageStore:
        cache = tmp_path / "cache"
        settings = StoreSettings(resolutions, kernel=kernel, crop=crop, min_scale=min_scale, information=information)
        hashes = content_hashes(records, cache_dir=tmp_path / "hashes")
        return open_store(
            records, settings=settings, cache_dir=cache, cache_gib=cache_gib, content_hashes=hashes, **options
        )  # type: ignore[arg-type]

    return open_
