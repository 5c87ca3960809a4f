"""Pillow's process-wide state, held the way that decoding needs it: quiet, bounded, running no programs."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import Image

from resomap.errors import BadImageError

# EPS starts Ghostscript on the file's content; WMF asks Windows; the others are recognised but not decoded.
_REFUSED_FORMATS = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})


@lru_cache(maxsize=1)
def pillow_formats() -> tuple[str, ...]:
    """Names of all formats that Pillow reads by itself, the common ones first."""
    Image.preinit()
    Image.init()
    return tuple(name for name in Image.ID if name not in _REFUSED_FORMATS)


class _Guard:
    """What `pillow_guard` changes, shared by all threads inside it.

    `warnings.catch_warnings` alone is not for threads: whoever leaves restores what it found, in any
    order. Here the first one in changes the state and the last one out restores it.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.saved: contextlib.ExitStack | None = None

    def enter(self, max_pixels: int) -> None:
        with self.lock:
            if self.inside == 0:
                self.saved = contextlib.ExitStack()
                self.saved.enter_context(warnings.catch_warnings())
                self.saved.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self.inside += 1
            # Pillow refuses more than twice its limit; a user who allows more must get more.
            if Image.MAX_IMAGE_PIXELS is not None:
                Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, (max_pixels + 1) // 2)

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0 and self.saved is not None:
                self.saved.close()
                self.saved = None


_guard = _Guard()
# Pillow logs errors about damaged files; without a handler of anybody's, logging would print them.
logging.getLogger("PIL").addHandler(logging.NullHandler())
# A process forked while a thread is inside would inherit a lock that nobody releases.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_guard.reset)


@contextlib.contextmanager
def pillow_guard(max_pixels: int) -> Iterator[None]:
    """Silence Pillow's warnings and let images of `max_pixels` pass its own limit. For threads too."""
    _guard.enter(max_pixels)
    try:
        yield
    finally:
        _guard.leave()


def check_size(image: Image.Image, path: str | Path, *, max_pixels: int) -> None:
    """Refuse an image without pixels, and one over `max_pixels`, by its header: nothing is decoded yet.

    Raises:
        BadImageError: it is either.
    """
    width, height = image.size[:2]
    if width < 1 or height < 1:
        raise BadImageError(path, f"no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise BadImageError(
            path,
            f"{width:,} x {height:,} pixels, over the limit of {max_pixels / 1e6:,.1f} megapixels "
            "(a decompression bomb?); raise data.max_megapixels if it is real",
        )
