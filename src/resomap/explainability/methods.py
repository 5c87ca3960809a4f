"""Every explanation method by its name, behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from resomap.errors import ConfigError
from resomap.explainability.attribution import Attribution, Targets
from resomap.explainability.gradcam import GradCAM
from resomap.explainability.integrated_gradients import IntegratedGradients
from resomap.explainability.saliency import Saliency

OWN = ("gradcam", "integrated_gradients", "saliency")
BY_CAPTUM = ("smoothgrad", "gradient_shap", "occlusion", "kernel_shap", "lime")
METHODS = OWN + BY_CAPTUM
REVISIONS = dict.fromkeys(("gradcam", *BY_CAPTUM), 2)
"""Methods whose maps are others than in an earlier version: stored ones of another revision are made anew."""


Explainer = Callable[[Tensor, Targets], Attribution]
"""(images (B, 3, H, W), class ids (B,) or None) -> maps."""


def explain(
    model: nn.Module, images_BCHW: Tensor, *, method: str = "gradcam", targets_B: Targets = None, **options: Any
) -> Attribution:
    """Explain a batch by the method of that name.

    Args:
        images_BCHW: float32, normalised as the model expects.
        method: gradcam, integrated_gradients, saliency, smoothgrad, gradient_shap, occlusion, kernel_shap or lime.
        targets_B: int64 class ids, or one for all; None: the predicted class.
        options: of the method's class.
    Raises:
        ConfigError: no such method, or images or targets that do not fit.
    """
    return make_explainer(model, method=method, **options)(images_BCHW, targets_B)


def make_explainer(model: nn.Module, *, method: str = "gradcam", **options: Any) -> Explainer:
    """The method of that name, for any number of batches: what it finds out about the model it finds out once.

    Raises:
        ConfigError: no such method.
    """
    if method == "gradcam":
        return GradCAM(model, **options)
    if method == "integrated_gradients":
        return IntegratedGradients(model, **options)
    if method == "saliency":
        return Saliency(model, **options)
    if method in BY_CAPTUM:
        from resomap.explainability.captum_methods import CaptumMethod

        return CaptumMethod(model, method=method, **options)
    raise ConfigError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
