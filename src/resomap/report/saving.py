"""A figure as files: PNG and PDF."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from resomap.report.style import paper_style
from resomap.serialize import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write `path` as .png and .pdf, atomically; the PDF carries no date, so that equal data give equal files."""
    written = []
    for suffix, options in ((".png", {}), (".pdf", {"metadata": {"CreationDate": None}})):
        buffer = io.BytesIO()
        with paper_style():  # resolution and kind of fonts are settings of saving
            figure.savefig(buffer, format=suffix[1:], **options)  # type: ignore[arg-type]
        target = path.with_name(path.name + suffix)
        write_atomic(target, lambda stream, data=buffer: stream.write(data.getvalue()))  # type: ignore[misc]
        written.append(target)
    return written
