"""Stored profiles, read back, and the curves through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from resomap.analysis.scaling import fit_cost_curve
from resomap.errors import StudyError
from resomap.layout import StudyLayout
from resomap.profiling.latency import BATCH_1, SATURATED, undisturbed
from resomap.serialize import read_json

if TYPE_CHECKING:
    from resomap.profiling.profiler import ProfileRecord  # imports torch, which a stored study does not need


def stored_profiles(layout: StudyLayout) -> list[dict[str, Any]]:
    """Every profile of the study as plain values, ordered by model and resolution."""
    found = [read_json(path, error=StudyError) for path in layout.profiles_dir.glob("*/*.json")]
    return sorted(found, key=lambda p: (p["model"], p["resolution"]))


def timed_as(profile: Mapping[str, Any], protocol: str, mode: str | None = None) -> dict[str, Any]:
    """A stored profile's latency under a protocol; None: its first mode.

    Raises:
        StudyError: it was not measured so.
    """
    for timed in profile["latency"]:
        if timed["protocol"] == protocol and mode in (None, timed["mode"]):
            return dict(timed)
    there = ", ".join(sorted({f"{timed['mode']} ({timed['protocol']})" for timed in profile["latency"]}))
    raise StudyError(
        f"{profile['model']} @{profile['resolution']} was not profiled in mode {mode or 'any'} ({protocol}); "
        f"there is {there}"
    )


def cost_curves(records: Sequence[ProfileRecord]) -> list[dict[str, Any]]:
    """t = t0 + k r^p of each model and protocol, in ms an image; models with fewer than three sides have none."""
    rows = []
    for model in dict.fromkeys(r.model for r in records):
        of_model = sorted((r for r in records if r.model == model and r.latency), key=lambda r: r.resolution)
        for protocol in (BATCH_1, SATURATED):
            timed = [(r.resolution, r.at(protocol)) for r in of_model]
            blocks = np.array([np.array(t.block_medians_ms) / t.batch_size for _, t in timed])
            curve = fit_cost_curve([side for side, _ in timed], blocks[:, undisturbed(blocks)]) if timed else None
            if curve is not None:
                rows.append({"model": model, "protocol": protocol} | asdict(curve))
    return rows
