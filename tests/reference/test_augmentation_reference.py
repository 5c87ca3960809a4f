"""Colours against torchvision, crops against Pillow on the original image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from resomap.data import pyramid_levels
from resomap.data.augmentation import AugmentationSettings, draw
from resomap.data.colour import apply_map, channel_means, jitter_map, normalisation_map
from resomap.data.pyramid import StoreSettings, open_store
from resomap.data.randomness import image_keys
from resomap.records import CropBox, ImageRecord

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def mild_pixels(batch: int, side: int) -> np.ndarray:
    """(B, H, W, 3) uint8 far enough from black and white that factors near 1 clamp nothing."""
    return np.random.default_rng(batch).integers(90, 150, (batch, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_jitter_map_equals_torchvision_chained(batch):
    pixels = mild_pixels(batch, 12)
    factors = np.random.default_rng(1).uniform(0.8, 1.2, (3, batch))
    colour = jitter_map(
        pixels, brightness_B=factors[0], contrast_B=factors[1], saturation_B=factors[2], mean=MEAN, std=STD
    )
    ours = apply_map(torch.from_numpy(pixels), colour)
    for i in range(batch):
        x = torch.from_numpy(pixels[i]).permute(2, 0, 1).double() / 255
        for adjust, factor in zip(
            (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation),
            factors[:, i].tolist(),
            strict=True,
        ):
            x = adjust(x, factor)
            assert x.min() > 0
            assert x.max() < 1, "this test is about the range where nothing is clamped"
        expected = functional.normalize(x, list(MEAN), list(STD))
        torch.testing.assert_close(ours[i].double(), expected, atol=2e-6, rtol=0)


def test_normalisation_map_equals_torchvision():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 9, 9, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels)
    expected = functional.normalize(images.permute(0, 3, 1, 2) / 255, list(MEAN), list(STD))
    torch.testing.assert_close(apply_map(images, normalisation_map(MEAN, STD)), expected, atol=1e-6, rtol=0)


def test_channel_means_equal_numpy():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 7, 11, 3), dtype=np.uint8)
    np.testing.assert_allclose(channel_means(pixels), pixels.mean(axis=(1, 2)), rtol=1e-12)


def photograph(seed: int, width: int, height: int) -> Image.Image:
    """A 1/f-like picture: noise at every scale, as photographs have."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (3, 8, 20, 60):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), dtype=float)
    return Image.fromarray((total / 4).clip(0, 255).astype(np.uint8))


# Pillow's box filter weighs a pixel wholly or not at all, so reducing first changes more than with the others.
@pytest.mark.parametrize(
    ("kernel", "mean", "highest"), [("bilinear", 0.8, 8), ("bicubic", 0.8, 8), ("lanczos", 0.8, 8), ("box", 3.5, 20)]
)
def test_crop_is_close_to_pillow_on_the_original(tmp_path, kernel, mean, highest):
    # The store cuts whole pixels out of a reduced copy; Pillow takes the box out of the original.
    sides = (32, 64)
    originals = [photograph(i, 500 - 60 * (i % 3), 380) for i in range(6)]
    records = []
    for i, image in enumerate(originals):
        image.save(tmp_path / f"{i}.png")
        records.append(ImageRecord(f"{i}.png", tmp_path / f"{i}.png", i % 2))
    store = open_store(
        records,
        settings=StoreSettings(sides, kernel=kernel, crop="random_resized", min_scale=0.35),
        cache_dir=tmp_path / "cache",
        cache_gib=1,
        content_hashes={record.image_id: record.image_id for record in records},
    )
    for i, image in enumerate(originals):
        size_hw = (image.height, image.width)
        keys = image_keys([records[i].image_id])
        box = draw(AugmentationSettings(), np.array([size_hw]), keys_B=keys, seed=0, epoch=0).box(0)
        for side in sides:
            ours = store.crop(i, box, side).astype(int)
            step = 2 ** pyramid_levels.level_for(min(box.height * size_hw[0], box.width * size_hw[1]), side)
            exact, whole = pixel_box(box, size_hw), pixel_box(box, size_hw, step=step)
            # The box moves by half a pixel of the level at most: a quarter of a pixel of the crop.
            assert np.abs(np.subtract(exact, whole)).max() <= step / 2
            by_pillow = [image.resize((side, side), FILTERS[kernel], box=each) for each in (exact, whole)]
            from_exact, from_whole = (np.abs(ours - np.asarray(each)) for each in by_pillow)
            assert from_exact.mean() < 3.5, (i, side)
            assert from_whole.mean() < mean, (i, side)
            assert from_whole.max() <= highest, (i, side)


def pixel_box(box: CropBox, size_hw: tuple[int, int], *, step: int = 0) -> tuple[float, float, float, float]:
    """Pillow's box (left, top, right, bottom) in pixels; with `step`, rounded to multiples of it."""
    height, width = size_hw
    edges = (
        (box.left * width, width),
        (box.top * height, height),
        ((box.left + box.width) * width, width),
        ((box.top + box.height) * height, height),
    )
    return tuple(min(round(edge / step) * step if step else edge, side) for edge, side in edges)  # type: ignore[return-value]
