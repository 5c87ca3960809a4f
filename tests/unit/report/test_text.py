"""What the report says of its methods is true of the study."""

from __future__ import annotations

import pytest

from resomap.config.load import load_config
from resomap.report.text import COMPUTE_MATCHED, RESOLUTION_AWARE, STOPS_DOMINATED, STOPS_EARLY, methods
from resomap.study.stages import _differs


def test_only_resolution_differs_unless_the_settings_say_otherwise() -> None:
    first, *others = methods()
    assert first.startswith(
        "Only the input resolution differs between the runs of a model. The same are images, splits, crops, batch, "
        "number of updates and seeds. The epoch with the best"
    )
    for what in (COMPUTE_MATCHED, STOPS_EARLY):
        assert methods([what])[0].startswith("Not only the input resolution differs")
        assert "number of updates and seeds" not in methods([what])[0]
    assert "crops" not in methods([RESOLUTION_AWARE])[0]
    # Runs that are assessed went to their end.
    assert methods([STOPS_DOMINATED])[0].startswith(first.split(" The epoch")[0])
    assert "is not assessed" in methods([STOPS_DOMINATED])[0]
    assert list(methods([COMPUTE_MATCHED, RESOLUTION_AWARE])[1:]) == others


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("training.budget=compute_matched", COMPUTE_MATCHED),
        ("training.early_stopping_patience=3", STOPS_EARLY),
        ("training.successive_halving=true", STOPS_DOMINATED),
        ("data.augmentation.resolution_aware=true", RESOLUTION_AWARE),
        ("training.epochs=2", None),
    ],
)
def test_settings_that_make_more_differ_are_told(setting: str, what: str | None) -> None:
    assert _differs(load_config(overrides=[setting])) == ([] if what is None else [what])
