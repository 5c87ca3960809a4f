"""Explanations compute with all bits of float32; what the process chose before is put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resomap.explainability.methods import explain

B = torch.backends
SETTINGS: tuple[Any, ...] = (
    B, B.cudnn, B.mkldnn, B.cuda.matmul, B.cudnn.conv, B.cudnn.rnn, B.mkldnn.matmul, B.mkldnn.conv, B.mkldnn.rnn,
)  # fmt: skip
LEGACY: tuple[Callable[[], Any], ...] = (
    lambda: B.cudnn.allow_tf32,
    lambda: B.cuda.matmul.allow_tf32,
    torch.get_float32_matmul_precision,
)
LATER = ("none", "tf32", "ieee")


class Watching(nn.Module):
    """A small network that notes which precisions it is run with."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)
        self.seen: set[str] = set()
        self.legacy: set[Any] = set()
        self.fails = fails

    def forward(self, images_BCHW: Tensor) -> Tensor:
        if images_BCHW.device.type != "meta":  # there only shapes count
            self.seen |= {setting.fp32_precision for setting in SETTINGS}
            self.legacy |= set(read_legacy())
        if self.fails:
            raise RuntimeError("no")
        return self.head(self.features(images_BCHW).mean((2, 3)))


def read_legacy() -> list[Any]:
    """Each of the older settings, or that it cannot be read."""
    found: list[Any] = []
    for read in LEGACY:
        try:
            found.append(read())
        except RuntimeError:
            found.append("mixed")
    return found


def everything() -> list[Any]:
    """What the process is set to, and what would follow a wider setting that is chosen later."""
    found = [setting.fp32_precision for setting in SETTINGS] + read_legacy()
    wide = B.fp32_precision
    for later in LATER:
        B.fp32_precision = later
        found += [setting.fp32_precision for setting in SETTINGS]
    B.fp32_precision = wide
    return found


def set_float32(setting: Any, precision: str) -> Callable[[], None]:
    """One choice by the newer interface."""
    return lambda: setattr(setting, "fp32_precision", precision)


CHOICES: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "cudnn.allow_tf32": lambda: setattr(B.cudnn, "allow_tf32", True),
    "not cudnn.allow_tf32": lambda: setattr(B.cudnn, "allow_tf32", False),
    "matmul.allow_tf32": lambda: setattr(B.cuda.matmul, "allow_tf32", True),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "all tf32": set_float32(B, "tf32"),
    "all ieee": set_float32(B, "ieee"),
    "cudnn tf32": set_float32(B.cudnn, "tf32"),
    "cudnn ieee": set_float32(B.cudnn, "ieee"),
    "matmul tf32": set_float32(B.cuda.matmul, "tf32"),
    "conv ieee": set_float32(B.cudnn.conv, "ieee"),
    "conv none": set_float32(B.cudnn.conv, "none"),
    "rnn ieee": set_float32(B.cudnn.rnn, "ieee"),
    "mkldnn bf16": set_float32(B.mkldnn, "bf16"),
}


@pytest.fixture(params=CHOICES)
def chosen(request: pytest.FixtureRequest) -> Iterator[list[Any]]:
    """The process is set in one of the ways; what that comes to."""
    as_started()
    CHOICES[request.param]()
    yield everything()
    as_started()


def as_started() -> None:
    """What a process is set to at first; the convolutions' TF32 is a default of torch's there, a choice here."""
    torch.set_float32_matmul_precision("highest")
    B.cudnn.allow_tf32 = True
    for setting in SETTINGS:
        setting.fp32_precision = "none"
    B.cudnn.conv.fp32_precision = B.cudnn.rnn.fp32_precision = "tf32"


def test_all_bits_are_used(chosen: list[Any]) -> None:
    network = Watching()
    explain(network, torch.rand(2, 3, 16, 16), method="saliency", targets_B=torch.tensor([0, 1]))
    assert network.seen == {"ieee"}
    assert everything() == chosen


@pytest.mark.parametrize("method", ["gradcam", "integrated_gradients"])
def test_the_other_methods_use_all_bits(method: str) -> None:
    network = Watching()
    explain(network, torch.rand(2, 3, 16, 16), method=method, targets_B=torch.tensor([0, 1]))
    assert network.seen == {"ieee"}


def test_what_was_chosen_is_put_back_after_an_error(chosen: list[Any]) -> None:
    with pytest.raises(RuntimeError, match="no"):
        explain(Watching(fails=True), torch.rand(2, 3, 16, 16), method="saliency", targets_B=torch.tensor([0, 1]))
    assert everything() == chosen


@pytest.mark.parametrize("choice", ["nothing", "high", "medium", "not cudnn.allow_tf32"])
def test_a_network_may_read_the_older_settings(choice: str, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(as_started)
    CHOICES[choice]()
    network = Watching()
    explain(network, torch.rand(2, 3, 16, 16), method="saliency", targets_B=torch.tensor([0, 1]))
    assert network.legacy == {False, "highest"}
