"""Which input resolutions a model takes, found by a forward pass without weights.

A size is accepted when it is a multiple of the model's total stride (so that no pixels are lost at the
border, and every cell of the last feature map means the same at every size), or the library's own default
size, and a forward pass at that size gives logits. Shapes alone decide, except for the user's own code and
for timm's models of one size, which are run once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from resomap.checks import is_whole
from resomap.errors import ResolutionError, ResoMapError, UnknownModelError
from resomap.models.architectures import Specs, any_size_options, cnn_spec, construct, construct_on_meta
from resomap.models.modules import SIZE_ERRORS, count_parameters, dry_forward, run_here
from resomap.models.names import FAMILIES, canonical_name, model_source
from resomap.models.pretrained import timm_config
from resomap.models.simple_cnn import CnnSpec
from resomap.models.user_callable import users_error

_USUAL_STRIDE = 32
_LARGEST = 16384
_SEARCH_STEPS = 8


def least_training_batch(model: nn.Module, resolution: int) -> int:
    """Fewest images of a forward pass in training: 2 where BatchNorm has one value a channel of one image, else 1.

    That is so where a feature map is 1 x 1 at this size.
    """
    for forward in (dry_forward, run_here):
        for batch in (1, 2):
            try:
                forward(model, resolution, batch=batch, training=True)
            except SIZE_ERRORS:
                continue
            return batch
    return 1  # something else is wrong, and says so where the model is run


def takes(model: nn.Module, resolution: int) -> bool:
    """Whether a forward pass at this size works, by shapes alone where the model's code lets them.

    Raises:
        torch.OutOfMemoryError: as takes_here.
    """
    try:
        dry_forward(model, resolution)
    except SIZE_ERRORS:
        return takes_here(model, resolution)
    return True


def takes_here(model: nn.Module, resolution: int) -> bool:
    """The same by a forward pass of one image where the model is: for a small network quicker than by shapes.

    Raises:
        torch.OutOfMemoryError: the device has no memory left, which says nothing about the size.
    """
    try:
        run_here(model, resolution)
    except torch.OutOfMemoryError:
        raise
    except SIZE_ERRORS:
        return False
    return True


def model_stride(name: str, *, specs: Specs | None = None) -> int:
    """Input pixels per cell of the model's last feature map; 1 where the model does not say."""
    name = canonical_name(name)
    source = model_source(name)
    if source.kind == "cnn":
        return cnn_spec(name, specs).stride
    if source.kind == "torchvision":
        return _USUAL_STRIDE
    if source.kind == "callable":
        return 1
    return _timm_stride(_probe(name, None, 2)[0])


def check_resolution(name: str, resolution: int, *, specs: Specs | None = None, num_classes: int = 2) -> None:
    """Refuse a resolution that the model cannot take. A callable of the user's is imported and run.

    Raises:
        ResolutionError: names the nearest sizes it can take.
        UnknownModelError: no such model, it is no classifier, or code of the user's that raises an error at this size
            and those near it.
    """
    name = canonical_name(name)
    if not is_whole(resolution):
        raise ResolutionError(f"a resolution is a whole number of pixels, not {resolution!r}")
    resolution = int(resolution)  # numpy's are kept by the caches below, and shown, as Python's
    spec = cnn_spec(name, specs) if model_source(name).kind == "cnn" else None
    if _accepts(name, resolution, spec, num_classes):
        return
    stride = model_stride(name, specs=specs)
    wrong = f"a multiple of {stride}" if resolution % stride else "a size"
    nearest = _nearest(name, resolution, spec, num_classes, stride)
    if not nearest and model_source(name).kind == "callable" and 1 <= resolution <= _LARGEST:
        _users_forward(name, resolution, num_classes)
    hint = f"nearest: {', '.join(map(str, nearest))}" if nearest else "no size near it works either"
    raise ResolutionError(f"{resolution} is not {wrong} that {name} accepts; {hint}")


def _nearest(name: str, resolution: int, spec: CnnSpec | None, num_classes: int, stride: int) -> list[int]:
    """The nearest accepted sizes, one below and one above; the model's default size where there are none."""
    step = stride if stride > 1 else _USUAL_STRIDE
    start = min(max(resolution, 0), _LARGEST) // step
    steps = 2 if _is_fixed(name) else _SEARCH_STEPS  # Each step of these builds and runs the model.
    below = range(start, max(start - steps, 0), -1)
    above = range(start + 1, start + 1 + steps)
    found = []
    for multiples in (below, above):
        sizes = (m * step for m in multiples if m * step != resolution)
        found += [next((s for s in sizes if _accepts(name, s, spec, num_classes)), None)]
    default = _probe(name, spec, num_classes)[1]
    nearest = [size for size in found if size is not None]
    return nearest or ([default] if default and default != resolution else [])


