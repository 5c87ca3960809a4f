"""What `resomap recommend` prints beside its sentence."""

from __future__ import annotations

import numpy as np
import pytest

from resomap.analysis.recommend import recommend
from resomap.analysis.records import Budget, Option
from resomap.cli.recommend_command import print_recommendation


def test_risk_figures_and_headings_say_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    right = (np.arange(2500) < 2499).astype(float)[None]
    options = [
        Option("m", 64, right, right, 4.99, (4.9, 4.98, 5.2), 8.0),
        Option("m", 96, right, right, 6.0, (6.0, 6.0, 6.0), 8.0),
    ]
    print_recommendation(recommend(options, budget=Budget(max_latency_ms=5.0), draws=2000))
    told = capsys.readouterr().out
    assert "0.9996 (0.998-0.9999)" in told
    assert "against best in budget (> 95 %)" in told
    (risk,) = (line for line in told.splitlines() if line.startswith("risk: "))
    assert risk.startswith(
        "risk: expected loss against the best within the budget 0.0000, 95 % of the time below 0.0000"
    )
    assert "; median latency exceeds the limit of 5 ms with a probability of 2" in risk
    print_recommendation(recommend(options, draws=2000))
    assert "against best (> 95 %)" in capsys.readouterr().out
