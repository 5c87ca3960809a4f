"""The layer that Grad-CAM explains: a network's last feature map.

Legend: B images, C channels, H W input pixels, h w cells of a feature map, N tokens.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from torch import Tensor, nn

from resomap.errors import TargetLayerError
from resomap.models.modules import SIZE_ERRORS, dry_forward, run_here, sides_of, unwrapped
from resomap.printable import printable

_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_AXES = {1: (2, 3), 3: (1, 2)}
"""Axis of the channels -> axes of height and width."""


@dataclass(frozen=True, slots=True)
class TargetLayer:
    """A layer, and how its output is read."""

    name: str
    channels: int
    """Axis of the channels: 1 of (B, C, h, w), 3 of (B, h, w, C)."""


def get_target_layer(model: nn.Module, name: str | None = None, *, resolution: int | tuple[int, int] = 224) -> str:
    """Dotted name of the layer whose output is the last feature map with more than one cell.

    Args:
        name: a layer of yours; checked instead of searched for.
        resolution: side of the square input, or (height, width); a small input may leave one cell to the last layers.
    Returns:
        A name that model.get_submodule() takes.
    Raises:
        TargetLayerError: as find_target_layer.
    Side effects: none.
    """
    return find_target_layer(model, name, resolution=resolution).name


def find_target_layer(
    model: nn.Module, name: str | None = None, *, resolution: int | tuple[int, int] = 224
) -> TargetLayer:
    """The layer of get_target_layer, with the axis of its channels.

    A feature map's height follows the input's, its width the input's width, and nothing else does: tokens and heads of
    a transformer are no feature map, whatever their number of axes.

    Raises:
        TargetLayerError: no such layer, none whose output is a feature map with h w > 1, or a network that goes on
            with tokens (B, N, C) after its last one, as vision transformers do after cutting the image into patches.
        ConfigError: `model` is no network, or `resolution` none.
    Side effects: none.
    """
    model = unwrapped(model)
    if name is not None and not isinstance(name, str):
        raise TargetLayerError(f"target layer: expected a layer's dotted name, got {name!r}")
    if name is not None and name not in dict(model.named_modules()):
        raise TargetLayerError(f"no layer {name!r} in {type(model).__name__}; nearest: {_nearest(model, name)}")
    size = sides_of(resolution)
    shapes = _shapes(model, size)
    layers = {
        layer.name: layer for layer in _feature_maps(model, shapes, size) if _cells(shapes[layer.name], layer) > 1
    }
    at = f"{size[0]} px" if size[0] == size[1] else f"{size[0]} x {size[1]} px"
    if name is not None:
        if name not in layers:
            raise TargetLayerError(
                f"layer {name!r} gives {shapes.get(name, 'something else')}, not a feature map (B, C, h, w) with more "
                f"than one cell at {at}; choose one of {', '.join(list(layers)[-5:]) or 'another network'}"
            )
        return layers[name]
    candidates = [layer for found, layer in layers.items() if not isinstance(model.get_submodule(found), _POOLS)]
    if not candidates:
        raise TargetLayerError(
            f"{type(model).__name__} has no feature map (B, C, h, w) with more than one cell at {at}; "
            "Grad-CAM needs a convolutional layer: choose another method, or a larger input"
        )
    last = candidates[-1]
    later = list(shapes)[list(shapes).index(last.name) + 1 :]
    if any(_gives_tokens(model.get_submodule(found), shapes[found]) for found in later):
        raise TargetLayerError(
            f"{type(model).__name__} goes on with tokens (B, N, C) after its last feature map, {last.name}; "
            "Grad-CAM needs a convolutional layer: choose another method, or name a layer as target_layer"
        )
    return last


def channels_axis(shape: tuple[int, ...], size: tuple[int, int]) -> int | None:
    """1 where (h, w) of (B, C, h, w) has the proportions of the input (H, W), 3 where that of (B, h, w, C) has.

    None: neither, so that the output is no feature map.
    """
    return next(iter(_readings(shape, size)), None)


def _readings(shape: tuple[int, ...], size: tuple[int, int]) -> list[int]:
    """Axes of the channels with which the rest has the proportions of the input, up to a cell of an oblong one."""
    height, width = size
    slack = 0 if height == width else max(size)
    return [
        channels
        for channels, (rows, columns) in _AXES.items()
        if len(shape) == 4 and abs(shape[rows] * width - shape[columns] * height) <= slack
    ]


def _feature_maps(model: nn.Module, shapes: dict[str, tuple[int, ...]], size: tuple[int, int]) -> list[TargetLayer]:
    """Layers whose output is a feature map, in the order in which they end."""
    if all(shape[0] == 1 and _readings(shape, size) == [1] for shape in shapes.values()):
        return [TargetLayer(name, 1) for name in shapes]
    height, width = size
    try:
        taller, wider = _shapes(model, (2 * height, width)), _shapes(model, (height, 2 * width))
    except TargetLayerError:  # a network of one size: its proportions must do
        taller, wider = shapes, shapes
    found = []
    for name, shape in shapes.items():
        rows, columns = _changed(shape, taller.get(name)), _changed(shape, wider.get(name))
        channels: int | None
        if rows or columns:
            channels = next((c for c, (h, w) in _AXES.items() if rows <= {h} and columns <= {w}), None)
        else:
            channels = channels_axis(shape, size) if shape[0] == 1 else None
        if channels is not None and len(shape) == 4:
            found.append(TargetLayer(name, channels))
    return found


def _changed(shape: tuple[int, ...], other: tuple[int, ...] | None) -> set[int]:
    """Axes of another length; all where there is no such output."""
    if other is None or len(other) != len(shape):
        return set(range(len(shape)))
    return {axis for axis, length in enumerate(shape) if other[axis] != length}


def _cells(shape: tuple[int, ...], layer: TargetLayer) -> int:
    rows, columns = _AXES[layer.channels]
    return shape[rows] * shape[columns]


def _gives_tokens(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a block of layers, not a single one (an attention that pools has those), gives several tokens."""
    return len(shape) == 3 and sorted(shape)[1] > 1 and any(True for _ in module.children())


def _shapes(model: nn.Module, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Layer -> shape of its output for one image, of outputs with 3 or 4 axes, in the order in which layers end."""
    found: dict[str, tuple[int, ...]] = {}

    def noting(name: str) -> object:
        def note(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim in (3, 4):
                found.pop(name, None)  # a layer that runs twice ends where it ends last
                found[name] = tuple(output.shape)

        return note

    handles = [module.register_forward_hook(noting(name)) for name, module in model.named_modules() if name]
    try:
        try:
            dry_forward(model, size, batch=1)
        except SIZE_ERRORS:  # code that asks tensors for values, or the size
            found.clear()
            run_here(model, size)
    except SIZE_ERRORS as wrong:
        raise TargetLayerError(
            f"{type(model).__name__} cannot be run at {size[0]} px ({printable(wrong)}); give a resolution that it "
            "takes"
        ) from wrong
    finally:
        for handle in handles:
            handle.remove()
    return found


def _nearest(model: nn.Module, name: str) -> str:
    names = [known for known, _ in model.named_modules() if known]
    return ", ".join(difflib.get_close_matches(name, names, n=3, cutoff=0.3)) or ", ".join(names[-3:])
