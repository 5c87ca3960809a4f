"""The threshold of a cascade against every one that there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from resomap.analysis.cascade import best_cascade, margins
from resomap.metrics.classification import metric_value


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1"])
def test_a_cascade_has_the_lowest_of_all_margins_that_does(metric: str) -> None:
    """Against every threshold there is, each scored by itself; margins are rounded, so that some are equal."""
    rng = np.random.default_rng(0)
    scored: dict[str, Any] = {"metric": metric, "num_classes": 4}
    for images in (1, 7, 300):
        labels, large = rng.integers(3, size=images), rng.integers(4, size=images)  # class 3 has no images
        small = rng.dirichlet([1] * 4, images).round(2)
        tried = [0.0, *(float(np.nextafter(m, 2)) for m in np.unique(margins(small)))]
        scores = [
            metric_value(labels, np.where(margins(small) < t, large, small.argmax(axis=1)), **scored) for t in tried
        ]
        for loss in (0.0, 0.02, 0.1):
            expected = next(t for t, score in zip(tried, scores, strict=True) if score >= max(scores) - loss - 1e-12)
            whole = (labels, small, large)
            assert best_cascade(whole, whole, **scored, loss=loss).threshold == expected
