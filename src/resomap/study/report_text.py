"""The report's short forms: text for a terminal, a table for a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resomap.study.load import Study


def summary(verdict: Mapping[str, Any], means: Sequence[Mapping[str, Any]], name: str) -> str:
    """summary.txt: the verdict and its table for a terminal."""
    answer = verdict["recommendation"]
    latency = {(o["model"], o["resolution"]): o["latency_ms"] for o in answer["options"]}
    lines = [answer["sentence"], "", f"{name} on {answer['report_split']}, 95 % interval; latency of one image"]
    for m in means:
        ms = latency.get((m["model"], m["resolution"]))
        timed = f"{ms:9.2f} ms" if ms is not None else ""
        lines.append(
            f"{m['model']:24s} {m['resolution']:5d} px  {m['value']:.3f} ({m['low']:.3f}-{m['high']:.3f}) {timed}"
        )
    lines += ["", *(f"warning: {line}" for line in answer["warnings"])]
    return "\n".join(lines) + "\n"


def latex(means: Sequence[Mapping[str, Any]], study: Study, name: str) -> str:
    """A table for a paper (booktabs)."""
    sides = sorted({m["resolution"] for m in means})
    rows = []
    for model in dict.fromkeys(m["model"] for m in means):
        values = {m["resolution"]: m for m in means if m["model"] == model}
        cells = [
            f"{values[s]['value']:.3f} [{values[s]['low']:.3f}, {values[s]['high']:.3f}]" if s in values else "--"
            for s in sides
        ]
        rows.append(" & ".join([_tex(model), *cells]) + r" \\")
    head = " & ".join(["model", *(f"{s} px" for s in sides)]) + r" \\"
    caption = (
        f"{name.capitalize()} on {_tex(study.about['data'])} by input resolution, "
        "with 95\\,\\% intervals over images and seeds."
    )
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{l{'c' * len(sides)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _tex(text: str) -> str:
    escaped = {
        "\\": r"\textbackslash{}",
        "_": r"\_",
        "%": r"\%",
        "&": r"\&",
        "#": r"\#",
        "$": r"\$",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
    return "".join(escaped.get(c, c) for c in text)
