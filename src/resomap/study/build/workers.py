"""How many worker processes load images."""

from __future__ import annotations

from resomap.config.schema import ResoMapConfig
from resomap.study.build.training import usable_cores

_WORKERS = (4, 16)
"""Fewest and most on an accelerator. A core cuts some 800 crops of 224 px a second, and an H100 trains small networks
on 10,000 and more."""


def loader_workers(config: ResoMapConfig, device_type: str) -> int:
    """DataLoader workers of each process for training.

    Where they are left open: none on CPU; else what the machine has for each accelerator, one core left to drive it.
    """
    if config.data.workers is not None:
        return config.data.workers
    if device_type == "cpu":
        return 0
    import torch

    fewest, most = _WORKERS
    cores = config.system.threads or usable_cores() // max(1, torch.accelerator.device_count())
    return min(most, max(fewest, cores - 1))


def fewest_workers(config: ResoMapConfig, device_type: str) -> int:
    """The same, but where they are left open no more than any machine has.

    For evaluation, whose images are read as they are, and to ask a cluster for, whose nodes may have few cores.
    """
    if config.data.workers is not None:
        return config.data.workers
    return 0 if device_type == "cpu" else _WORKERS[0]
