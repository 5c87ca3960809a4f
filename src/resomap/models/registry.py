"""build_model: from a name to a network, ours, torchvision's, timm's or the user's."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from resomap.checks import is_whole
from resomap.errors import ConfigError, UnknownModelError
from resomap.models.architectures import Specs, construct, construct_on_meta
from resomap.models.modules import count_parameters
from resomap.models.names import NOT_ALLOWED, canonical_name, family_of, list_models
from resomap.models.pretrained import check_published, library_normalisation
from resomap.models.resolutions import assert_same_parameters, check_resolution, model_stride
from resomap.models.weights import fit_state_dict, load_weights, read_state_dict
from resomap.printable import printable

__all__ = [
    "assert_same_parameters",
    "build_model",
    "canonical_name",
    "check_pretrained",
    "check_resolution",
    "count_parameters",
    "family_of",
    "list_models",
    "model_stride",
    "normalisation_of",
]

Rgb = tuple[float, float, float]


def build_model(
    name: str,
    *,
    num_classes: int,
    pretrained: bool | str | Path = False,
    resolution: int | None = None,
    specs: Specs | None = None,
    allow_callables: bool = True,
    seed: int | None = None,
) -> nn.Module:
    """A classifier that takes (B, 3, H, W) float32, normalised, and returns logits (B, num_classes).

    The resolution changes nothing in the model: it is only checked. So the parameters, and for equal seeds
    their initial values, are the same at every resolution.

    Args:
        name: case-insensitive; one of list_models(), any timm model, or `package.module:callable` (called
            with num_classes=).
        pretrained: True for the library's weights (downloaded once), or the path of a weights file.
        resolution: side of the square input in pixels; None skips the check.
        specs: descriptions of simple_cnn and tiny_cnn that replace the default ones.
        allow_callables: False refuses `package.module:callable`, which runs that code.
        seed: of the initialisation; None draws from torch's global state.
    Raises:
        ConfigError: num_classes is no number of classes, or pretrained or seed are of a wrong kind.
        UnknownModelError: no such model; names the nearest.
        ResolutionError: the model cannot take that size; names the nearest it can.
        CheckpointError: the weights cannot be had, or are another model's.
    """
    if not isinstance(pretrained, (bool, str, Path)):
        raise ConfigError(f"pretrained: expected True, False or the path of a weights file, got {pretrained!r}")
    if seed is not None and not is_whole(seed):
        raise ConfigError(f"seed: expected a whole number, or None, got {seed!r}")
    name = canonical_name(name)
    if ":" in name and not allow_callables:
        raise UnknownModelError(f"{printable(name)} {NOT_ALLOWED}")
    if resolution is not None:
        check_resolution(name, resolution, specs=specs, num_classes=num_classes)
    model = construct(name, num_classes=num_classes, specs=specs, published_weights=pretrained is True, seed=seed)
    if not isinstance(pretrained, bool):
        load_weights(model, Path(pretrained), name=name)
    return model


def check_pretrained(name: str, pretrained: bool | str | Path, *, num_classes: int, specs: Specs | None = None) -> None:
    """Find out before training whether the weights can be had and fit; loads nothing into a model.

    Raises:
        CheckpointError: none are published, the network cannot be reached, or the file does not fit.
    """
    name = canonical_name(name)
    if pretrained is True:
        check_published(name)
    elif not isinstance(pretrained, bool):
        model = construct_on_meta(name, num_classes=num_classes, specs=specs)
        fit_state_dict(model, read_state_dict(Path(pretrained)), path=Path(pretrained), name=name)


def normalisation_of(name: str) -> tuple[Rgb, Rgb]:
    """Mean and standard deviation (R, G, B in 0..1) the model's published weights expect; ImageNet's else."""
    return library_normalisation(canonical_name(name))
