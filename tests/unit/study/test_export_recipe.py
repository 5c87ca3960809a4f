"""preprocessing.json of an export: whoever does what its steps say gets the pixels that the network was trained on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resomap.data.resize import to_square
from resomap.errors import StudyError
from resomap.layout import StudyLayout
from resomap.records import Preprocessing
from resomap.serialize import write_json
from resomap.study.export import chosen_run, preprocessing_steps, same_answers
from resomap.study.load import Study

# Odd remainders at the cut, long sides that end on a half, more than 32 : 1 in both directions, enlarged, a square.
SIZES_WH = ((97, 173), (131, 90), (64, 45), (45, 64), (211, 5), (5, 340), (20, 31), (33, 33), (66, 2))


def _cut_long_side(image: Image.Image, aspect: int) -> Image.Image:
    short, long = sorted(image.size)
    if long <= aspect * short:
        return image
    offset = (long - aspect * short) // 2
    if image.width > image.height:
        return image.crop((offset, 0, offset + aspect * short, short))
    return image.crop((0, offset, short, offset + aspect * short))


def _resize(image: Image.Image, side: int, resampling: str) -> Image.Image:
    short, long = sorted(image.size)
    other = (2 * long * side + short) // (2 * short)
    size = (other, side) if image.width > image.height else (side, other)
    return image.resize(size, Image.Resampling[resampling])


def _cut_square(image: Image.Image, side: int) -> Image.Image:
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


READ: dict[str, Callable[..., Image.Image]] = {
    r"if the long side is more than (\d+) times the short side, cut the long side to \1 times the short side about the "
    r"centre: crop offset \(long - \1 \* short\) // 2": lambda image, aspect: _cut_long_side(image, int(aspect)),
    r"resize the short side to (\d+) px and the long side to long \* \1 / short px, long side rounded to nearest "
    r"\(half up\): \(2 \* long \* \1 \+ short\) // \(2 \* short\); antialiased (?:\w+), as PIL\.Image\.resize with "
    r"Resampling\.(\w+), to 8 bits": lambda image, side, name: _resize(image, int(side), name),
    r"cut the centre square of (\d+) px: crop offset \(w - \1\) // 2 from left, \(h - \1\) // 2 from top":
    lambda image, side: _cut_square(image, int(side)),
}  # fmt: skip


@pytest.mark.parametrize("kernel", ["bilinear", "lanczos"])
@pytest.mark.parametrize(("side", "information"), [(24, None), (33, None), (48, 31)])
def test_the_written_steps_give_every_pixel(kernel: str, side: int, information: int | None) -> None:
    zeros = (0.0, 0.0, 0.0)
    decode, *steps, normalise, layout = preprocessing_steps(Preprocessing(side, kernel, zeros, zeros, information))
    assert decode.startswith(
        "decode the first frame to 8-bit RGB, upright by EXIF orientation, transparency over white"
    )
    assert (normalise[:13], layout[:7]) == ("divide by 255", "layout:")
    for i, (width, height) in enumerate(SIZES_WH):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        expected = to_square(image, side, kernel=kernel, information=information)
        for step in steps:
            (done,) = (do(image, *match.groups()) for text, do in READ.items() if (match := re.fullmatch(text, step)))
            image = done
        np.testing.assert_array_equal(np.asarray(image), expected, err_msg=f"{width} x {height}")


def test_a_side_of_0_is_not_taken_for_the_recommended_one(tmp_path: Path) -> None:
    study = Study(StudyLayout(tmp_path))
    write_json(
        study.layout.verdict_path, {"recommendation": {"sentence": "Ship it.", "model": "tiny_cnn", "resolution": 32}}
    )
    with pytest.raises(StudyError, match="no finished run of tiny_cnn @0"):
        chosen_run(study, resolution=0, metric="accuracy")


def test_rounding_of_large_logits_is_no_other_answer() -> None:
    ours = np.array([[3.0e4, -2.0e4], [1.0e4, 2.5e4]], dtype=np.float32)
    last_digits = np.array([[4 / 512, 0], [0, -1 / 512]], dtype=np.float32)  # float32 has steps of 1/512 there
    assert same_answers(ours, ours + last_digits) == 4 / 512
    assert same_answers(np.zeros((1, 2)), np.array([[1e-4, 0.0]])) == pytest.approx(1e-4)


@pytest.mark.parametrize(
    "theirs",
    [[[0.0, 1.0], [3.0, 2.0]], [[1.0, 0.0], [3.0, 2.01]], [[1.0, np.nan], [3.0, 2.0]], [[np.inf, 0.0], [3.0, 2.0]]],
)
def test_other_answers_and_those_that_are_not_finite_are_refused(theirs: list[list[float]]) -> None:
    with pytest.raises(StudyError, match=r"answers differently \(logits differ by .*; do not ship it"):
        same_answers(np.array([[1.0, 0.0], [3.0, 2.0]]), np.array(theirs))
