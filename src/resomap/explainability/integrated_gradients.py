"""Integrated Gradients, with steps where the logit changes.

IG_i(x) = (x_i - b_i) * integral over a in 0..1 of dy_c / dx_i at b + a (x - b)

The attributions add up to y_c(x) - y_c(b) (completeness) as far as the integral is exact: the relative error is
reported, and the steps of an image are doubled until it is under a bound.

Steps of equal length waste most gradients where the logit hardly moves. A probe of 9 forward passes along the path
tells where it does; steps are shared out in proportion to the change, the midpoint rule is used in each. The same
completeness then takes a third of the gradients (benchmarks/explanations.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resomap.errors import ConfigError
from resomap.explainability.attribution import Attribution, borrowed, check_images, chosen_targets, input_gradients

PLACEMENTS = ("adaptive", "gauss_legendre")
_PROBES = 9
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
        least = _PROBES - 1 if placement == "adaptive" else 1
        if steps < least or (max_error is not None and max_steps < steps):
            raise ConfigError(f"steps: expected {least} or more and at most max_steps, got {steps} and {max_steps}")
        self.model, self.steps, self.max_steps, self.max_error = model, steps, max_steps, max_error
        self.placement, self.baseline_CHW, self.chunk = placement, baseline_CHW, chunk

    def __call__(self, images_BCHW: Tensor, targets_B: Tensor | None = None) -> Attribution:
        """Explain a batch.

        Args:
            images_BCHW: float32, normalised as the model expects.
            targets_B: int64 class ids; None: the predicted class.
        Returns:
            Maps (B, H, W) float32: |sum over channels|, not rescaled; signed_BCHW holds the attributions; notes:
            'completeness_error' (relative, an image) and 'steps'.
        Side effects: none. Mode and gradients are restored, also after an error.
        """
        check_images(images_BCHW, targets_B)
        with borrowed(self.model) as network:
            baseline = (
                torch.zeros_like(images_BCHW)
                if self.baseline_CHW is None
                else (self.baseline_CHW.to(images_BCHW).expand_as(images_BCHW))
            )
            logits_BK, targets, probed_BP = self._probe(network, images_BCHW, baseline, targets_B)
            signed = torch.empty_like(images_BCHW)
            error_B = torch.full((len(images_BCHW),), torch.inf, dtype=torch.float64)
            steps_B = torch.zeros(len(images_BCHW), dtype=torch.int64)
            change_B = probed_BP[:, -1] - probed_BP[:, 0]
            steps, left = self.steps, torch.arange(len(images_BCHW))
            while len(left):
                signed[left] = self._integrate(
                    network, images_BCHW[left], baseline[left], targets[left], probed_BP[left], steps
                )
                error_B[left] = _relative_error(signed[left], change_B[left]).cpu()
                steps_B[left] = steps
                if self.max_error is None or steps == self.max_steps:
                    break
                steps = min(2 * steps, self.max_steps)
                left = (error_B > self.max_error).nonzero()[:, 0]
        return Attribution(
            maps_Bhw=signed.sum(dim=1).abs(),
            targets_B=targets,
            logits_BK=logits_BK,
            signed_BCHW=signed,
            notes={"completeness_error": error_B.tolist(), "steps": steps_B.tolist()},
        )

    def _probe(
        self, network: nn.Module, images: Tensor, baseline: Tensor, targets_B: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(logits (B, K), targets (B,), target logit at equally spaced points of the path (B, P))."""
        points = torch.linspace(0, 1, _PROBES if self.placement == "adaptive" else 2).tolist()
        with torch.no_grad():
            along = [_forward(network, baseline + a * (images - baseline), self.chunk) for a in points]
        targets = chosen_targets(along[-1], targets_B)
        return along[-1], targets, torch.stack([logits.gather(1, targets[:, None])[:, 0] for logits in along], dim=1)

    def _integrate(
        self, network: nn.Module, images: Tensor, baseline: Tensor, targets: Tensor, probed: Tensor, steps: int
    ) -> Tensor:
        if self.placement == "adaptive":
            alphas_BS, weights_BS = adaptive_steps(probed, steps)
        else:
            alphas_BS, weights_BS = (v.expand(len(images), -1) for v in _gauss_legendre(steps, images))
        total = torch.zeros_like(images)
        # All images' steps in one row: chunks are full whatever the batch.
        image_of = torch.arange(len(images), device=images.device).repeat_interleave(steps)
        alphas, weights = alphas_BS.reshape(-1), weights_BS.reshape(-1)
        for part in torch.arange(len(image_of), device=images.device).split(self.chunk):
            which = image_of[part]
            at = baseline[which] + alphas[part, None, None, None] * (images[which] - baseline[which])
            gradient, _, _ = input_gradients(network, at, targets[which])
            total.index_add_(0, which, gradient * weights[part, None, None, None])
        return total * (images - baseline)


def _forward(network: nn.Module, images: Tensor, chunk: int) -> Tensor:
    return torch.cat([network(part) for part in images.split(chunk)])


def adaptive_steps(probed_BP: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Midpoints and lengths of `steps` steps: P - 1 equal intervals get shares in proportion to |change of logit|.

    Each interval gets one step at least, so that nothing is skipped.

    Args:
        probed_BP: the logit at P equally spaced points, ends included.
    Returns:
        (alphas (B, S), weights (B, S)); weights add up to 1.
    """
    change_BI = probed_BP.diff(dim=1).abs().double()
    intervals = change_BI.shape[1]
    total = change_BI.sum(dim=1, keepdim=True)
    share_BI = torch.where(total > 0, change_BI / total.clamp_min(1e-30), torch.full_like(change_BI, 1 / intervals))
    wanted_BI = share_BI * (steps - intervals)
    count_BI = wanted_BI.floor().long()
    # Largest remainders get the steps that rounding down left over.
    rank_BI = (wanted_BI - count_BI).argsort(dim=1, descending=True).argsort(dim=1)
    count_BI = 1 + count_BI + (rank_BI < (steps - intervals - count_BI.sum(dim=1, keepdim=True)))
    rows_a, rows_w = [], []
    for counts in count_BI.tolist():
        edges = [(i, n, j) for i, n in enumerate(counts) for j in range(n)]
        rows_a.append([(i + (j + 0.5) / n) / intervals for i, n, j in edges])
        rows_w.append([1 / (n * intervals) for _, n, _ in edges])
    return torch.tensor(rows_a).to(probed_BP), torch.tensor(rows_w).to(probed_BP)


def _gauss_legendre(steps: int, like: Tensor) -> tuple[Tensor, Tensor]:
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return torch.from_numpy((nodes + 1) / 2).to(like), torch.from_numpy(weights / 2).to(like)


def _relative_error(signed_BCHW: Tensor, change_B: Tensor) -> Tensor:
    """|sum of attributions - change of the logit| / |change|."""
    gap = (signed_BCHW.double().sum(dim=(1, 2, 3)) - change_B.double()).abs()
    return gap / change_B.double().abs().clamp_min(_TINY)
