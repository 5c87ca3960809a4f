"""What devices tell of themselves."""

from __future__ import annotations

import pytest
import torch

from resomap.models.devices import free_memory_mib


def test_free_memory_is_what_the_accelerator_tells_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_device: torch.device) -> tuple[int, int]:
        raise NotImplementedError("no such count on mps")

    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda _device: (3 * 2**20, 8 * 2**20))
    assert free_memory_mib("cuda:0") == 3
    monkeypatch.setattr(torch.accelerator, "get_memory_info", refuse)
    assert free_memory_mib("mps") is None
    assert free_memory_mib("cpu") > 0
