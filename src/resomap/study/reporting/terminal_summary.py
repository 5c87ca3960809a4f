"""summary.txt: the report's short form for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resomap.printable import counted
from resomap.study.reporting.captions import intervals, on, with_seeds


def summary(verdict: Mapping[str, Any], name: str) -> str:
    """summary.txt: the verdict and its table for a terminal.

    Args:
        name: the metric, for people.
    """
    answer, means = verdict["recommendation"], verdict["metrics"]
    latency = {(o["model"], o["resolution"]): o["latency_ms"] for o in answer["options"]}
    models = with_seeds(means, answer["seeds"])
    width = max(24, *map(len, models.values()))
    lines = [
        answer["sentence"],
        "",
        f"{name} {on(answer['report_split'], means)}, {intervals(means)}; latency of one image",
    ]
    if any(model != shown for model, shown in models.items()):
        lines.append(f"the verdict compares the {counted(answer['seeds'], 'seed')} that all its models have")
    for m in means:
        ms = latency.get((m["model"], m["resolution"]))
        timed = f"{ms:9.2f} ms" if ms is not None else ""
        lines.append(
            f"{models[m['model']]:{width}s} {m['resolution']:5d} px  "
            f"{m['value']:.3f} ({m['low']:.3f}-{m['high']:.3f}) {timed}"
        )
    lines += ["", *(f"warning: {line}" for line in answer["warnings"])]
    return "\n".join(lines) + "\n"
