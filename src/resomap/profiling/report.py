"""A profile as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resomap.printable import counted, precision_name

if TYPE_CHECKING:
    from resomap.profiling.records import ProfileRecord

AT_LEAST = {True: "at least ", False: ""}
FREED = {True: ", freed memory kept", False: ""}


def print_profiling_report(record: ProfileRecord | Sequence[ProfileRecord]) -> None:
    """Print what a profile found, units in every column's name."""
    records = list(record) if isinstance(record, Sequence) else [record]
    print(profiling_report(records))


def profiling_report(records: Sequence[ProfileRecord]) -> str:
    """The same as text."""
    if not records:
        return "nothing was profiled"
    first = records[0]
    lines = [
        f"{first.device_name} ({first.device}), {counted(first.threads, 'thread')}{FREED[first.keeps_freed_memory]}"
    ]
    head: tuple[str, ...] = (
        "model",
        "side",
        "mode",
        "protocol",
        "batch",
        "median ms",
        "95 % interval",
        "p90",
        "p95",
        "p99",
        "images/s",
    )
    rows: list[tuple[str, ...]] = [
        (
            r.model, str(r.resolution), t.mode, t.protocol, str(t.batch_size), f"{t.median_ms:.2f}",
            f"{t.median_low_ms:.2f}-{t.median_high_ms:.2f}", f"{t.p90_ms:.2f}", f"{t.p95_ms:.2f}", f"{t.p99_ms:.2f}",
            f"{AT_LEAST[t.at_least]}{t.images_per_s:.1f}",
        )
        for r in records
        for t in r.latency
    ]  # fmt: skip
    lines += _aligned([head, *rows])
    head = ("model", "side", "GMACs", "GFLOPs", "M params", "infer MiB", "predicted", "train MiB", "predicted")
    rows = [
        (
            r.model, str(r.resolution), f"{r.complexity.macs / 1e9:.4f}", f"{r.complexity.flops / 1e9:.4f}",
            f"{r.complexity.parameters / 1e6:.2f}", f"{r.inference_memory.peak_mib:.1f}",
            f"{r.predicted_inference_mib:.1f}", f"{r.training_memory.peak_mib:.1f}", f"{r.predicted_training_mib:.1f}",
        )
        for r in records
    ]  # fmt: skip
    lines += ["", *_aligned([head, *rows])]
    ends = [r for r in records if r.end_to_end is not None]
    if ends:
        head = ("model", "side", "mode", "decode ms", "resize ms", "model ms", "file to answer ms")
        rows = [
            (
                r.model,
                str(r.resolution),
                e.mode,
                *[f"{v:.2f}" for v in (e.decode_ms, e.resize_ms, e.model_ms, e.total_ms)],
            )
            for r in ends
            if (e := r.end_to_end) is not None
        ]
        lines += ["", *_aligned([head, *rows])]
    memory = first.training_memory
    precision = precision_name(memory.precision)
    lines.append(f"memory: {memory.method}, training with {counted(memory.batch, 'image')} in {precision}")
    where: dict[str, list[str]] = {}
    for r in records:
        for reason in r.unavailable.values():
            where.setdefault(reason, []).append(f"{r.model} @{r.resolution}")
    lines += [why if len(at) == len(records) else f"{why} ({', '.join(at)})" for why, at in where.items()]
    return "\n".join(lines)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
