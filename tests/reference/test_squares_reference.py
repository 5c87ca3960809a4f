"""Evaluation images, byte for byte as Pillow alone makes them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from resomap.data.pyramid import StoreSettings, open_store
from resomap.records import ImageRecord

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
# Wide, tall, square, with an odd remainder at the cut, and smaller than the resolution.
SIZES_WH = ((210, 140), (97, 173), (128, 128), (131, 90), (20, 31))


def by_pillow(path, resolution: int, kernel: str) -> np.ndarray:
    """Decode, resize the short side antialiased, cut the centre."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image).convert("RGB")
    short = min(image.size)
    # Rounded half up, in whole numbers.
    width, height = ((2 * side * resolution + short) // (2 * short) for side in image.size)
    image = image.resize((width, height), FILTERS[kernel])
    left, top = (width - resolution) // 2, (height - resolution) // 2
    return np.asarray(image.crop((left, top, left + resolution, top + resolution)))


@pytest.mark.parametrize("cache_gib", [1.0, 0.0], ids=["cached", "on the fly"])
@pytest.mark.parametrize("kernel", FILTERS)
def test_square_is_byte_identical_to_pillow(tmp_path, kernel, cache_gib):
    records = []
    for i, (width, height) in enumerate(SIZES_WH):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        suffix = ("png", "jpg")[i % 2]
        path = tmp_path / f"{i}.{suffix}"
        exif = Image.Exif()
        exif[274] = 6 if suffix == "jpg" else 1  # the camera was turned
        Image.fromarray(pixels).save(path, exif=exif)
        records.append(ImageRecord(path.name, path, i % 2))
    store = open_store(
        records,
        settings=StoreSettings((24, 33, 64), kernel=kernel),
        cache_dir=tmp_path / "cache",
        cache_gib=cache_gib,
        content_hashes={record.image_id: record.image_id for record in records},
    )
    for i, record in enumerate(records):
        for resolution in (24, 33, 64):
            expected = by_pillow(record.path, resolution, kernel)
            np.testing.assert_array_equal(store.square(i, resolution), expected)
