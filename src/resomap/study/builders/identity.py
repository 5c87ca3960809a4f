"""What a run depends on."""

from __future__ import annotations

import hashlib
from typing import Any

from resomap.config.schema import ResoMapConfig
from resomap.errors import CheckpointError, printable
from resomap.records import Cell
from resomap.study.builders.loaders import micro_batch
from resomap.study.builders.models import model_specs
from resomap.study.ranks import Ranks

PROTOCOL_VERSION = 1
"""Counts up when the same settings would train other weights than before."""


def determinants(
    config: ResoMapConfig, cell: Cell, *, fingerprint: str, precision: str, ranks: Ranks
) -> dict[str, dict[str, Any]]:
    """What a run's weights depend on: 'protocol' (shared by the study's runs) and 'cell'.

    Left out on purpose: what changes speed or bookkeeping only (workers, cache, number of checkpoints).
    """
    training = config.training.model_dump() | {"micro_batch": micro_batch(config, ranks)}
    if training["budget"] == "epochs":
        del training["budget"]  # as it was before there was a choice
    if not training["successive_halving"]:
        del training["successive_halving"]
    for bookkeeping in ("save_every_s", "top_k"):
        del training[bookkeeping]
    data = config.data
    protocol: dict[str, Any] = {
        "version": PROTOCOL_VERSION,
        "images": fingerprint,
        "training": training,
        "data": {
            "kernel": data.kernel,
            "mean": data.mean,
            "std": data.std,
            "on_bad_file": data.on_bad_file,
            "augmentation": data.augmentation.model_dump(),
        },
        "system": {
            "mixed_precision": precision,
            "channels_last": config.system.channels_last is not False,
            "deterministic": config.system.deterministic,
        },
        "models": {"pretrained": _pretrained_identity(config.models.pretrained)},
    }
    if data.information_resolution is not None:
        protocol["data"]["information_resolution"] = data.information_resolution
    if data.augmentation.resolution_aware:
        sides = sorted(config.sweep.resolutions)
        protocol["data"]["resolution_aware_range"] = [sides[0], sides[-1]]
    own = {
        "model": cell.model,
        "resolution": cell.resolution,
        "seed": cell.seed,
        "description": model_specs(config).get(cell.model),
    }
    return {"protocol": protocol, "cell": own}


def _pretrained_identity(pretrained: bool | str) -> bool | str:
    """A weights file is known by its content, so that moving it changes nothing."""
    if isinstance(pretrained, bool):
        return pretrained
    try:
        with open(pretrained, "rb") as stream:
            return hashlib.file_digest(stream, "blake2b").hexdigest()[:32]
    except OSError as error:
        raise CheckpointError(
            f"models.pretrained: cannot read {printable(pretrained)} ({error.strerror}); "
            "give true, false or the path of a weights file"
        ) from error
