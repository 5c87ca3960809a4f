"""The evaluation loop, for validation and test.

many_resolutions.py shows the same images to several networks or at several sizes. Predictions are returned; store.py
writes them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resomap.data.loaders import Batch, EvalLoader, as_batches, to_model_input
from resomap.errors import ConfigError, DatasetError
from resomap.models.devices import autocast, present_device
from resomap.models.modules import check_module, checked_logits, in_eval_mode, input_dtype, unwrapped
from resomap.records import Predictions

_LOG = logging.getLogger(__name__)
_ROUNDING = 1e-3
"""By which a sum of probabilities may miss 1."""
Gather = Callable[[Any], list[Any]]


def predict(
    model: nn.Module,
    loader: Any,
    *,
    device: torch.device | str,
    class_names: Sequence[str] | None = None,
    mixed_precision: str = "no",
    channels_last: bool = True,
    non_blocking: bool = True,
    world_size: int = 1,
    gather: Gather | None = None,
) -> Predictions:
    """Class probabilities of every image, in the data set's order.

    Args:
        model: moved to the device, its weights laid out channels-last if asked for; its mode is as before
            afterwards, also after an error.
            A warning is logged, once, where it ends in a softmax.
        loader: an EvalLoader, or batches of (images float32 B C H W, labels), whose images are numbered as they come
            (rank after rank, and counted twice where the loader's own sharding repeats one). The model sees them in the
            precision of its weights.
        class_names: None: '0', '1', ...
        mixed_precision: 'no', 'bf16' or 'fp16' for the forward pass; the softmax is computed in float32.
        gather: with several ranks: object -> every rank's object, in rank order; each rank evaluates its shard.
    Raises:
        DatasetError: the loader is empty.
        ConfigError: its batches are no (images, labels), the model is no network or its answers no logits, or
            class_names are not one a class.
        DeviceError: no such device on this machine.
    """
    check_module(model)
    device = present_device(device)
    place(model, device, channels_last=channels_last)
    dtype = input_dtype(model)
    indices, labels = [], []
    probabilities: list[Tensor] = []
    with in_eval_mode(model), torch.inference_mode(), autocast(device, mixed_precision):
        for batch in _batches(loader):
            images_BCHW, labels_B = to_model_input(
                batch, device, non_blocking=non_blocking, channels_last=channels_last
            )
            indices.append(batch.indices)
            labels.append(labels_B)
            logits_BK = model(images_BCHW.to(dtype))
            if not probabilities:
                _warn_of_probabilities(model, logits_BK)
            probabilities.append(softmax_of(logits_BK, images_BCHW))
    own = concatenated(indices, labels, probabilities)
    shards = gather(own) if gather is not None and world_size > 1 else [own]
    return in_order(shards, loader, class_names)


def place(model: nn.Module, device: torch.device, *, channels_last: bool) -> None:
    """Bring the model to the device, its weights laid out channels-last if asked for.

    Its weights can be trained afterwards even where the caller is in inference mode, whose new tensors cannot.
    """
    with torch.inference_mode(False):
        model.to(device)
        if channels_last:
            model.to(memory_format=torch.channels_last)


def softmax_of(logits: object, images_BCHW: Tensor) -> Tensor:
    """(B, K) float32 probabilities of a model's answer to (B, C, H, W).

    Raises:
        ConfigError: the answer is no logits.
    """
    return checked_logits(logits, len(images_BCHW)).float().softmax(dim=1)


def _warn_of_probabilities(model: nn.Module, answers_BK: object) -> None:
    """Say once that a model of several classes ends in a softmax: another one would follow, in training too."""
    if not isinstance(answers_BK, Tensor) or answers_BK.ndim != 2 or answers_BK.shape[1] < 2:
        return
    sums_to_1_B = (answers_BK.float().sum(dim=1) - 1).abs() < _ROUNDING
    if bool((sums_to_1_B & (answers_BK >= 0).all(dim=1)).all()):
        _warn_once(type(unwrapped(model)).__name__)


@lru_cache(maxsize=64)
def _warn_once(name: str) -> None:
    _LOG.warning(
        "%s answers with probabilities (none below 0, sum 1) where logits are expected: it learns slowly and its "
        "probabilities are blurred; leave out the softmax at its end",
        name,
    )


def _batches(loader: Any) -> Iterator[Batch]:
    return iter(loader) if isinstance(loader, EvalLoader) else as_batches(loader)


def concatenated(
    indices: list[Tensor], labels: list[Tensor], probabilities: list[Tensor]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Batches' positions (N,), labels (N,) and probabilities (N, K), each as one array."""
    if not labels:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 0), np.float32)
    tensors = (torch.cat(indices), torch.cat(labels), torch.cat(probabilities))
    return tuple(tensor.cpu().numpy() for tensor in tensors)  # type: ignore[return-value]


def in_order(
    shards: list[tuple[np.ndarray, np.ndarray, np.ndarray]], loader: Any, class_names: Sequence[str] | None
) -> Predictions:
    """All ranks' answers by position in the store (or in the order seen), each image once."""
    filled = [shard for shard in shards if len(shard[1])]
    if not filled:
        raise DatasetError("there are no images to evaluate; give the loader at least one")
    indices, labels, probabilities = (np.concatenate([shard[i] for shard in filled]) for i in range(3))
    if indices[0] < 0:  # a foreign loader has no store
        image_ids = np.array([str(i) for i in range(len(labels))])
    else:
        indices, first = np.unique(indices, return_index=True)
        labels, probabilities = labels[first], probabilities[first]
        image_ids = np.array([loader.store.images[i].image_id for i in indices])
    classes = probabilities.shape[1]
    names = class_names if class_names is not None else [str(k) for k in range(classes)]
    if len(names) != classes:
        raise ConfigError(f"class_names: expected one for each of the model's {classes} classes, got {len(names)}")
    return Predictions(image_ids, labels.astype(np.int64), probabilities, tuple(names))
