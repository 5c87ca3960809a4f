"""Explanations compute with all bits of float32; what the process chose before is put back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from resomap.explainability.methods import explain


class Watching(nn.Module):
    """A small network that notes which precision CUDA's convolutions would have."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)
        self.seen: set[bool] = set()
        self.fails = fails

    def forward(self, images_BCHW: Tensor) -> Tensor:
        if images_BCHW.device.type != "meta":  # there only shapes count
            self.seen |= {torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32}
        if self.fails:
            raise RuntimeError("no")
        return self.head(self.features(images_BCHW).mean((2, 3)))


@pytest.fixture(params=[True, False])
def chosen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", request.param)
    return request.param


@pytest.mark.parametrize("method", ["gradcam", "integrated_gradients", "saliency"])
def test_no_method_uses_tf32(method: str, chosen: bool) -> None:
    network = Watching()
    explain(network, torch.rand(2, 3, 16, 16), method=method, targets_B=torch.tensor([0, 1]))
    assert network.seen == {False}
    assert torch.backends.cudnn.allow_tf32 is chosen


def test_the_choice_is_put_back_after_an_error(chosen: bool) -> None:
    with pytest.raises(RuntimeError, match="no"):
        explain(Watching(fails=True), torch.rand(2, 3, 16, 16), method="saliency", targets_B=torch.tensor([0, 1]))
    assert torch.backends.cudnn.allow_tf32 is chosen
