"""The square that a model sees, against Pillow's resize and crop."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from resomap.data.resize import to_square
from resomap.errors import ConfigError


@pytest.mark.parametrize(
    ("size", "resolution", "long_side"),
    [((60, 40), 20, 30), ((41, 40), 20, 21), ((7, 3), 5, 12), ((3, 7), 5, 12), ((10, 10), 32, 32)],
)
@pytest.mark.parametrize("kernel", ["bilinear", "bicubic", "lanczos", "box"])
def test_to_square_is_pillow_resize_then_centre_crop(size, resolution, long_side, kernel):
    # long sides: 60*20/40 = 30; 41*20/40 = 20.5 -> 21; 7*5/3 = 11.67 -> 12
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    wide = size[0] >= size[1]
    resized = image.resize(
        (long_side, resolution) if wide else (resolution, long_side), Image.Resampling[kernel.upper()]
    )
    start = (long_side - resolution) // 2
    expected = np.asarray(resized)
    expected = expected[:, start : start + resolution] if wide else expected[start : start + resolution]

    found = to_square(image, resolution, kernel=kernel)

    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert np.array_equal(found, expected)


def test_to_square_of_a_thread_of_pixels_stays_small():
    # 1 x 20,000 resized to a short side of 512 would be 512 x 10,240,000 x 3 bytes = 15.7 GB.
    image = Image.new("RGB", (20_000, 1), (5, 6, 7))
    assert (to_square(image, 512, kernel="bilinear") == (5, 6, 7)).all()


def test_to_square_refuses_an_unknown_kernel_and_no_resolution():
    with pytest.raises(ConfigError, match="expected one of bilinear, bicubic"):
        to_square(Image.new("RGB", (64, 48)), 8, kernel="nearest")
    with pytest.raises(ConfigError, match="at least 1 pixel; got 0"):
        to_square(Image.new("RGB", (64, 48)), 0, kernel="box")
