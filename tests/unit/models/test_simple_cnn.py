from __future__ import annotations

import pytest
import torch

from resomap.models.simple_cnn import DEFAULT_SPECS, CnnSpec, SimpleCnn


def test_simple_cnn_gives_logits_at_its_smallest_size() -> None:
    spec = CnnSpec((2, 4), kernel_size=5)
    assert spec.stride == 4  # two blocks halve the side twice
    logits = SimpleCnn(spec, num_classes=3)(torch.zeros(2, 3, 4, 4))
    assert logits.shape == (2, 3)


def test_simple_cnn_averages_over_all_positions() -> None:
    model = SimpleCnn(CnnSpec((2,), kernel_size=1), num_classes=2).eval()
    with torch.no_grad():
        model.features[0][0].weight.copy_(torch.eye(2, 3).reshape(2, 3, 1, 1))
        model.classifier.weight.copy_(torch.eye(2))
        model.classifier.bias.zero_()
    image = torch.zeros(1, 3, 4, 4)
    # Channel 0 has one bright pixel of 8 in one of the four 2x2 pools: mean of (8, 0, 0, 0) is 2.
    image[0, 0, 1, 1] = 8.0
    # A fresh batch norm in evaluation mode divides by sqrt(1 + 1e-5).
    torch.testing.assert_close(model(image), torch.tensor([[2.0, 0.0]]), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"channels": ()}, "1 to 8 blocks"),
        ({"channels": (8,) * 9}, "1 to 8 blocks"),
        ({"channels": (8, 0)}, "whole numbers from 1"),
        ({"channels": (10**9,)}, "whole numbers from 1"),
        ({"channels": (8, True)}, "whole numbers"),
        ({"channels": (8,), "kernel_size": 2}, "kernel_size: 1, 3, 5 or 7"),
        ({"channels": (8,), "dropout": 1.0}, "dropout"),
        ({"channels": (8,), "dropout": float("nan")}, "dropout"),
        ({"channels": (8,), "dropout": "much"}, "dropout"),
    ],
)
def test_cnn_spec_refuses_values_out_of_range(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CnnSpec(**values)


def test_default_specs_are_those_of_the_design() -> None:
    assert DEFAULT_SPECS["tiny_cnn"].channels == (16, 32, 64)
    assert DEFAULT_SPECS["simple_cnn"].stride == 16
