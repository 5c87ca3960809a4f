"""The training loss, summed so that how a window is cut into micro-batches does not matter."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from resomap.errors import ConfigError


def check_labels(low: int, high: int, *, classes: int, name: str) -> None:
    """Refuse labels that are no class of the model.

    Args:
        low, high: the smallest and the largest.
        name: of the loader that they come from.
    Raises:
        ConfigError: one lies outside of 0 .. classes - 1.
    """
    if low < 0 or high >= classes:
        raise ConfigError(
            f"{name}: expected labels from 0 to {classes - 1}, the model's {classes} classes, got some from {low} to "
            f"{high}; number the classes from 0, or build the model with more num_classes"
        )


def classification_loss(
    logits_BK: Tensor,
    labels_B: Tensor,
    *,
    class_weights_K: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean over samples of the weighted cross-entropy.

    L = 1/B sum_b [ (1 - e) w_y(b) (-log p_b,y(b)) + e/K sum_k w_k (-log p_b,k) ]

    The sum is divided by the number of samples, not by the sum of their weights as torch's 'mean' does: so
    each sample counts the same whatever else is in its micro-batch, and accumulation equals the big batch.

    Args:
        logits_BK: float, any precision; computed in float32.
        labels_B: int64 class ids.
        class_weights_K: float32, one for each class; None: all 1.
        label_smoothing: e in [0, 1).
    Returns:
        () float32.
    """
    total = functional.cross_entropy(
        logits_BK.float(), labels_B, class_weights_K, reduction="sum", label_smoothing=label_smoothing
    )
    return total / len(labels_B)
