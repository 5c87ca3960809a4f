"""report/index.html: one file that needs nothing else, from plain tables.

Everything that comes from outside (class names, file names, settings) is escaped by jinja2, or serialised so that it
cannot end the script element it stands in. Should a name get through all the same, the page's security policy lets no
script run but the two that are known here by their hashes, and lets the page fetch or send nothing.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from resomap.printable import share
from resomap.report.style import COLOURS, MARKERS

_SYMBOLS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
    "<": "triangle-left",
    ">": "triangle-right",
    "*": "star",
}
_TEMPLATE = "report.html.j2"
_SCRIPT = re.compile(r"<script>([^{].*?)</script>", re.DOTALL)
"""The template's own scripts; they hold nothing of jinja's, so they stand in the page as they stand there."""
_DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True, slots=True)
class Table:
    """A table that the reader can sort. A cell is text, or {'text': shown, 'value': sorted by}."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def cell(text: str, value: float | None) -> dict[str, Any]:
    """A cell whose text is not what it is sorted by."""
    return {"text": text, "value": "" if value is None else value}


def metric_cell(found: Mapping[str, Any], *, digits: int = 3) -> dict[str, Any]:
    """'0.950 (0.930 to 0.970)' of a metric from 0 to 1, which is shown as 0 or 1 only where it is."""
    value, low, high = (share(found[name], digits=digits) for name in ("value", "low", "high"))
    return cell(f"{value} ({low} to {high})", found["value"])


def interval_cell(found: Mapping[str, Any] | None, *, digits: int = 3) -> dict[str, Any]:
    """'-0.004 (-0.053 to 0.010)', all with as many digits, sorted by the value.

    A dash where there is none, and no value that may be anything.
    """
    if found is None or found["value"] is None:
        return cell("–", None)
    value, low, high = found["value"], found.get("low"), found.get("high")
    if says_nothing(found):
        return cell("no information", None)
    if low is None or high is None:
        return cell(share(value, digits=digits), value)
    return cell(f"{value:z.{digits}f} ({low:z.{digits}f} to {high:z.{digits}f})", value)


def says_nothing(found: Mapping[str, Any]) -> bool:
    """Whether an interval goes from -1 to 1: all that a difference of two shares may be."""
    return (found.get("low"), found.get("high")) == (-1, 1)


def render(context: Mapping[str, Any], plots: Mapping[str, Any]) -> str:
    """The page.

    Args:
        context: what the template names; see templates/report.html.j2.
        plots: element id -> {'data': traces, 'layout': layout} as plotly takes them.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("resomap.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    source, _, _ = PackageLoader("resomap.report", "templates").get_source(environment, _TEMPLATE)
    return environment.get_template(_TEMPLATE).render(
        **context,
        plotly_js=_plotly_js(),
        plots_json=script_json(plots),
        security_policy=security_policy(_plotly_js(), *_SCRIPT.findall(source)),
    )


def security_policy(*scripts: str) -> str:
    """A content security policy under which only these inline scripts run, and nothing is fetched or sent.

    Styles may stand inline: plotly sets them on the elements that it draws.
    """
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def script_json(value: object) -> str:
    """JSON that can stand inside a script element: no '<', no line separators."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _plotly_js() -> str:
    from plotly.offline import get_plotlyjs

    # A script element ends at the first '</script', wherever it stands.
    return str(get_plotlyjs()).replace("</script", "<\\/script")


def data_uri(picture_HW3: np.ndarray, *, quality: int = 80) -> str:
    """A JPEG as text."""
    buffer = io.BytesIO()
    Image.fromarray(picture_HW3).save(buffer, format="jpeg", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def line_trace(position: int, name: str, x: Sequence[float], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Points joined by a line, with their intervals; any two lines differ without colour too."""
    values = [f["value"] for f in found]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": _plain(name),
        "legendgroup": _plain(name),
        "x": list(x),
        "y": values,
        "error_y": {
            "type": "data",
            "symmetric": False,
            "thickness": 1,
            "array": [f["high"] - f["value"] for f in found],
            "arrayminus": [f["value"] - f["low"] for f in found],
        },
        "line": {"color": _colour(position), "dash": _DASHES[position // len(COLOURS) % len(_DASHES)]},
        "marker": {"symbol": _SYMBOLS[MARKERS[position % len(MARKERS)]], "size": 8, "color": _colour(position)},
    }


def curve_trace(position: int, name: str, points: Sequence[Sequence[float]]) -> dict[str, Any]:
    """A smooth line in the colour of the n-th model, without an entry of its own in the legend."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": _plain(name),
        "legendgroup": _plain(name),
        "showlegend": False,
        "hoverinfo": "skip",
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "line": {"color": _colour(position), "dash": _DASHES[position // len(COLOURS) % len(_DASHES)], "width": 1.5},
    }


def level_line(height: float, label: str) -> dict[str, Any]:
    """Layout of a dotted horizontal line with a few words on it."""
    line = {"color": "#7f7f7f", "dash": "dot", "width": 1}
    across = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": height, "y1": height, "line": line}
    words = {
        "xref": "paper",
        "x": 1,
        "y": height,
        "text": _plain(label),
        "showarrow": False,
        "xanchor": "right",
        "yanchor": "bottom",
    }
    return {"shapes": [across], "annotations": [words]}


def _colour(position: int) -> str:
    colour = COLOURS[position % len(COLOURS)]
    return "#7f7f7f" if colour == "#000000" else colour  # black would vanish on a dark page


def sides_axis(resolutions: Sequence[int]) -> dict[str, Any]:
    """A logarithmic axis that names the resolutions themselves."""
    return {
        "type": "log",
        "title": {"text": "input resolution (px)"},
        "tickvals": list(resolutions),
        "ticktext": [str(r) for r in resolutions],
    }


def heat_map(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], *, x: str, y: str, label: str
) -> dict[str, Any]:
    """A matrix whose cells show their values."""
    return {
        "data": [
            {
                "type": "heatmap",
                "x": list(columns),
                "y": list(rows),
                "z": [list(r) for r in values],
                "colorscale": "Cividis",
                "texttemplate": "%{z:.3f}",
                "colorbar": {"title": {"text": label}},
            }
        ],
        "layout": {
            "xaxis": {"title": {"text": x}, "type": "category"},
            "yaxis": {"title": {"text": y}, "type": "category"},
        },
    }


def _plain(text: str) -> str:
    """Text as plotly shows it: it takes some tags and formulas for its own."""
    return text.replace("<", "‹").replace(">", "›").replace("$", "＄")
