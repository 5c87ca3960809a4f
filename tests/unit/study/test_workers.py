"""How many loading processes there are where data.workers leaves it open."""

import pytest
import torch

from resomap.config.schema import ResoMapConfig
from resomap.study.build import workers as chosen


@pytest.mark.parametrize(
    ("device", "cores", "accelerators", "workers"),
    [
        ("cpu", 64, 0, 0),
        ("cuda", 16, 1, 15),
        ("cuda", 96, 8, 11),
        ("cuda", 96, 1, 16),
        ("cuda", 4, 2, 4),
        ("mps", 8, 1, 7),
    ],
)
def test_workers_follow_from_the_cores(device, cores, accelerators, workers, monkeypatch):
    monkeypatch.setattr(chosen, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: accelerators)
    config = ResoMapConfig()
    assert chosen.loader_workers(config, device) == workers
    assert chosen.fewest_workers(config, device) == min(4, workers)
    if device != "cpu":
        config = ResoMapConfig.model_validate({"system": {"threads": 9}})
        assert chosen.loader_workers(config, device) == 8
    config = ResoMapConfig.model_validate({"data": {"workers": 2}})
    assert chosen.loader_workers(config, device) == chosen.fewest_workers(config, device) == 2
