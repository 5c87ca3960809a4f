"""Each kind of file becomes the right RGB pixels, or a BadImageError that says why."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from resomap.data.decode import decode_rgb, native_size
from resomap.errors import BadImageError


def pixels(path: Path) -> np.ndarray:
    return np.asarray(decode_rgb(path))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def gradient(height: int = 48, width: int = 64) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 3, y * 5, x + y], axis=-1).astype(np.uint8))


def exif_with(orientation: object) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),  # transparent: white behind it
        ("LA", (0, 51), (204, 204, 204)),  # black at alpha 0.2 on white: 255 * 0.8
    ],
)
def test_decode_rgb_converts_mode(tmp_path, mode, value, expected):
    Image.new(mode, (3, 2), value).save(tmp_path / "x.png")
    image = decode_rgb(tmp_path / "x.png")
    assert image.mode == "RGB"
    assert image.size == (3, 2)
    assert (np.asarray(image) == expected).all()


def test_decode_rgb_scales_sixteen_bit_grey_to_its_full_range(tmp_path):
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    Image.fromarray(values).save(tmp_path / "x.tif")
    for name in ("x.png", "x.tif"):
        assert pixels(tmp_path / name)[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_decode_rgb_composites_palette_transparency_on_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 90])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "x.png", transparency=0)
    assert pixels(tmp_path / "x.png").tolist() == [[[255, 255, 255], [0, 0, 90]]]


def test_decode_rgb_composites_a_transparent_colour_key_on_white(tmp_path):
    image = Image.new("RGB", (2, 1), (9, 9, 9))
    image.putpixel((1, 0), (8, 8, 8))
    image.save(tmp_path / "x.png", transparency=(9, 9, 9))
    assert pixels(tmp_path / "x.png").tolist() == [[[255, 255, 255], [8, 8, 8]]]


def test_decode_rgb_converts_cmyk(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=100)
    red, green, blue = pixels(tmp_path / "x.jpg")[8, 8].tolist()
    assert red >= 250
    assert max(green, blue) <= 5


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_decode_rgb_takes_the_first_frame(tmp_path, suffix):
    first, second = Image.new("RGB", (8, 8), (0, 0, 0)), Image.new("RGB", (8, 8), (255, 255, 255))
    options = {"lossless": True} if suffix == "webp" else {}
    first.save(tmp_path / f"x.{suffix}", save_all=True, append_images=[second], **options)
    assert pixels(tmp_path / f"x.{suffix}").max() == 0


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jp2", "pcx", "ppm", "tga", "tif", "webp", "ico", "avif"])
def test_decode_rgb_reads_other_formats(tmp_path, suffix):
    Image.new("RGB", (16, 16), (250, 250, 250)).save(tmp_path / f"x.{suffix}")
    assert pixels(tmp_path / f"x.{suffix}").shape == (16, 16, 3)
    assert pixels(tmp_path / f"x.{suffix}").min() >= 248


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
def test_decode_rgb_and_native_size_apply_exif_orientation(tmp_path, suffix, orientation):
    upright = gradient()
    to_stored = [None, None, "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM"]
    to_stored += ["TRANSPOSE", "ROTATE_90", "TRANSVERSE", "ROTATE_270"]  # inverses of what a reader does
    name = to_stored[orientation]
    stored = upright if name is None else upright.transpose(Image.Transpose[name])
    options = {"lossless": True} if suffix == "webp" else {}
    stored.save(tmp_path / f"x.{suffix}", exif=exif_with(orientation), **options)

    found = pixels(tmp_path / f"x.{suffix}").astype(int)

    assert native_size(tmp_path / f"x.{suffix}") == (48, 64)
    assert found.shape == (48, 64, 3)
    tolerance = 12 if suffix == "jpg" else 0
    assert np.abs(found - np.asarray(upright)).max() <= tolerance


def test_native_size_sees_exif_behind_the_pixels_of_a_png(tmp_path):
    buffer = io.BytesIO()
    gradient().save(buffer, "png")
    body, end = buffer.getvalue()[:-12], buffer.getvalue()[-12:]
    exif = exif_with(6).tobytes().removeprefix(b"Exif\x00\x00")
    (tmp_path / "x.png").write_bytes(body + png_chunk(b"eXIf", exif) + end)
    assert native_size(tmp_path / "x.png") == (64, 48)
    assert decode_rgb(tmp_path / "x.png").size == (48, 64)


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_decode_rgb_ignores_an_orientation_that_does_not_exist(tmp_path, orientation):
    gradient().save(tmp_path / "x.jpg", exif=exif_with(orientation))
    assert native_size(tmp_path / "x.jpg") == (48, 64)
    assert decode_rgb(tmp_path / "x.jpg").size == (64, 48)


@pytest.mark.filterwarnings("error")
def test_decode_rgb_reads_past_damaged_exif_without_a_warning(tmp_path):
    damaged = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x05\x01\x12\x00\x02\xff\xff\xff\xff\xff\xff"
    gradient().save(tmp_path / "x.jpg", exif=damaged)
    assert decode_rgb(tmp_path / "x.jpg").size == (64, 48)
    assert native_size(tmp_path / "x.jpg") == (48, 64)


def saved(image: Image.Image, suffix: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, suffix)
    return buffer.getvalue()


BAD_BYTES = {
    "empty": (b"", r"empty \(0 bytes\)"),
    "text": (b"hello, I am not an image at all\n" * 9, "not an image"),
    "truncated jpeg": (saved(gradient(), "jpeg")[:-200], "truncated"),
    "truncated png": (saved(gradient(), "png")[:-30], "truncated"),
    "truncated gif": (saved(gradient(), "gif")[:-900], "truncated"),
    "truncated webp": (saved(gradient(), "webp")[:-100], "could not create decoder"),
    "truncated tiff": (saved(gradient(), "tiff")[:100], "not an image"),
    "header only": (png_header(8, 8), "not an image"),
    "no pixels": (png_header(0, 8), "not an image"),
    "postscript": (saved(gradient(), "eps"), "not an image"),  # Pillow would start Ghostscript
    "float": (saved(Image.new("F", (4, 4), 0.5), "tiff"), "floating-point"),
    "32 bit": (saved(Image.new("I", (4, 4), 1 << 20), "tiff"), "32-bit"),
    "zip": (b"PK\x03\x04" + bytes(60), "not an image"),
}


@pytest.mark.parametrize("kind", BAD_BYTES)
def test_decode_rgb_names_a_bad_file_and_why(tmp_path, kind):
    content, reason = BAD_BYTES[kind]
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(BadImageError, match=reason) as caught:
        decode_rgb(tmp_path / "x.jpg")
    assert caught.value.path == tmp_path / "x.jpg"
    assert "\n" not in str(caught.value)


def jpeg_header(side: int) -> bytes:
    content = bytearray(saved(gradient(), "jpeg"))
    start = content.index(b"\xff\xc0") + 5  # start of frame: length, precision, then height and width
    content[start : start + 4] = struct.pack(">HH", side, side)
    return bytes(content)


def gif_frame(side: int) -> bytes:
    content = bytearray(saved(gradient().convert("L"), "gif"))
    start = content.index(b",\x00\x00\x00\x00") + 5  # image descriptor: left, top, then width and height
    content[start : start + 4] = struct.pack("<HH", side, side)
    return bytes(content)


@pytest.mark.parametrize(
    "content", [jpeg_header(60_000), gif_frame(60_000), b"P6\n60000 60000\n255\nxxx"], ids=["jpeg", "gif", "ppm"]
)
def test_decode_rgb_refuses_bombs_of_other_formats(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(BadImageError, match="3600000000 pixels"):
        decode_rgb(tmp_path / "x.jpg")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from(["jpeg", "png", "gif", "webp", "bmp", "jpeg2000"]),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8),
    length=st.integers(0, 4000),
)
def test_decode_rgb_of_damaged_bytes_is_an_image_or_a_bad_image(tmp_path, suffix, changes, length):
    content = bytearray(saved(gradient(), suffix)[: length or None])
    for position, value in changes:
        content[position % len(content)] = value
    (tmp_path / "x.jpg").write_bytes(content)
    try:
        image = decode_rgb(tmp_path / "x.jpg")
    except BadImageError:
        return
    assert (image.height, image.width) == native_size(tmp_path / "x.jpg")


def test_decode_rgb_gives_the_bytes_that_pillow_gives(tmp_path):
    gradient().save(tmp_path / "x.jpg", quality=80)
    assert np.array_equal(pixels(tmp_path / "x.jpg"), np.asarray(Image.open(tmp_path / "x.jpg")))


def test_decode_rgb_leaves_no_metadata_that_would_turn_it_again(tmp_path):
    gradient().save(tmp_path / "x.jpg", exif=exif_with(6))
    turned = ImageOps.exif_transpose(decode_rgb(tmp_path / "x.jpg"))
    assert turned.size == (48, 64)


@pytest.mark.parametrize("read", [decode_rgb, native_size])
def test_decode_refuses_a_bomb_from_its_header(tmp_path, read):
    (tmp_path / "x.png").write_bytes(png_header(30_000, 30_000) + png_chunk(b"IDAT", b"") * 2)
    with pytest.raises(BadImageError, match=r"30,000 x 30,000|900000000 pixels"):
        read(tmp_path / "x.png")


def test_decode_rgb_refuses_more_than_max_pixels(tmp_path):
    gradient(30, 40).save(tmp_path / "x.png")
    assert decode_rgb(tmp_path / "x.png", max_pixels=1200).size == (40, 30)
    with pytest.raises(BadImageError, match="40 x 30 pixels, over the limit"):
        decode_rgb(tmp_path / "x.png", max_pixels=1199)


def test_native_size_can_be_allowed_more_than_pillow_allows(tmp_path):
    (tmp_path / "x.png").write_bytes(png_header(30_000, 30_000) + png_chunk(b"IDAT", b"") * 2)
    before = Image.MAX_IMAGE_PIXELS
    assert native_size(tmp_path / "x.png", max_pixels=10**9) == (30_000, 30_000)
    assert before == Image.MAX_IMAGE_PIXELS


def test_decode_rgb_refuses_what_is_not_a_file(tmp_path):
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, reason in [
        ("loop.jpg", "loop of symbolic links"),
        ("folder.jpg", "not a file"),
        ("pipe.jpg", "not a file"),
        ("none.jpg", "no such file"),
    ]:
        with pytest.raises(BadImageError, match=reason):
            decode_rgb(tmp_path / name)


def test_decode_rgb_names_a_missing_permission(tmp_path, without_privileges):
    gradient().save(tmp_path / "x.png")
    (tmp_path / "x.png").chmod(0)
    with without_privileges(), pytest.raises(BadImageError, match="no permission"):
        decode_rgb(tmp_path / "x.png")


def test_decode_rgb_shows_a_strange_name_on_one_line(tmp_path):
    for name in ("ünï 猫.png", "a\nb.png", "-rf.png"):
        gradient().save(tmp_path / name)
        assert decode_rgb(tmp_path / name).size == (64, 48)
    (tmp_path / "a\nb.jpg").write_bytes(b"")
    with pytest.raises(BadImageError, match=r"a\\nb\.jpg: empty"):
        decode_rgb(tmp_path / "a\nb.jpg")


def test_decode_rgb_restores_the_warning_filters_under_threads(tmp_path):
    gradient().save(tmp_path / "x.png")
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [decode_rgb(tmp_path / "x.png") for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before
