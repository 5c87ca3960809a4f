"""Images of an information resolution, brought to an input resolution: larger maps without more detail."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from resomap.data.batches import Batch
from resomap.data.resize import to_square


def enlarged(batch: Batch, side: int, *, kernel: str, pool: ThreadPoolExecutor) -> Batch:
    """A batch brought to `side` as images of its size would be: the size without the detail."""
    if batch.images.shape[1] == side:
        return batch
    pictures: Iterable[Image.Image] = map(Image.fromarray, batch.images.numpy())
    squares = list(pool.map(lambda picture: to_square(picture, side, kernel=kernel), pictures))
    return replace(batch, images=torch.from_numpy(np.stack(squares)))
