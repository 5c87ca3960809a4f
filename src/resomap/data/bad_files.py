"""Images that cannot be read: training stops before it begins with all of them named, or goes on without them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from resomap.errors import DatasetError
from resomap.printable import printable
from resomap.records import BadFile, ImageRecord

log = logging.getLogger(__name__)


def settle_bad_files(
    bad: Sequence[BadFile], images: Sequence[ImageRecord], *, kept: Sequence[ImageRecord], on_bad_file: str
) -> None:
    """Stop over the files that cannot be read, or say that they are left out.

    Args:
        images: all of a split; kept: those that could be decoded.
        on_bad_file: 'stop' or 'skip'.
    Raises:
        DatasetError: with the whole list ('stop'), or a class would be left without images ('skip').
    """
    if not bad:
        return
    if on_bad_file == "stop":
        listed = "; ".join(f"{printable(file.path)}: {file.reason}" for file in bad)
        raise DatasetError(
            f"{len(bad)} of {len(images)} images cannot be read: {listed}. "
            "Mend or delete them, or set data.on_bad_file=skip"
        )
    log.warning("%d of %d images cannot be read and are left out", len(bad), len(images))
    emptied = {image.label for image in images} - {image.label for image in kept}
    if emptied:
        folder = next(image for image in images if image.label == min(emptied)).path.parent
        raise DatasetError(f"no image of {printable(folder)} can be read; a class needs at least one")
