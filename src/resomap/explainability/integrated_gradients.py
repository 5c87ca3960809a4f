"""Integrated Gradients, with gradients where the logit is not yet accounted for.

IG_i(x) = (x_i - b_i) * integral over a in 0..1 of dy_c / dx_i at b + a (x - b)

The attributions add up to y_c(x) - y_c(b) (completeness) as far as the integral is exact: the relative error is
reported, and gradients are added to an image until it is under a bound.

Steps of equal length waste most gradients where the logit hardly moves. Completeness holds on every part of the path
too, and the logits at a part's ends are known: so each part tells its own error. The path starts as four equal parts
with a gradient at each midpoint; then the part with the largest error is halved, again and again. On trained networks
that takes a third of the gradients of equally good fixed rules (benchmarks/explanations.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from resomap.checks import is_number, is_whole
from resomap.errors import ConfigError
from resomap.explainability.attribution import (
    Attribution,
    Targets,
    borrowed,
    check_images,
    check_method,
    chosen_targets,
    input_gradients,
    logits_of,
)

PLACEMENTS = ("adaptive", "gauss_legendre")
_PARTS = 4
_TINY = 1e-6


class IntegratedGradients:
    """Attribution of every input value by a path from a baseline.

    Args:
        model: any classifier of images.
        steps: gradients an image, at first.
        max_steps: at most, where the bound is not met.
        max_error: bound of an image's relative completeness error; None: `steps` and no more.
        placement: 'adaptive', or 'gauss_legendre' (the same nodes for every image, as Captum's default).
        baseline_CHW: normalised, broadcastable to an image; None: 0, the mean colour.
        chunk: gradients computed at a time.
    Raises:
        ConfigError: settings out of range.
    Reference: Sundararajan et al. 2017, arXiv:1703.01365, eq. 1-3.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: int = 24,
        max_steps: int = 192,
        max_error: float | None = 0.1,
        placement: str = "adaptive",
        baseline_CHW: Tensor | None = None,
        chunk: int = 16,
    ) -> None:
        if placement not in PLACEMENTS:
            raise ConfigError(f"placement: expected one of {', '.join(PLACEMENTS)}, got {placement!r}")
        check_method(model, chunk)
        for name, count in (("steps", steps), ("max_steps", max_steps)):
            if not is_whole(count):
                raise ConfigError(f"{name}: expected a whole number, got {count!r}")
        if max_error is not None and not (is_number(max_error) and max_error >= 0):
            raise ConfigError(f"max_error: expected a share from 0, or None, got {max_error!r}")
        if baseline_CHW is not None and not isinstance(baseline_CHW, Tensor):
            raise ConfigError(f"baseline_CHW: expected a tensor, or None, got {type(baseline_CHW).__name__}")
        least = _PARTS if placement == "adaptive" else 1
        if steps < least or (max_error is not None and max_steps < steps):
            raise ConfigError(f"steps: expected {least} or more and at most max_steps, got {steps} and {max_steps}")
        self.model, self.steps, self.max_steps, self.max_error = model, steps, max_steps, max_error
        self.placement, self.baseline_CHW, self.chunk = placement, baseline_CHW, chunk

    def __call__(self, images_BCHW: Tensor, targets_B: Targets = None) -> Attribution:
        """Explain a batch.

        Args:
            images_BCHW: float32, normalised as the model expects.
            targets_B: int64 class ids, or one for all; None: the predicted class.
        Returns:
            Maps (B, H, W) float32: |sum over channels|, not rescaled; signed_BCHW holds the attributions; notes:
            'completeness_error' (relative, an image) and 'steps', the gradients spent.
        Side effects: none. Mode and gradients are restored, also after an error.
        """
        images_BCHW, targets_B = check_images(self.model, images_BCHW, targets_B)
        parts = []
        with borrowed(self.model) as network:
            # Some images at a time: every part of a path keeps its own attributions until the end.
            for start in range(0, len(images_BCHW), self.chunk):
                images = images_BCHW[start : start + self.chunk]
                wanted = None if targets_B is None else targets_B[start : start + self.chunk]
                parts.append(self._explain(network, images, wanted))
        signed, logits, targets = (torch.cat(list(column)) for column in list(zip(*parts, strict=True))[:3])
        return Attribution(
            maps_Bhw=signed.sum(dim=1).abs().float(),
            targets_B=targets,
            logits_BK=logits,
            signed_BCHW=signed,
            notes={
                "completeness_error": [error for part in parts for error in part[3]],
                "steps": [steps for part in parts for steps in part[4]],
            },
        )

    def _explain(
        self, network: nn.Module, images: Tensor, targets_B: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, list[float], list[int]]:
        """(attributions, logits, targets, relative errors, gradients spent)."""
        baseline = torch.zeros_like(images) if self.baseline_CHW is None else self.baseline_CHW.to(images)
        path = _Path(network, images, baseline.expand_as(images), self.chunk)
        logits_BK = path.logits(torch.ones(len(images)))
        path.targets = chosen_targets(logits_BK, targets_B)
        if self.placement == "adaptive":
            signed, steps = self._refined(path, logits_BK)
        else:
            signed, steps = self._fixed(path, logits_BK)
        change = path.value(logits_BK) - path.value(path.logits(torch.zeros(len(images))))
        return signed, logits_BK, path.targets, _relative_error(signed, change).tolist(), steps

    def _refined(self, path: _Path, logits_BK: Tensor) -> tuple[Tensor, list[int]]:
        images = len(path.images)
        ends = torch.linspace(0, 1, _PARTS + 1)
        along = [path.value(path.logits(torch.full((images,), float(a)))) for a in ends[:-1]]
        along.append(path.value(logits_BK))
        values = torch.stack(along, dim=1).double().cpu().numpy()
        bounds = list(pairwise(ends.tolist()))
        parts: list[list[_Part]] = [[] for _ in range(images)]
        everyone = list(range(images))
        for n, (low, high) in enumerate(bounds):
            path.extend(parts, [(i, low, high, values[i, n], values[i, n + 1]) for i in everyone])
        change = values[:, -1] - values[:, 0]
        steps = [_PARTS] * images
        while True:
            left = [i for i in everyone if self._goes_on(parts[i], change[i], steps[i])]
            if not left:
                break
            wanted = []
            for i in left:
                worst = max(parts[i], key=lambda part: part.error)
                parts[i].remove(worst)
                middle = (worst.low + worst.high) / 2
                wanted.append((i, worst.low, middle, worst.at_low, worst.at_middle))
                wanted.append((i, middle, worst.high, worst.at_middle, worst.at_high))
                steps[i] += 2
            path.extend(parts, wanted)
        return torch.stack([torch.stack([p.signed for p in own]).sum(dim=0) for own in parts]), steps

    def _goes_on(self, parts: list[_Part], change: float, steps: int) -> bool:
        if steps + 2 <= self.steps:
            return True
        if self.max_error is None or steps + 2 > self.max_steps:
            return False
        return abs(sum(part.total for part in parts) - change) > self.max_error * max(abs(change), _TINY)

    def _fixed(self, path: _Path, logits_BK: Tensor) -> tuple[Tensor, list[int]]:
        """Gauss-Legendre nodes; images whose error is over the bound get twice as many."""
        signed = torch.empty_like(path.images)
        change = path.value(logits_BK) - path.value(path.logits(torch.zeros(len(path.images))))
        spent = [0] * len(path.images)
        steps, left = self.steps, list(range(len(path.images)))
        while left:
            nodes, weights = np.polynomial.legendre.leggauss(steps)
            for i in left:
                signed[i] = 0
                spent[i] = steps
            at = [(i, (float(n) + 1) / 2, float(w) / 2) for i in left for n, w in zip(nodes, weights, strict=True)]
            for start in range(0, len(at), self.chunk):
                some = at[start : start + self.chunk]
                gradients, _ = path.gradients([i for i, _, _ in some], [a for _, a, _ in some])
                for (i, _, weight), gradient in zip(some, gradients, strict=True):
                    signed[i] += weight * gradient
            if self.max_error is None or steps == self.max_steps:
                break
            errors = _relative_error(signed, change).tolist()
            left = [i for i in left if errors[i] > self.max_error]
            steps = min(2 * steps, self.max_steps)
        return signed, spent


