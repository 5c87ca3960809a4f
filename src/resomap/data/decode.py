"""From an image file to upright 8-bit RGB.

Whatever Pillow reads becomes an image here or a BadImageError that names the file: never a warning,
a hang, or an allocation that a forged header asked for. ICC profiles are not applied.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from resomap.data.pillow_guard import check_size, pillow_formats, pillow_guard
from resomap.errors import BadImageError, StorageError
from resomap.printable import printable
from resomap.serialize import DAMAGE

MAX_PIXELS = 178_956_970
"""Pillow's own limit: larger images are refused as decompression bombs."""

# Hostile bytes make Pillow's pure-Python plugins fail in many ways; all of them mean "cannot be decoded".
_DECODE_ERRORS: tuple[type[Exception], ...] = (*DAMAGE, Image.DecompressionBombError)
_OS_REASONS = {
    errno.ENOENT: "no such file",
    errno.EACCES: "no permission to read it",
    errno.EPERM: "no permission to read it",
    errno.ELOOP: "a loop of symbolic links",
    errno.EISDIR: "a folder, not a file",
}
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_rgb(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The file's first frame as an upright 8-bit RGB image, fully decoded.

    EXIF orientation is applied. Transparency (alpha, palette, colour key) is composited on white.
    16-bit grey keeps its high byte, as Pillow does for 16-bit colour: 65535 becomes 255 whatever the
    image's own maximum, so that images stay comparable.

    Raises:
        BadImageError: the file is missing, unreadable, truncated, no image, or over `max_pixels`.
        StorageError: the process ran out of file descriptors: no fault of the file.
    """
    with _opened(path, max_pixels=max_pixels) as image:
        return upright_rgb(image)


def upright_rgb(image: Image.Image) -> Image.Image:
    """An opened picture as decode_rgb gives its file: upright, 8-bit RGB, on white.

    Raises:
        ValueError, OSError: pixels without a defined white, or that cannot be decoded.
    """
    image.load()
    method = _TRANSPOSE.get(_orientation(image.getexif))
    upright = _to_rgb(image if method is None else image.transpose(method))
    upright.info = {}  # with its EXIF left in, the next reader would turn it again
    return upright


def native_size(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) in pixels of `decode_rgb(path)`, from the header alone.

    Pixels are decoded only for a PNG with metadata behind them, which may hold its orientation.

    Raises:
        BadImageError: the file is missing, unreadable, no image, or over `max_pixels`.
    """
    with _opened(path, max_pixels=max_pixels) as image:
        if image.format == "PNG" and _png_has_late_metadata(path):
            image.load()
        width, height = image.size[:2]
        # TIFF already reports the upright size. PngImageFile.getexif would decode: the base class's does not.
        turned = image.format != "TIFF" and _orientation(lambda: Image.Image.getexif(image)) >= 5
        return (width, height) if turned else (height, width)


@contextlib.contextmanager
def _opened(path: str | Path, *, max_pixels: int) -> Iterator[Image.Image]:
    """The opened, not yet decoded image; whatever fails inside the block is about this file."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise BadImageError(path, "a folder or a device, not a file")
        with (
            open(path, "rb") as stream,
            pillow_guard(max_pixels),
            Image.open(stream, formats=pillow_formats()) as image,
        ):
            check_size(image, path, max_pixels=max_pixels)
            yield image
    except _DECODE_ERRORS as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise StorageError(f"cannot read {printable(path)}: too many open files; raise `ulimit -n`") from error
        raise BadImageError(path, _reason(error, path)) from error


def _reason(error: BaseException, path: str | Path) -> str:
    """What to tell the user, on one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        empty = os.path.getsize(path) == 0
        return "empty (0 bytes)" if empty else "not an image in a format that Pillow reads"
    if isinstance(error, Image.DecompressionBombError):
        return f"{printable(error).rstrip('.')}; raise data.max_megapixels if it is real"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, OSError) and error.errno is not None:
        return _OS_REASONS.get(error.errno, error.strerror or "cannot be read")
    return printable(error)[:200] or f"cannot be decoded ({type(error).__name__})"


def _orientation(read_exif: Callable[[], Image.Exif]) -> int:
    """EXIF orientation 1..8; 1 where the metadata is missing or damaged (the pixels are still good)."""
    try:
        value = read_exif().get(ExifTags.Base.Orientation, 1)
    except _DECODE_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _png_has_late_metadata(path: str | Path) -> bool:
    """Whether text or EXIF chunks stand behind the pixels, by hopping over chunk headers."""
    seen_pixels = False
    with open(path, "rb") as stream:
        stream.seek(8)
        while len(header := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            seen_pixels |= kind == b"IDAT"
            if seen_pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            stream.seek(length + 4, os.SEEK_CUR)
    return False


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _sixteen_bit_to_rgb(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined white; convert it to 8 or 16 bits")
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    # A copy is a plain image, without the file's handle.
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _sixteen_bit_to_rgb(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("32-bit pixels have no defined white; convert it to 8 or 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
