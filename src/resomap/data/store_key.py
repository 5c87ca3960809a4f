"""What tells the stores of decoded images apart, and names their folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import PIL

from resomap.data.store_build import FORMAT
from resomap.data.store_settings import StoreSettings
from resomap.serialize import digest


def store_key(hashes: Sequence[str], settings: StoreSettings) -> str:
    """What tells stores apart: the images' contents in their order, the settings, and Pillow's version."""
    asked = asdict(settings)
    if settings.information is None:
        del asked["information"]  # as before there was one: stores that were built then are still good
    return digest({"format": FORMAT, "pillow": PIL.__version__, "images": hashes, "settings": asked})
