"""From a canonical name to an nn.Module with freshly drawn weights.

Nothing here takes a resolution: a model is the same at every one. Networks that would fix a grid of
positions (vision transformers) are built so that they interpolate it to the input's size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from resomap.checks import is_whole
from resomap.errors import ConfigError, ResolutionError, UnknownModelError
from resomap.models.generators import seeded
from resomap.models.names import model_source
from resomap.models.pretrained import check_published, load_torchvision_weights, timm_pretrained
from resomap.models.simple_cnn import DEFAULT_SPECS, CnnSpec, SimpleCnn
from resomap.models.user_callable import call_user_callable

Specs = Mapping[str, CnnSpec | Mapping[str, Any]]
"""Own network's name -> its description (models.yaml)."""

_ANY_SIZE = {"dynamic_img_size": True}
"""timm's option that makes a vision transformer interpolate its positions."""


def construct(
    name: str,
    *,
    num_classes: int,
    specs: Specs | None = None,
    published_weights: bool = False,
    seed: int | None = None,
    device: str = "cpu",
) -> nn.Module:
    """The model of a canonical name, initialised from `seed`.

    Args:
        published_weights: the library's weights; a classifier of other class count stays as initialised.
        seed: equal seeds, equal weights; None draws from the caller's random state.
        device: 'meta' gives shapes without weights.
    Raises:
        ConfigError: num_classes is no number of classes.
        UnknownModelError: code of the user's that cannot be imported, raises an error or makes no module.
        CheckpointError: the published weights cannot be had.
        ResolutionError: the user's module has layers whose size depends on the first input.
    Side effects: none on the caller's random state when a seed is given.
    """
    if not is_whole(num_classes) or num_classes < 1:
        raise ConfigError(f"num_classes: expected a whole number from 1, got {num_classes!r}")
    if published_weights:
        check_published(name)
    with _random_state(seed, meta=device == "meta"), torch.device(device):
        model = _construct(name, num_classes=int(num_classes), specs=specs, published_weights=published_weights)
    if any(is_lazy(p) for p in model.parameters()):
        raise ResolutionError(
            f"{name} has lazy layers, whose size would depend on the resolution; "
            "give them fixed sizes, e.g. after adaptive pooling"
        )
    return model


def _construct(name: str, *, num_classes: int, specs: Specs | None, published_weights: bool) -> nn.Module:
    source = model_source(name)
    if source.kind == "cnn":
        return SimpleCnn(cnn_spec(name, specs), num_classes=num_classes)
    if source.kind == "callable":
        return call_user_callable(source.target, num_classes=num_classes)
    if source.kind == "torchvision":
        import torchvision

        model = torchvision.models.get_model(source.target, weights=None, num_classes=num_classes)
        if published_weights:
            load_torchvision_weights(model, name, source.target)
        return model
    import timm

    options = any_size_options(source.target)
    if published_weights:
        return timm_pretrained(name, source.target, num_classes=num_classes, **options)
    return timm.create_model(source.target, num_classes=num_classes, **options)


def cnn_spec(name: str, specs: Specs | None) -> CnnSpec:
    """The description of one of our networks, the default one where `specs` has none."""
    given = (specs or {}).get(name, DEFAULT_SPECS[name])
    return given if isinstance(given, CnnSpec) else CnnSpec(**given)


def construct_on_meta(name: str, *, num_classes: int, specs: Specs | None = None) -> nn.Module:
    """The model without weights where its code allows that, else with them (on the CPU)."""
    try:
        return construct(name, num_classes=num_classes, specs=specs, seed=0, device="meta")
    except (RuntimeError, TypeError, ValueError, UnknownModelError):
        # Some constructors ask a tensor for its value, which meta tensors do not have.
        return construct(name, num_classes=num_classes, specs=specs, seed=0)


@lru_cache(maxsize=64)
def any_size_options(timm_name: str) -> Mapping[str, Any]:
    """The constructor's options that make a timm model take any size with unchanged parameters."""
    import timm

    def shapes(**options: Any) -> list[tuple[str, torch.Size]]:
        model = timm.create_model(timm_name, **options)
        return [(name, value.shape) for name, value in model.state_dict().items()]

    with _random_state(0, meta=True), torch.device("meta"):
        try:
            return _ANY_SIZE if shapes(**_ANY_SIZE) == shapes() else {}
        except (TypeError, RuntimeError, AssertionError):
            return {}


@contextlib.contextmanager
def _random_state(seed: int | None, *, meta: bool) -> Iterator[None]:
    """Draw from `seed` inside and leave torch's generator as it was; None: draw from the caller's state."""
    if seed is None and not meta:
        yield
        return
    # Only the CPU's generator is seeded: weights are always drawn there, so a GPU's state stays untouched.
    with seeded(torch.device("cpu"), seed or 0):
        yield
