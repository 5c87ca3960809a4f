"""Does a map show what the model uses? Insertion and deletion, sensitivity, and the random-weights check.

Legend: B images, K classes, C channels, H W pixels, h w cells of a map, F fractions of the area.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from captum.metrics import sensitivity_max
from torch import Tensor, nn
from torch.nn.functional import interpolate

from resomap.explainability.attribution import Attribution, borrowed, borrowed_dtype, logits_of
from resomap.models.generators import seeded
from resomap.models.modules import device_of

_USUAL_STD = 0.02
FRACTIONS = tuple(np.linspace(0, 1, 11).round(2).tolist())
Explain = Callable[[Tensor, Tensor], Attribution]
"""(images, targets) -> maps."""


@dataclass(frozen=True, slots=True, eq=False)
class Faithfulness:
    """Probability of the target while the image is taken away or built up in the order of the map.

    deletion_BF: the highest cells replaced first (a faithful map: it falls early, a small area under the curve);
    insertion_BF: the highest cells shown first (a large area). Areas lie in 0..1.
    """

    fractions: tuple[float, ...]
    deletion_BF: np.ndarray
    insertion_BF: np.ndarray

    @property
    def deletion_auc(self) -> np.ndarray:
        """(B,) area under the deletion curve."""
        return np.trapezoid(self.deletion_BF, self.fractions, axis=1)

    @property
    def insertion_auc(self) -> np.ndarray:
        """(B,) area under the insertion curve."""
        return np.trapezoid(self.insertion_BF, self.fractions, axis=1)


def insertion_deletion(
    model: nn.Module, images_BCHW: Tensor, maps_Bhw: Tensor, targets_B: Tensor, *, chunk: int = 32
) -> Faithfulness:
    """Both curves by fractions of the area, so that they compare across resolutions.

    What is taken away becomes the mean colour (0 of a normalised image). Among equal values the upper left goes first.

    Reference: Petsiuk et al. 2018, arXiv:1806.07421, section 3.2; there by pixels.
    """
    order_BP = _order(maps_Bhw, images_BCHW.shape[2:])
    pixels = order_BP.shape[1]
    curves: dict[bool, list[np.ndarray]] = {True: [], False: []}
    with borrowed(model) as network, torch.no_grad():
        for fraction in FRACTIONS:
            first_B1HW = (order_BP < round(fraction * pixels)).reshape(len(images_BCHW), 1, *images_BCHW.shape[2:])
            for removed in (True, False):
                kept = ~first_B1HW if removed else first_B1HW
                curves[removed].append(_probability(network, images_BCHW * kept, targets_B, chunk))
    return Faithfulness(FRACTIONS, np.stack(curves[True], axis=1), np.stack(curves[False], axis=1))


def _order(maps_Bhw: Tensor, size: torch.Size) -> Tensor:
    """(B, H W) int64: each pixel's place when pixels are sorted by their cell's value, highest first."""
    full = interpolate(maps_Bhw[:, None].float(), size=tuple(size), mode="nearest-exact").flatten(1)
    return full.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def _probability(network: nn.Module, images: Tensor, targets_B: Tensor, chunk: int) -> np.ndarray:
    images = images.to(borrowed_dtype(network))
    rows = [logits_of(network, part).float().softmax(dim=1) for part in images.split(chunk)]
    return torch.cat(rows).gather(1, targets_B[:, None])[:, 0].cpu().numpy()


def max_sensitivity(
    explain: Explain, images_BCHW: Tensor, targets_B: Tensor, *, radius: float = 0.02, samples: int = 5, seed: int = 0
) -> np.ndarray:
    """(B,) largest relative change of the map when each pixel moves by at most `radius` (normalised units).

    Reference: Yeh et al. 2019, arXiv:1901.09392, definition 3; computed by Captum.
    """

    def attribute(inputs: Tensor | tuple[Tensor, ...], target: Tensor) -> tuple[Tensor]:
        images = inputs if isinstance(inputs, Tensor) else inputs[0]
        return (explain(images, target).maps_Bhw,)

    with seeded(images_BCHW.device, seed):
        found = sensitivity_max(
            attribute, images_BCHW, perturb_radius=radius, n_perturb_samples=samples, target=targets_B,
            max_examples_per_batch=len(images_BCHW),
        )  # fmt: skip
    return found.detach().cpu().numpy()


def with_random_weights(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """A copy of the model whose parameters are all drawn anew; a map that stays the same does not explain the model.

    Layers draw as they were written to (reset_parameters); statistics of normalisation start over. What no layer draws
    (tokens, positions, scales of branches) comes from a normal distribution as wide as its own values are large, or of
    0.02 where they are all 0: of what was learned, only the size of such a parameter is left.
    Reference: Adebayo et al. 2018, arXiv:1810.03292, section 3 (independent of the trained weights, all layers).
    """
    fresh = copy.deepcopy(model)
    before = [(parameter, parameter._version, parameter.detach().clone()) for parameter in fresh.parameters()]
    with seeded(device_of(fresh), seed), torch.no_grad():
        for module in fresh.modules():
            for name in ("reset_parameters", "_reset_parameters", "reset_running_stats"):
                reset = getattr(module, name, None)
                if callable(reset):
                    reset()
        for parameter, version, trained in before:
            if parameter._version == version and torch.equal(parameter, trained):
                size = float(trained.float().square().mean().sqrt()) if trained.numel() else 0.0
                parameter.normal_(std=size or _USUAL_STD)
    return fresh
