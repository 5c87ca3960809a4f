"""Many conditions at once: every image is decoded once, and each network sees it at its own size.

Legend: B images, H W pixels, K classes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from resomap.data.batches import to_model_input
from resomap.data.information_resolution import enlarged
from resomap.data.sizes_loader import SizesLoader
from resomap.evaluation.predict import concatenated, in_order, place, softmax_of
from resomap.models.devices import autocast
from resomap.models.modules import in_eval_mode, input_dtype
from resomap.records import Predictions

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A network, and the images that it is shown."""

    network: nn.Module
    side: int
    """Of its input, in pixels."""
    information: int
    """To which the images are reduced before they are brought to `side`; equal to it for plain images."""


def predict_many(
    views: Mapping[K, View],
    loader: SizesLoader,
    *,
    device: torch.device | str,
    kernel: str,
    class_names: Sequence[str] | None = None,
    mixed_precision: str = "no",
) -> dict[K, Predictions]:
    """What predict() gives for each view, in one pass over the images.

    Args:
        views: networks are moved to the device and laid out channels-last; their modes are as before afterwards.
        loader: holds every `information` resolution of the views.
        kernel: with which reduced images are enlarged.
    Raises:
        DatasetError: the loader is empty.
    """
    device = torch.device(device)
    answers: dict[K, list[tuple[Tensor, Tensor, Tensor]]] = {key: [] for key in views}
    with contextlib.ExitStack() as stack:
        for network in {id(view.network): view.network for view in views.values()}.values():
            place(network, device, channels_last=True)
            stack.enter_context(in_eval_mode(network))
        stack.enter_context(torch.inference_mode())
        stack.enter_context(autocast(device, mixed_precision))
        pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        for batches in loader:
            for (side, information), keys in _by_input(views).items():
                shown = enlarged(batches[information], side, kernel=kernel, pool=pool)
                images_BCHW, labels_B = to_model_input(shown, device, non_blocking=True, channels_last=True)
                for key in keys:
                    network = views[key].network
                    probabilities_BK = softmax_of(network(images_BCHW.to(input_dtype(network))), images_BCHW)
                    answers[key].append((shown.indices, labels_B, probabilities_BK))
    return {
        key: in_order([concatenated(*map(list, zip(*parts, strict=True)))] if parts else [], loader, class_names)
        for key, parts in answers.items()
    }


def _by_input(views: Mapping[K, View]) -> dict[tuple[int, int], list[K]]:
    """Views that are shown the same pixels, together."""
    groups: dict[tuple[int, int], list[K]] = {}
    for key, view in views.items():
        groups.setdefault((view.side, view.information), []).append(key)
    return groups