def _accepts(name: str, resolution: int, spec: CnnSpec | None, num_classes: int) -> bool:
    if not 1 <= resolution <= _LARGEST:
        return False
    specs = {name: spec} if spec else None
    _, default = _probe(name, spec, num_classes)
    stride = model_stride(name, specs=specs)
    if resolution % stride and resolution != default:
        return False
    if resolution % stride == 0 and _takes_all_multiples(name, stride, spec, num_classes):
        return True
    return _runs(name, resolution, spec, num_classes)


def _takes_all_multiples(name: str, stride: int, spec: CnnSpec | None, num_classes: int) -> bool:
    """Whether one pass at the smallest multiple of the stride answers for all: a study's default networks.

    They are convolutions and pooling before a global pooling, so what works at a size works at every larger one.
    """
    return any(name in names for names in FAMILIES.values()) and _runs(name, stride, spec, num_classes)


@lru_cache(maxsize=16)
def _probe(name: str, spec: CnnSpec | None, num_classes: int) -> tuple[nn.Module, int | None]:
    """The model for trying sizes on, and its library's default input size."""
    model = construct_on_meta(name, num_classes=num_classes, specs={name: spec} if spec else None)
    size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    return model, size[-1] if size and model_source(name).kind == "timm" else None


@lru_cache(maxsize=1024)
def _runs(name: str, resolution: int, spec: CnnSpec | None, num_classes: int) -> bool:
    """Whether a forward pass at this size works.

    Raises:
        UnknownModelError: it works, but gives no logits; or code of the user's raises what no size explains.
    """
    model, default = _probe(name, spec, num_classes)
    is_users = model_source(name).kind == "callable"
    errors: tuple[type[Exception], ...] = (Exception,) if is_users else SIZE_ERRORS
    try:
        logits = dry_forward(model, resolution)
        if resolution != default and _is_fixed(name):
            # Shapes do not show an index that runs past a table of positions.
            logits = _real_forward(name, resolution, num_classes)
    except errors:
        if not is_users:
            return False
        # The user's code may do what tensors without values cannot: ask the real thing.
        try:
            logits = _users_forward(name, resolution, num_classes)
        except UnknownModelError as error:
            if isinstance(error.__cause__, SIZE_ERRORS):
                return False
            raise
    if not isinstance(logits, Tensor) or logits.shape != (2, num_classes):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UnknownModelError(
            f"{name} is no classifier: two images gave {shape} where (2, {num_classes}) logits were expected"
        )
    return True


def _is_fixed(name: str) -> bool:
    """Whether timm says that a model takes one size, and has no option that makes it take others."""
    source = model_source(name)
    if source.kind != "timm" or any_size_options(source.target):
        return False
    config = timm_config(source.target)
    return config is not None and bool(config.fixed_input_size)


def _real_forward(name: str, resolution: int, num_classes: int) -> object:
    model = construct(name, num_classes=num_classes, seed=0).eval()
    with torch.no_grad():
        return model(torch.zeros(2, 3, resolution, resolution))


def _users_forward(name: str, resolution: int, num_classes: int) -> object:
    """_real_forward of code of the user's, whose errors become an UnknownModelError."""
    try:
        return _real_forward(name, resolution, num_classes)
    except ResoMapError:
        raise
    except Exception as error:
        shape = f"(2, 3, {resolution}, {resolution})"
        raise users_error(name, f"in forward, given images {shape}", error) from error


def _timm_stride(model: nn.Module) -> int:
    """Total stride: the largest reduction that timm's feature_info lists."""
    info = getattr(model, "feature_info", None) or []
    entries = info.info if hasattr(info, "info") else info
    reductions = [int(e["reduction"]) for e in entries if isinstance(e, dict) and "reduction" in e]
    return max(reductions, default=1)


def assert_same_parameters(
    name: str, resolutions: Sequence[int], *, num_classes: int, specs: Specs | None = None
) -> int:
    """The parameter count, checked to be the same at each resolution (the protocol: only resolution differs).

    Raises:
        ResolutionError: a resolution the model cannot take, or a count that changes with it.
    """
    counts: dict[int, int] = {}
    is_foreign = model_source(canonical_name(name)).kind == "callable"
    for resolution in resolutions:
        check_resolution(name, resolution, specs=specs, num_classes=num_classes)
        if counts and not is_foreign:
            continue  # its constructor is not told the resolution
        # Built anew each time: code of the user's could look at anything, and lazy layers are refused here.
        model = construct_on_meta(canonical_name(name), num_classes=num_classes, specs=specs)
        counts[resolution] = count_parameters(model)
    if len(set(counts.values())) > 1:
        raise ResolutionError(f"{name} has other parameter counts at other resolutions: {counts}")
    return next(iter(counts.values()))
