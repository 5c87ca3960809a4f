"""What a model may be called, and where its code comes from.

Four sources: our own networks, VGG from torchvision, everything else from timm, and the user's own
`package.module:callable`. Ours and timm's names are case-insensitive; a timm name may carry the tag of
its pretrained weights ('resnet18.a1_in1k').
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

from resomap.errors import UnknownModelError
from resomap.printable import printable

FAMILIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "vgg": ("vgg11", "vgg13", "vgg16"),
        "resnet": ("resnet18", "resnet34", "resnet50", "resnet101"),
        "mobilenet": ("mobilenet_v2", "mobilenet_v2_small", "mobilenet_v3_small", "mobilenet_v3_large"),
        "cnn": ("simple_cnn", "tiny_cnn"),
    }
)
"""The 13 models of the default study by family; models.yaml may regroup them."""

_TIMM_NAMES: Mapping[str, str] = MappingProxyType(
    {
        **{name: name for name in FAMILIES["resnet"]},
        "mobilenet_v2": "mobilenetv2_100",
        "mobilenet_v2_small": "mobilenetv2_050",
        "mobilenet_v3_small": "mobilenetv3_small_100",
        "mobilenet_v3_large": "mobilenetv3_large_100",
    }
)
NOT_ALLOWED = "runs code of yours; allow it with --set models.allow_callables=true"
"""What is said of a `package.module:callable` that may not run."""

_CALLABLE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model's code comes from: the library, and what it calls the model."""

    kind: Literal["cnn", "torchvision", "timm", "callable"]
    target: str


def canonical_name(name: str) -> str:
    """The one spelling of a model's name: 'VGG11' -> 'vgg11', 'MobileNetV3-Small' -> 'mobilenet_v3_small'.

    `package.module:callable` is returned as it is; whether it can be imported shows when it is built.

    Raises:
        UnknownModelError: no such model; names the nearest.
    """
    if not isinstance(name, str) or not name.strip():
        raise UnknownModelError(f"a model is named by text such as 'resnet18', not {name!r}")
    stripped = name.strip()
    if _CALLABLE.fullmatch(stripped):
        library, _, rest = stripped.partition(":")
        if library in ("timm", "torchvision"):
            raise UnknownModelError(
                f"'{stripped}': write {canonical_name(rest)}, without {library}:, which would be code of yours "
                "(package.module:callable)"
            )
        return stripped
    lowered = stripped.lower()
    if len(lowered) <= _LONGEST_NAME:
        if lowered in _own_names():
            return lowered
        if lowered in _timm_names():
            return lowered
        squashed = {_squash(own): own for own in _own_names()}
        if _squash(lowered) in squashed:
            return squashed[_squash(lowered)]
    raise UnknownModelError(_unknown(lowered))


def as_listed(name: str, known: Collection[str]) -> str:
    """A model's name as `known` spells it, by the rules of canonical_name; as it stands where none of them is meant."""
    if name in known or not isinstance(name, str) or ":" in name:
        return name
    lowered = name.strip().lower()
    by_case = (listed for listed in known if listed.lower() == lowered)
    own = (listed for listed in known if listed in _own_names() and _squash(listed) == _squash(lowered))
    return next(by_case, next(own, name))


def model_source(name: str) -> ModelSource:
    """Where the code of a canonical name comes from."""
    if ":" in name:
        return ModelSource("callable", name)
    if name in FAMILIES["cnn"]:
        return ModelSource("cnn", name)
    if name in FAMILIES["vgg"]:
        return ModelSource("torchvision", name)
    return ModelSource("timm", _TIMM_NAMES.get(name, name))


def list_models(family: str | None = None, *, families: Mapping[str, Sequence[str]] = FAMILIES) -> list[str]:
    """The models of one family or of all; any other timm name can be built too.

    Raises:
        UnknownModelError: no such family.
    """
    if family is None:
        return [name for members in families.values() for name in members]
    if family not in families:
        raise UnknownModelError(f"no model family '{printable(family)}'; families: {', '.join(families)}")
    return list(families[family])


def family_of(name: str, *, families: Mapping[str, Sequence[str]] = FAMILIES) -> str:
    """The family of a model: as listed, else 'custom' for the user's own callable and 'timm' for the rest."""
    wanted = canonical_name(name)
    for family, members in families.items():
        if wanted in (member.lower() for member in members):
            return family
    return "custom" if ":" in wanted else "timm"


def _own_names() -> list[str]:
    return [name for members in FAMILIES.values() for name in members]


@lru_cache(maxsize=1)
def _timm_names() -> frozenset[str]:
    import timm  # Here, since it takes a second and our own networks do not need it.

    return frozenset(timm.list_models()) | frozenset(timm.list_pretrained())


def _squash(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name)


def _unknown(name: str) -> str:
    shown = f"'{printable(name[:80])}'"
    if ":" in name:
        return f"{shown} is not of the form package.module:callable"
    import timm

    architecture = name[:_LONGEST_NAME].partition(".")[0]
    tagged = timm.list_pretrained(f"{architecture}.*") if timm.is_model(architecture) else []
    names = sorted({*_own_names(), *timm.list_models(), *tagged})
    nearest = difflib.get_close_matches(name[:80], names, n=3, cutoff=0.6) or tagged[:3]
    hint = f"nearest: {', '.join(nearest)}" if nearest else f"known: {', '.join(_own_names())}, any timm name"
    return f"no model is called {shown}; {hint}"
