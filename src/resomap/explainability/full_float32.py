"""All bits of float32 for a while, whichever of torch's two interfaces the process was set by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_EXACT = "ieee"
_BACKENDS: Any = torch.backends
_SETTINGS = (
    _BACKENDS,
    _BACKENDS.cudnn, _BACKENDS.mkldnn,
    _BACKENDS.cuda.matmul, _BACKENDS.cudnn.conv, _BACKENDS.cudnn.rnn,
    _BACKENDS.mkldnn.matmul, _BACKENDS.mkldnn.conv, _BACKENDS.mkldnn.rnn,
)  # fmt: skip
"""Everything with an fp32_precision; what is not set on its own follows one before it."""


def _allow_tf32(allow: bool) -> None:
    torch.backends.cudnn.allow_tf32 = allow


_LEGACY: tuple[tuple[Callable[[], Any], Callable[[Any], None], Any], ...] = (
    (lambda: torch.backends.cudnn.allow_tf32, _allow_tf32, False),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
)
"""(read, set, exact). Reading raises once the other interface was used; code that reads them inside still may."""


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions and matrix products of float32 with all of its bits: CUDA's convolutions use TF32 unless told.

    Gradients with respect to pixels need them: ten bits of a factor decide on which side of zero a ReLU's input lies.
    What was chosen is put back, also after an error; what follows a wider setting follows it again. Only TF32 that
    CUDA's convolutions have by default is theirs by choice afterwards: torch cannot set a default back.
    """
    before = [setting.fp32_precision for setting in _SETTINGS]
    legacy: list[tuple[Callable[[Any], None], Any]] = []
    try:
        for read, choose, exact in _LEGACY:
            try:
                chosen = read()
            except RuntimeError:
                continue
            if chosen != exact:
                legacy.append((choose, chosen))
                choose(exact)
        _apply([_EXACT] * len(_SETTINGS))
        yield
    finally:
        for choose, chosen in legacy:
            choose(chosen)  # it sets some of the others as well
        _apply(before)


def _apply(precisions: list[str]) -> None:
    for setting, precision in zip(_SETTINGS, precisions, strict=True):
        if setting.fp32_precision != precision:
            setting.fp32_precision = precision
