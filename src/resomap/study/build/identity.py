"""What a run depends on."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from typing import Any

from resomap.config.schema import ResoMapConfig
from resomap.errors import CheckpointError
from resomap.printable import printable
from resomap.records import Cell
from resomap.serialize import digest
from resomap.study.build.budget import stretched
from resomap.study.build.loaders import micro_batch
from resomap.study.build.models import model_specs
from resomap.training.ranks import Ranks

PROTOCOL_VERSION = 1
"""Counts up when the same settings would train other weights than before."""


def determinants(
    config: ResoMapConfig,
    cell: Cell,
    *,
    whole: ResoMapConfig,
    reference: int | None,
    fingerprint: str,
    precision: str,
    evaluation: str,
    ranks: Ranks,
) -> dict[str, dict[str, Any]]:
    """What a run's weights depend on: 'protocol' (shared by the study's runs) and 'cell'.

    Left out on purpose: what changes speed or bookkeeping only (workers, cache, number of checkpoints).

    Args:
        config: the cell's own.
        whole: the study's.
        reference: resolution that its computation is measured by (compute_matched).
        precision: of training.
        evaluation: precision of evaluation, which what a run answers depends on.
    """
    training = config.training.model_dump() | {"micro_batch": micro_batch(config, ranks)}
    own: dict[str, Any] = {
        "model": cell.model,
        "resolution": cell.resolution,
        "seed": cell.seed,
        "description": model_specs(config).get(cell.model),
    }
    code = _code(config, cell.model)
    if code is not None:
        own["code"] = code
    if training["budget"] == "epochs":
        del training["budget"]  # as it was before there was a choice
    else:
        own |= stretched(config)
        training |= stretched(whole) | {"budget_reference": reference}
    stops = training["successive_halving"]
    if not stops:
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
    if stops:
        protocol["analysis"] = {"delta": config.analysis.delta}  # which runs stop hangs on it
    if evaluation != precision:
        protocol["system"]["evaluation_precision"] = evaluation
    if data.information_resolution is not None:
        protocol["data"]["information_resolution"] = data.information_resolution
    if data.augmentation.resolution_aware:
        sides = sorted(config.sweep.resolutions)
        protocol["data"]["resolution_aware_range"] = [sides[0], sides[-1]]
    return {"protocol": protocol, "cell": own}


def _code(config: ResoMapConfig, model: str) -> str | None:
    """Hash of what the user's own module does; None for models that ResoMap builds, and where that cannot be read.

    Only of models that are asked for: what a study's folder names is not imported.
    """
    if ":" not in model or model not in config.sweep.models or not config.models.allow_callables:
        return None
    from resomap.models.user_callable import code_of

    code = code_of(model)
    return None if code is None else digest(code)


def _pretrained_identity(pretrained: bool | str) -> bool | str:
    """A weights file is known by its content, so that moving it changes nothing."""
    if isinstance(pretrained, bool):
        return pretrained
    try:
        status = os.stat(pretrained)
        return _file_identity(pretrained, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise CheckpointError(
            f"models.pretrained: cannot read {printable(pretrained)} ({error.strerror}); "
            "give true, false or the path of a weights file"
        ) from error


@lru_cache(maxsize=8)
def _file_identity(path: str, size: int, changed_ns: int) -> str:
    """Read once as long as size and time stay: runs ask for it many times."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "blake2b").hexdigest()[:32]
