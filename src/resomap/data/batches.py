"""What a loader hands out, and how it becomes a model's input.

Legend: B images, H W pixels, 3 channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resomap.data.colour import apply_map
from resomap.errors import ConfigError


@dataclass
class Batch:
    """One micro-batch."""

    images: Tensor
    """uint8 (B, H, W, 3); or float32 (B, 3, H, W), already normalised, from a foreign loader."""
    labels: Tensor
    """int64 (B,)."""
    indices: Tensor
    """int64 (B,): position in the store; -1 from a foreign loader."""
    colour: Tensor | None = None
    """float32 (B, 3, 4), or (3, 4) diagonal for all: out_c = sum_k M[c, k] x_k / 255 + M[c, 3].

    None where the images are normalised already."""
    share: float = 1.0
    """This micro-batch's images / images of its whole update, over all ranks."""
    ends_update: bool = True
    """The optimiser steps after this one."""

    def pin_memory(self) -> Batch:
        """Called by DataLoader's pinning thread."""
        for name in ("images", "labels", "indices", "colour"):
            tensor = getattr(self, name)
            if tensor is not None:
                setattr(self, name, tensor.pin_memory())
        return self


def to_model_input(
    batch: Batch, device: torch.device | str, *, non_blocking: bool = False, channels_last: bool = True
) -> tuple[Tensor, Tensor]:
    """(images (B, 3, H, W) float32 normalised, labels (B,) int64), on the device."""
    images = batch.images.to(device, non_blocking=non_blocking)
    labels = batch.labels.to(device, non_blocking=non_blocking)
    if batch.colour is not None:
        images = apply_map(images, batch.colour.to(device, non_blocking=non_blocking))
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return images.contiguous(memory_format=memory_format), labels


def as_batches(loader: Iterable[Any], accumulation_steps: int = 1) -> Iterator[Batch]:
    """Batches of a plain loader of (images float32 (B, 3, H, W), labels), `accumulation_steps` to an update.

    Images in another precision, as numpy makes them, become float32.
    The last update of an epoch may have fewer; its shares count its own images.

    Raises:
        ConfigError: a batch is none of these.
    """
    if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
        raise ConfigError(f"loader: expected batches of (images, labels), got {type(loader).__name__}")
    window: list[tuple[Tensor, Tensor]] = []
    for batch in loader:
        window.append(_images_and_labels(batch))
        if len(window) == accumulation_steps:
            yield from _window_batches(window)
            window = []
    yield from _window_batches(window)


def _images_and_labels(batch: Any) -> tuple[Tensor, Tensor]:
    """The parts of a plain loader's batch, looked at without waiting for a device."""
    if isinstance(batch, Mapping):
        raise ConfigError(
            f"loader: expected batches of (images, labels), got a dict of {', '.join(map(repr, batch))}; give the "
            "DataLoader a collate_fn, or the data set items of (image, label)"
        )
    try:
        images, labels, *_ = batch
    except (TypeError, ValueError):
        raise ConfigError(f"loader: expected batches of (images, labels), got {type(batch).__name__}") from None
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        came = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise ConfigError(
            f"loader: expected images (B, 3, H, W) torch.float32, normalised, got {came}; pixels of 0 to 255 are "
            "divided by 255, and normalised with mean and standard deviation"
        )
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"loader: expected labels as class ids, torch.int64, got {type(labels).__name__}") from None
    if labels.shape != images.shape[:1]:
        hint = "; of one-hot labels give argmax(1)" if labels.ndim == 2 else ""
        raise ConfigError(
            f"loader: expected one class id an image, labels ({len(images)},) torch.int64, got {tuple(labels.shape)} "
            f"{labels.dtype}{hint}"
        )
    if labels.is_floating_point() and labels.device.type == "cpu" and bool((labels != labels.round()).any()):
        raise ConfigError(
            f"loader: expected labels as class ids, torch.int64, got {labels.dtype} with fractions; a classifier needs "
            "the number of each image's class"
        )
    return images.float(), labels.long()


def _window_batches(window: list[tuple[Tensor, Tensor]]) -> Iterator[Batch]:
    total = sum(len(labels) for _, labels in window)
    for i, (images, labels) in enumerate(window):
        yield Batch(
            images=images,
            labels=labels,
            indices=torch.full((len(labels),), -1),
            share=len(labels) / total,
            ends_update=i == len(window) - 1,
        )
