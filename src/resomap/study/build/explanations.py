"""What is explained, and how."""

from __future__ import annotations

from typing import Any

from resomap.config.schema import ResoMapConfig


def explanations_wanted(config: ResoMapConfig) -> bool:
    """Whether a run ends with the explanation stage."""
    return config.explainability.enabled


def explanation_methods(config: ResoMapConfig) -> tuple[str, ...]:
    """Names of the methods; the first leads."""
    return tuple(config.explainability.methods)


def method_options(config: ResoMapConfig, method: str) -> dict[str, Any]:
    """Arguments of one method beside the model and the images."""
    chosen = config.explainability
    if method == "gradcam":
        return {"target_layer": chosen.target_layer}
    if method == "integrated_gradients":
        return {"steps": chosen.ig_steps, "max_steps": chosen.ig_max_steps, "max_error": chosen.ig_max_error}
    if method == "saliency":
        return {}
    return {"seed": chosen.seed}


def explained_images(config: ResoMapConfig) -> dict[str, Any]:
    """How many images are explained, how they are drawn, in what batches, and for which class."""
    chosen = config.explainability
    return {
        "count": chosen.images,
        "seed": chosen.seed,
        "batch_size": chosen.batch_size,
        "target": chosen.target,
    }


def agreement_options(config: ResoMapConfig) -> dict[str, Any]:
    """How maps are compared."""
    chosen = config.explainability
    return {"similarity": chosen.similarity, "draws": chosen.bootstrap_draws, "seed": chosen.seed}


def explanation_extras(config: ResoMapConfig) -> dict[str, Any]:
    """What else is made: images drawn, spectral occlusion, faithfulness with the randomisation check."""
    chosen = config.explainability
    return {
        "gallery": chosen.gallery,
        "spectral": chosen.spectral,
        "faithfulness": chosen.faithfulness,
        "random_weights": chosen.random_weights if chosen.sanity else 0,
    }
