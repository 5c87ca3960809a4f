"""Weights that the libraries publish: whether there are any, fetching them, and what they expect.

A download goes to the libraries' own caches. What is cached is used without asking the network again, and
without a network the answer comes at once instead of after the hub client's minute of retries.
"""

from __future__ import annotations

import contextlib
import pickle
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resomap.errors import CheckpointError
from resomap.models.names import model_source
from resomap.models.weights import apply_fit, fit_state_dict
from resomap.printable import printable

Rgb = tuple[float, float, float]

IMAGENET_MEAN: Rgb = (0.485, 0.456, 0.406)
IMAGENET_STD: Rgb = (0.229, 0.224, 0.225)

_CONNECT_TIMEOUT_S = 5.0
_OWN_FILE = "set pretrained to false, or to the path of a weights file"


def library_normalisation(name: str) -> tuple[Rgb, Rgb]:
    """Mean and standard deviation that a canonical name's published weights expect; ImageNet's else."""
    source = model_source(name)
    config = timm_config(source.target) if source.kind == "timm" else None
    if config is None or len(config.mean) != 3 or len(config.std) != 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return tuple(map(float, config.mean)), tuple(map(float, config.std))  # type: ignore[return-value]


def check_published(name: str) -> None:
    """Refuse a model without published weights, or whose weights can not be had now.

    Raises:
        CheckpointError: says to give a weights file instead.
    """
    source = model_source(name)
    if source.kind == "torchvision":
        url = _torchvision_weights(source.target).url
        if not (Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name).is_file():
            _refuse_offline(name, url)
    elif source.kind == "timm":
        _timm_overlay(name, source.target)
    else:
        raise CheckpointError(f"{name} has no published weights; {_OWN_FILE}")


def timm_pretrained(name: str, target: str, *, num_classes: int, **options: Any) -> nn.Module:
    """A timm model with its published weights; a classifier of other class count is freshly drawn.

    Raises:
        CheckpointError: there are none, or they cannot be fetched.
    """
    import timm

    overlay = _timm_overlay(name, target)
    with _fetch_errors(name):
        return timm.create_model(
            target, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes, **options
        )


def load_torchvision_weights(model: nn.Module, name: str, target: str) -> None:
    """Copy torchvision's published weights into `model`.

    Raises:
        CheckpointError: they cannot be fetched.
    """
    weights = _torchvision_weights(target)
    with _fetch_errors(name):
        tensors = weights.get_state_dict(progress=False, check_hash=True)
    apply_fit(model, fit_state_dict(model, tensors, path=Path(weights.url), name=name))


def _torchvision_weights(target: str) -> Any:
    import torchvision

    return torchvision.models.get_model_weights(target).DEFAULT


def timm_config(target: str) -> Any | None:
    """timm's description of a model's default weights; None where it has none."""
    import timm

    return timm.get_pretrained_cfg(target)


def _timm_overlay(name: str, target: str) -> dict[str, str] | None:
    """Where the weights lie in the cache, as timm takes it; None: to be downloaded."""
    config = timm_config(target)
    if config is None or not (config.hf_hub_id or config.url):
        raise CheckpointError(f"{name} has no published weights; {_OWN_FILE}")
    if config.hf_hub_id and not config.custom_load:
        cached = _cached(config.hf_hub_id, config.hf_hub_filename)
        if cached:
            return {"file": cached}
    if config.hf_hub_id:
        from huggingface_hub import constants

        _refuse_offline(name, constants.ENDPOINT, offline=constants.HF_HUB_OFFLINE)
    return None


def _cached(repository: str, filename: str | None) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = repository.partition("@")
    for candidate in [filename] if filename else ["model.safetensors", "pytorch_model.bin"]:
        found = try_to_load_from_cache(repository, candidate, revision=revision or None)
        if isinstance(found, str):
            return found
    return None


def _refuse_offline(name: str, url: str, *, offline: bool = False) -> None:
    """Refuse at once where the host cannot be reached: the hub client would retry for a minute."""
    address = urllib.parse.urlsplit(url)
    if not offline:
        if urllib.request.getproxies():
            return  # The proxy resolves names; only the download itself can tell.
        port = address.port or (80 if address.scheme == "http" else 443)
        try:
            socket.create_connection((address.hostname or "", port), timeout=_CONNECT_TIMEOUT_S).close()
            return
        except OSError:
            pass
    raise CheckpointError(
        f"the weights of {name} are not on this machine and {address.hostname} cannot be reached; {_OWN_FILE}"
    )


@contextlib.contextmanager
def _fetch_errors(name: str) -> Iterator[None]:
    """Turn what downloading and opening weights raises into one line."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
    from safetensors import SafetensorError

    # The hub client's transport errors (a timeout) derive from its HTTP library's base class.
    transport = HfHubHTTPError.__bases__[0]
    failures: tuple[type[BaseException], ...] = (
        OSError, RuntimeError, transport, EntryNotFoundError, SafetensorError, pickle.UnpicklingError,
    )  # fmt: skip
    try:
        yield
    except failures as error:
        reason = printable(error).split("\\n")[0][:200]
        raise CheckpointError(f"cannot get the weights of {name} ({reason}); {_OWN_FILE}") from error
