"""What is drawn for an image: in range, the same at every resolution and in any company; and what follows from it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resomap.data.augmentation import AugmentationSettings, ResolutionAwareAugmentation, draw
from resomap.data.randomness import image_keys
from resomap.data.rotate_blur_hue import warp
from resomap.errors import ConfigError

STILL = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "horizontal_flip": 0.0}
EVERYTHING = AugmentationSettings(
    vertical_flip=0.3, hue=0.1, rotation_degrees=20.0, blur_probability=0.5, blur_sigma=(0.01, 0.03)
)


def drawn(settings: AugmentationSettings, n: int, *, size_hw=(300, 400), seed=0, epoch=0):
    keys = image_keys([f"{i}.jpg" for i in range(n)])
    return draw(settings, np.tile(size_hw, (n, 1)), keys_B=keys, seed=seed, epoch=epoch)


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1, max_size=20),
    st.floats(0.01, 1.0),
    st.integers(0, 2**40),
)
def test_draw_gives_boxes_inside_the_image(sizes, low, seed):
    settings = AugmentationSettings(scale=(low, 1.0))
    keys = image_keys([str(i) for i in range(len(sizes))])
    boxes = draw(settings, np.array(sizes), keys_B=keys, seed=seed, epoch=0).boxes
    top, left, height, width = boxes.T
    assert (boxes >= 0).all()
    assert (height > 0).all()
    assert (width > 0).all()
    assert (top + height <= 1 + 1e-12).all()
    assert (left + width <= 1 + 1e-12).all()


def test_draw_keeps_to_scale_and_ratio():
    boxes = drawn(AugmentationSettings(scale=(0.2, 0.6), ratio=(0.8, 1.25)), 4000).boxes
    area = boxes[:, 2] * boxes[:, 3]
    aspect = boxes[:, 3] * 400 / (boxes[:, 2] * 300)
    assert 0.2 <= area.min() < 0.21
    assert 0.59 < area.max() <= 0.6
    assert 0.8 <= aspect.min() < 0.81
    assert 1.24 < aspect.max() <= 1.25
    # Uniform area has its mean in the middle; so has the log of the aspect. Five standard errors.
    assert area.mean() == pytest.approx(0.4, abs=5 * 0.4 / np.sqrt(12 * 4000))
    assert np.log(aspect).mean() == pytest.approx(0.0, abs=5 * 2 * np.log(1.25) / np.sqrt(12 * 4000))


def test_draw_takes_the_largest_square_where_no_box_fits():
    # A 10 x 1000 strip holds no box of 90 % of its area with an aspect of 1: the square is 10 x 10.
    box = drawn(AugmentationSettings(scale=(0.9, 1.0), ratio=(1.0, 1.0)), 50, size_hw=(10, 1000)).boxes
    np.testing.assert_allclose(box[:, 2:], np.tile([1.0, 0.01], (50, 1)))
    assert np.ptp(box[:, 1]) > 0.5


@given(st.lists(st.text(min_size=1), min_size=2, max_size=12, unique=True), st.randoms(), st.integers(0, 99))
def test_draw_does_not_depend_on_batch_and_order(ids, random, epoch):
    sizes = np.array([(50 + 7 * i, 80) for i in range(len(ids))])
    together = draw(EVERYTHING, sizes, keys_B=image_keys(ids), seed=5, epoch=epoch)
    order = random.sample(range(len(ids)), len(ids))[: random.randint(1, len(ids))]
    chosen_keys = image_keys([ids[i] for i in order])
    apart = draw(EVERYTHING, sizes[order], keys_B=chosen_keys, seed=5, epoch=epoch)
    i = order[0]
    alone = draw(EVERYTHING, sizes[i : i + 1], keys_B=image_keys([ids[i]]), seed=5, epoch=epoch)
    for name in type(together).__slots__:
        np.testing.assert_array_equal(getattr(apart, name), getattr(together, name)[order], err_msg=name)
        np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[i], err_msg=name)


def test_draw_differs_between_epochs_seeds_and_images():
    boxes = [drawn(EVERYTHING, 3, seed=s, epoch=e).boxes for s in (0, 1) for e in (0, 1)]
    assert len({tuple(row) for epoch in boxes for row in epoch}) == 12


def test_draw_keeps_geometry_when_only_colours_change():
    # Each quantity has a draw of its own: switching one off leaves the others alone.
    loud, quiet = drawn(EVERYTHING, 20), drawn(AugmentationSettings(vertical_flip=0.3), 20)
    np.testing.assert_array_equal(loud.boxes, quiet.boxes)
    np.testing.assert_array_equal(loud.flip_x, quiet.flip_x)
    np.testing.assert_array_equal(loud.brightness, quiet.brightness)
    assert not quiet.sigma.any()
    assert not quiet.angle.any()


def test_draw_flips_and_blurs_as_often_as_asked():
    draws = drawn(AugmentationSettings(horizontal_flip=0.5, vertical_flip=0.1, blur_probability=0.25), 4000)
    # Five standard errors of a share of 4,000: at most 0.04.
    assert draws.flip_x.mean() == pytest.approx(0.5, abs=0.04)
    assert draws.flip_y.mean() == pytest.approx(0.1, abs=0.04)
    assert (draws.sigma > 0).mean() == pytest.approx(0.25, abs=0.04)
    never = drawn(AugmentationSettings(horizontal_flip=0.0), 500)
    always = drawn(AugmentationSettings(horizontal_flip=1.0), 500)
    assert not never.flip_x.any()
    assert always.flip_x.all()


def test_draw_keeps_colour_factors_in_range_and_never_negative():
    draws = drawn(AugmentationSettings(brightness=0.3, contrast=2.0, saturation=0.0), 2000)
    assert 0.7 <= draws.brightness.min() < 0.71
    assert 1.29 < draws.brightness.max() <= 1.3
    assert draws.contrast.min() == 0
    assert (draws.saturation == 1).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"crop": "centre"}, "crop: expected 'random_resized' or 'center', got 'centre'"),
        ({"scale": (0.0, 1.0)}, r"scale: expected 0 < low <= high <= 1, got \(0.0, 1.0\)"),
        ({"scale": (0.5, 0.4)}, "scale"),
        ({"scale": (0.5, 1.1)}, "scale"),
        ({"ratio": (1.2, 0.8)}, "ratio: expected 0 < low <= high"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
    ],
)
def test_settings_refuse_impossible_values(wrong, message):
    with pytest.raises(ConfigError, match=message):
        AugmentationSettings(**wrong)


def test_settings_know_whether_they_jitter_or_warp():
    still = AugmentationSettings(**STILL)
    assert not still.jitters
    assert not still.warps
    assert AugmentationSettings().jitters
    assert not AugmentationSettings().warps
    assert AugmentationSettings(**STILL, hue=0.1).warps


def test_resolution_aware_strengths_grow_with_resolution():
    aware = ResolutionAwareAugmentation(EVERYTHING, low=64, high=512)
    steps = [aware.at(r) for r in (32, 64, 96, 128, 181, 182, 256, 384, 512, 1024)]
    for name in ("brightness", "contrast", "saturation", "hue", "rotation_degrees", "blur_probability"):
        values = [getattr(step, name) for step in steps]
        assert values == sorted(values), name
        assert values[0] < values[-1], name
    smallest_crops = [step.scale[0] for step in steps]
    assert smallest_crops == sorted(smallest_crops, reverse=True)
    assert smallest_crops[0] > smallest_crops[-1]
    # Clipped outside of low..high.
    assert steps[0] == steps[1]
    assert steps[-2] == steps[-1]


def test_resolution_aware_strengths_at_the_ends_and_in_the_middle():
    aware = ResolutionAwareAugmentation(AugmentationSettings(scale=(0.4, 1.0), blur_probability=0.2), low=128, high=512)
    low, middle, high = aware.at(128), aware.at(256), aware.at(512)
    # Half, once and one and a half times 0.2; crops cover at least 1 - 0.6 * (0.5, 1, 1.5).
    np.testing.assert_allclose([low.contrast, middle.contrast, high.contrast], [0.1, 0.2, 0.3])
    np.testing.assert_allclose([low.scale[0], middle.scale[0], high.scale[0]], [0.7, 0.4, 0.1])
    assert low.blur_probability == 0
    assert high.blur_probability == pytest.approx(0.3)
    assert (low.horizontal_flip, low.ratio, low.crop) == (high.horizontal_flip, high.ratio, high.crop)


def test_resolution_aware_of_one_resolution_leaves_the_base():
    base = AugmentationSettings()
    assert ResolutionAwareAugmentation(base, low=224, high=224).at(224) == base


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 512, "high": 224}, "low, high: expected sides with 0 < low <= high, got 512 and 224"),
        ({"low": 0}, "low, high: expected sides with 0 < low <= high, got 0 and 512"),
        ({"gentle": -1}, "gentle, strong: expected factors with 0 <= gentle <= strong, got -1 and 1.5"),
        ({"gentle": 2.0}, "gentle, strong: expected factors with 0 <= gentle <= strong, got 2.0 and 1.5"),
        ({"strong": float("nan")}, "gentle, strong: expected factors with 0 <= gentle <= strong, got 0.5 and nan"),
    ],
)
def test_resolution_aware_refuses_what_it_is_not(settings, message):
    with pytest.raises(ConfigError, match=message):
        ResolutionAwareAugmentation(AugmentationSettings(), **settings)


def test_warp_is_deterministic_and_touches_only_what_was_drawn():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    draws = drawn(EVERYTHING, 6)
    draws.angle[0] = draws.sigma[0] = draws.hue[0] = 0.0
    first, second = warp(pixels.copy(), draws), warp(pixels.copy(), draws)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[0], pixels[0])
    assert all(not np.array_equal(first[i], pixels[i]) for i in range(1, 6))


@pytest.mark.parametrize(("name", "value"), [("hue", 0.2), ("angle", 90.0), ("sigma", 0.05)])
def test_warp_does_what_its_name_says(name, value):
    # Left half red, right half black; the side is even, so a turn by 90 degrees is exact.
    pixels = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    pixels[:, :, :8, 0] = 200
    draws = drawn(AugmentationSettings(**STILL), 1)
    getattr(draws, name)[0] = value
    after = warp(pixels.copy(), draws)[0]
    if name == "hue":  # a fifth of a turn from red lies between yellow (1/6) and green (1/3)
        assert after[0, 0].tolist() == [160, 200, 0]
    elif name == "angle":  # counter-clockwise: the left half comes to lie at the bottom
        assert (after[1:7, 1:15] == 0).all()
        assert (after[9:15, 1:15, 0] == 200).all()
    else:
        profile = after[8, :, 0].astype(int)
        assert (np.diff(profile) <= 0).all()
        assert 0 < profile[8] < profile[7] < 200
