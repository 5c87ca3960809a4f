"""Sentences and warnings of the verdict."""

from __future__ import annotations

import numpy as np

from resomap.analysis.wording import few_images


def test_classes_with_few_images_are_named_and_the_rest_counted() -> None:
    labels = np.repeat(np.arange(9), [5, 4, 1, 3, 2, 2, 2, 2, 0])
    (line,) = few_images(labels, list("abcdefghi"), "test")
    assert line.startswith("fewer than 5 images in test: i (0), c (1), e (2), f (2), g (2) and 3 more;")
    assert list(few_images(np.repeat([0, 1], 5), ["a", "b"], "val")) == []
