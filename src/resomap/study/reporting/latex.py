"""The report's table for a paper, in LaTeX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resomap.study.reporting.captions import intervals, on, title, with_seeds

_PERCENT = r"\,\%"


def latex(verdict: Mapping[str, Any], data: str, name: str) -> str:
    """A table for a paper (booktabs).

    Args:
        data: the data set's name.
        name: the metric, for people.
    """
    means, split = verdict["metrics"], verdict["recommendation"]["report_split"]
    sides = sorted({m["resolution"] for m in means})
    rows = []
    for model, shown in with_seeds(means, verdict["recommendation"]["seeds"]).items():
        values = {m["resolution"]: m for m in means if m["model"] == model}
        cells = [
            f"{values[s]['value']:.3f} [{values[s]['low']:.3f}, {values[s]['high']:.3f}]" if s in values else "--"
            for s in sides
        ]
        rows.append(" & ".join([_tex(shown), *cells]) + r" \\")
    head = " & ".join(["model", *(f"{s} px" for s in sides)]) + r" \\"
    caption = (
        f"{title(name)} of {_tex(data)} {on(split, means)} by input resolution, with "
        f"{intervals(means).replace(' %', _PERCENT)}."
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
