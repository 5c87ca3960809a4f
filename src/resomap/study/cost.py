"""Stored profiles, read back, and the curves through them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from resomap.analysis.scaling import fit_cost_curve
from resomap.errors import StudyError, printable
from resomap.layout import StudyLayout
from resomap.profiling.latency import BATCH_1, SATURATED, undisturbed
from resomap.profiling.profiler import ProfileRecord
from resomap.profiling.report import FREED
from resomap.serialize import read_json


def stored_profiles(layout: StudyLayout) -> list[dict[str, Any]]:
    """Every profile of the study as plain values, ordered by model and resolution."""
    found = [read_json(path, error=StudyError) for path in layout.profiles_dir.glob("*/*.json")]
    return sorted(found, key=lambda p: (p["model"], p["resolution"]))


def hardware(profile: Mapping[str, Any]) -> str:
    """Where a stored profile was measured, for people; equal where latencies may be compared."""
    device = f"{profile.get('device_name')} ({profile.get('device')})"
    return printable(f"{device}, {profile.get('threads')} threads{FREED[bool(profile.get('keeps_freed_memory'))]}")


def profile_command(layout: StudyLayout, options: Iterable[tuple[str, int]]) -> str:
    """What measures these models at these resolutions anew, all in turn."""
    models, sides = zip(*options, strict=True)
    named = {"--models": dict.fromkeys(models), "--resolutions": sorted(set(sides))}
    flags = " ".join(f"{flag} {','.join(map(str, values))}" for flag, values in named.items())
    return printable(f"resomap profile --config {shlex.quote(str(layout.config_path))} {flags}")


def check_same_hardware(
    profiles: Sequence[Mapping[str, Any]], layout: StudyLayout, *, device: str | None = None
) -> None:
    """Latencies of different machines or settings are not compared.

    Args:
        device: that all must be of, by its device or device_name; None: any one.
    Raises:
        StudyError: the profiles are not of one kind, or of another device.
    """
    first_of: dict[str, str] = {}
    for profile in profiles:
        first_of.setdefault(hardware(profile), f"{profile['model']} @{profile['resolution']}")
    again = profile_command(layout, [(p["model"], p["resolution"]) for p in profiles])
    if device is not None and any(device not in (p.get("device"), p.get("device_name")) for p in profiles):
        raise StudyError(
            f"--device: cost was measured on {'; '.join(first_of)}, got {printable(device)}; run "
            f"`{again} --device ...` there"
        )
    if len(first_of) > 1:
        (one, its), (other, another), *_ = ((name, kind) for kind, name in first_of.items())
        raise StudyError(
            f"expected latencies from one kind of hardware, got {one} from {its}, {other} from {another}: they cannot "
            f"be ranked; profile the whole study again: `{again}`"
        )


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
