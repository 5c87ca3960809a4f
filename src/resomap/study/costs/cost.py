"""Stored profiles, read back, and the curves through them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from resomap.analysis.scaling import fit_cost_curve
from resomap.errors import StudyError
from resomap.layout import StudyLayout
from resomap.printable import counted, listed, printable
from resomap.profiling.latency import BATCH_1, SATURATED, undisturbed
from resomap.profiling.report import FREED
from resomap.study.stored_files import read_profiles

if TYPE_CHECKING:
    from resomap.profiling.records import ProfileRecord  # imports torch, which a stored study does not need


def stored_profiles(layout: StudyLayout) -> list[dict[str, Any]]:
    """Every profile of the study as plain values, ordered by model and resolution.

    Raises:
        StudyError: one is damaged.
    """
    return sorted(read_profiles(layout), key=lambda p: (p["model"], p["resolution"]))


def hardware(profile: Mapping[str, Any]) -> str:
    """Where a stored profile was measured, for people; equal where latencies may be compared."""
    device = f"{profile.get('device_name')} ({profile.get('device')})"
    threads = counted(profile.get("threads", 0), "thread")
    return printable(f"{device}, {threads}{FREED[bool(profile.get('keeps_freed_memory'))]}")


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


def modes_at(profile: Mapping[str, Any], protocol: str) -> list[str]:
    """Ways to deploy that a stored profile has a latency of."""
    return [timed["mode"] for timed in profile["latency"] if timed["protocol"] == protocol]


def first_shared(modes: Sequence[Sequence[str]]) -> str | None:
    """The first that all have; None where there is none."""
    return next((mode for mode in modes[0] if all(mode in others for others in modes)), None)


def common_mode(
    profiles: Sequence[Mapping[str, Any]], layout: StudyLayout, protocol: str, mode: str | None = None
) -> str:
    """The way to deploy in which latencies are compared: one for all, `mode` or the first that every profile has.

    Raises:
        StudyError: there is none; says where what could not be timed, and why.
    """
    timed = [modes_at(profile, protocol) for profile in profiles]
    shared = first_shared(timed)
    if shared is not None and (mode is None or all(mode in there for there in timed)):
        return mode or shared
    gaps = mode_gaps(profiles, protocol)
    why = "; ".join(f"{name} was not timed at {where}" for name, where in gaps.items() if mode in (None, name))
    again = profile_command(layout, [(p["model"], p["resolution"]) for p in profiles])
    raise StudyError(
        f"expected latencies of every model and resolution in {f'mode {printable(mode)}' if mode else 'one mode'} "
        f"({protocol}), got {shared or 'none that all have'}{f' ({why})' if why else ''}; choose another mode, or "
        f"measure with `{again} --set system.profiling.modes=[...]`"
    )


def mode_gaps(profiles: Sequence[Mapping[str, Any]], protocol: str) -> dict[str, str]:
    """Mode -> where it was not timed, and why, for each that some profile lacks."""
    modes = dict.fromkeys(m for p in profiles for m in (*modes_at(p, protocol), *p.get("unavailable", {})))
    gaps = {}
    for mode in modes:
        lacking = [p for p in profiles if mode not in modes_at(p, protocol)]
        reasons = dict.fromkeys(p.get("unavailable", {}).get(mode, "it was not asked for") for p in lacking)
        if lacking:
            where = listed((f"{p['model']} @{p['resolution']}" for p in lacking), most=6)
            gaps[mode] = printable(f"{where}: {'; '.join(reasons)}")
    return gaps


def timed_as(profile: Mapping[str, Any], protocol: str, mode: str) -> dict[str, Any]:
    """A stored profile's latency under a protocol in a mode that it has."""
    return dict(next(t for t in profile["latency"] if (t["protocol"], t["mode"]) == (protocol, mode)))


def cost_curves(records: Sequence[ProfileRecord]) -> list[dict[str, Any]]:
    """t = t0 + k r^p of each model and protocol, in ms an image; models with fewer than three sides have none.

    Of the first mode in which all of the model's resolutions were timed; without such a mode there is no curve.
    """
    rows = []
    for model in dict.fromkeys(r.model for r in records):
        of_model = sorted((r for r in records if r.model == model and r.latency), key=lambda r: r.resolution)
        for protocol in (BATCH_1, SATURATED):
            mode = shared_mode(of_model, protocol)
            if mode is None:
                continue
            timed = [(r.resolution, r.at(protocol, mode)) for r in of_model]
            blocks = np.array([np.array(t.block_medians_ms) / t.batch_size for _, t in timed])
            curve = fit_cost_curve([side for side, _ in timed], blocks[:, undisturbed(blocks)])
            if curve is not None:
                rows.append({"model": model, "protocol": protocol, "mode": mode} | asdict(curve))
    return rows


def shared_mode(records: Sequence[ProfileRecord], protocol: str) -> str | None:
    """The first mode in which all were timed under the protocol; None where there is none."""
    modes = [[timed.mode for timed in record.latency if timed.protocol == protocol] for record in records]
    return first_shared(modes) if modes else None
