"""The layer that Grad-CAM explains: a network's last feature map."""

from __future__ import annotations

import difflib

from torch import Tensor, nn

from resomap.errors import ConfigError, TargetLayerError
from resomap.models.resolutions import SIZE_ERRORS, dry_forward

_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


def get_target_layer(model: nn.Module, name: str | None = None, *, resolution: int = 224) -> str:
    """Dotted name of the layer whose output is the last feature map with more than one cell.

    Args:
        name: a layer of yours; checked instead of searched for.
        resolution: side of the square input; a small input may leave one cell to the last layers.
    Returns:
        A name that model.get_submodule() takes.
    Raises:
        TargetLayerError: no such layer, or none with an output (B, C, h, w) and h w > 1.
    Side effects: none.
    """
    model = unwrapped(model)
    if name is not None and not isinstance(name, str):
        raise TargetLayerError(f"target layer: expected a layer's dotted name, got {name!r}")
    if name is not None and name not in dict(model.named_modules()):
        raise TargetLayerError(f"no layer {name!r} in {type(model).__name__}; nearest: {_nearest(model, name)}")
    shapes = _feature_maps(model, resolution)
    if name is not None:
        if name not in shapes:
            raise TargetLayerError(
                f"layer {name!r} gives no feature map (B, C, h, w) with more than one cell at {resolution} px; "
                f"choose one of {', '.join(list(shapes)[-5:]) or 'another network'}"
            )
        return name
    candidates = [found for found in shapes if not isinstance(model.get_submodule(found), _POOLS)]
    if not candidates:
        raise TargetLayerError(
            f"{type(model).__name__} has no feature map (B, C, h, w) with more than one cell at {resolution} px; "
            "Grad-CAM needs a convolutional layer: choose another method, or a larger input"
        )
    return candidates[-1]


def check_module(model: object) -> None:
    """Refuse what is no network.

    Raises:
        ConfigError: it is no torch.nn.Module.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: expected a torch.nn.Module, got {type(model).__name__}; build_model(name) makes one")


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel or DataParallel.

    Raises:
        ConfigError: it is no torch.nn.Module.
    """
    check_module(model)
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return model.module
    return model


def _feature_maps(model: nn.Module, resolution: int) -> dict[str, tuple[int, ...]]:
    """layer -> shape of its output, for layers that give feature maps, in the order in which they end."""
    found: dict[str, tuple[int, ...]] = {}

    def noting(name: str) -> object:
        def note(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
                found.pop(name, None)  # a layer that runs twice ends where it ends last
                found[name] = tuple(output.shape)

        return note

    handles = [module.register_forward_hook(noting(name)) for name, module in model.named_modules() if name]
    try:
        dry_forward(model, resolution, batch=1)
    except SIZE_ERRORS as wrong:
        raise TargetLayerError(
            f"{type(model).__name__} cannot be run at {resolution} px ({wrong}); give a resolution that it takes"
        ) from wrong
    finally:
        for handle in handles:
            handle.remove()
    return found


def _nearest(model: nn.Module, name: str) -> str:
    names = [known for known, _ in model.named_modules() if known]
    return ", ".join(difflib.get_close_matches(name, names, n=3, cutoff=0.3)) or ", ".join(names[-3:])