@dataclass(slots=True, eq=False)
class _Part:
    """A part of an image's path, with the attributions that the gradient at its middle gives."""

    low: float
    high: float
    at_low: float
    at_middle: float
    at_high: float
    """The target's logit."""
    signed: Tensor
    total: float
    """Sum of the attributions."""

    @property
    def error(self) -> float:
        return abs(self.total - (self.at_high - self.at_low))


class _Path:
    """Straight lines from the baselines to the images."""

    def __init__(self, network: nn.Module, images: Tensor, baseline: Tensor, chunk: int) -> None:
        self.network, self.images, self.baseline, self.chunk = network, images, baseline, chunk
        self.step = images - baseline
        self.targets = torch.zeros(len(images), dtype=torch.int64)

    def logits(self, alphas_B: Tensor) -> Tensor:
        """(B, K) at one point of each image's path."""
        at = self.baseline + alphas_B.to(self.images)[:, None, None, None] * self.step
        with torch.no_grad():
            return torch.cat([logits_of(self.network, part.contiguous(memory_format=torch.channels_last))
                              for part in at.split(self.chunk)])  # fmt: skip

    def value(self, logits_BK: Tensor) -> Tensor:
        """(B,) the targets' logits."""
        return logits_BK.gather(1, self.targets[:, None])[:, 0]

    def gradients(self, which: list[int], alphas: list[float]) -> tuple[Tensor, Tensor]:
        """(gradient times step, logit of the target) at points of several images' paths."""
        index = torch.tensor(which, device=self.images.device)
        a = torch.tensor(alphas, device=self.images.device, dtype=self.images.dtype)[:, None, None, None]
        at = (self.baseline[index] + a * self.step[index]).contiguous(memory_format=torch.channels_last)
        gradient, logits, targets = input_gradients(self.network, at, self.targets[index])
        return gradient * self.step[index], logits.gather(1, targets[:, None])[:, 0]

    def extend(self, parts: list[list[_Part]], wanted: list[tuple[int, float, float, float, float]]) -> None:
        """Add parts (image, low, high, logit at low, logit at high), each with the gradient at its middle."""
        for start in range(0, len(wanted), self.chunk):
            some = wanted[start : start + self.chunk]
            gradients, middles = self.gradients([w[0] for w in some], [(w[1] + w[2]) / 2 for w in some])
            for (i, low, high, at_low, at_high), gradient, middle in zip(some, gradients, middles, strict=True):
                signed = gradient * (high - low)
                total = float(signed.double().sum())
                parts[i].append(_Part(low, high, at_low, float(middle), at_high, signed, total))


def _relative_error(signed_BCHW: Tensor, change_B: Tensor) -> Tensor:
    """|sum of attributions - change of the logit| / |change|."""
    gap = (signed_BCHW.double().sum(dim=(1, 2, 3)) - change_B.double()).abs()
    return gap / change_B.double().abs().clamp_min(_TINY)
