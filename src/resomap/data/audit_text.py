"""An audit as text of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from resomap.data.audit import AuditReport, CopyGroup
from resomap.printable import listed, printable

_WIDTH = 80
_NAME_WIDTH = 30
_CLASSES_SHOWN = 20
_GROUPS_SHOWN = 10
_IDS_SHOWN = 3
_FILES_SHOWN = 50


def format_audit(report: AuditReport) -> str:
    """The report for people; the JSON form holds all of it, this one the first of long lists."""
    blocks = [_heading(report), _class_table(report)]
    if report.height_px:
        blocks += [_size_table(report), _resolution_lines(report)]
    blocks += [_bad_files(report), _copies(report)]
    if report.notes:
        blocks.append("\n".join(_wrapped(f"note: {printable(note)}", indent="  ") for note in report.notes))
    return "\n\n".join(blocks)


def _heading(report: AuditReport) -> str:
    classes = len(next(iter(report.counts.values()), {}))
    return _wrapped(f"{printable(report.name)}: {report.images:,} images, {classes:,} classes", indent="  ")


def _class_table(report: AuditReport) -> str:
    """Images of each class in each split; the smallest and largest ones where there are many."""
    totals: dict[str, int] = {}
    for counts in report.counts.values():
        for name, count in counts.items():
            totals[name] = totals.get(name, 0) + count
    names = sorted(totals, key=lambda name: totals[name])
    left_out = len(names) - _CLASSES_SHOWN
    half = _CLASSES_SHOWN // 2
    names = names[:half] + names[-half:] if left_out > 0 else list(totals)
    rows = [["class", *report.counts, "all"]]
    rows += [[name, *(f"{n[name]:,}" for n in report.counts.values()), f"{totals[name]:,}"] for name in names]
    if left_out > 0:
        rows.insert(1 + half, [f"({left_out} more)", *[""] * (len(report.counts) + 1)])
    rows.append(["all", *(f"{sum(n.values()):,}" for n in report.counts.values()), f"{sum(totals.values()):,}"])
    rows.append(["largest / smallest", *(f"{ratio:.2f}" for ratio in report.imbalance_ratio.values()), ""])
    return _table(rows)


def _size_table(report: AuditReport) -> str:
    rows = [["native size", "min", "5 %", "25 %", "median", "75 %", "95 %", "max"]]
    for name, values in (
        ("height (px)", report.height_px),
        ("width (px)", report.width_px),
        ("short side (px)", report.short_side_px),
    ):
        rows.append([name, *(f"{value:,.0f}" for value in values.values())])
    rows.append(["long / short side", *(f"{value:.2f}" for value in report.aspect_ratio.values())])
    return _table(rows)


def _resolution_lines(report: AuditReport) -> str:
    lines = [
        f"a centre square loses {report.crop_loss['mean']:.1%} of an image's area on average, "
        f"{report.crop_loss['p95']:.1%} at the 95th percentile"
    ]
    for resolution, share in report.upsampled_share.items():
        lines.append(f"at {resolution} px, {share:.1%} of the images are upsampled")
    small, large = _extremes(report.median_short_side_px)
    if report.median_short_side_px[large] > 1.5 * report.median_short_side_px[small]:
        lines.append(
            f"sizes differ by class (median short side {report.median_short_side_px[small]:,.0f} px for "
            f"{printable(small)}, {report.median_short_side_px[large]:,.0f} px for {printable(large)}): blur "
            "may give the class away"
        )
    return "\n".join(_wrapped(line, indent="  ") for line in lines)


def _extremes(values: Mapping[str, float]) -> tuple[str, str]:
    return min(values, key=lambda name: values[name]), max(values, key=lambda name: values[name])


def _bad_files(report: AuditReport) -> str:
    lines = [f"unreadable files: {len(report.bad_files):,}"]
    lines += [f"  {printable(bad.path)}: {bad.reason}" for bad in report.bad_files[:_FILES_SHOWN]]
    if len(report.bad_files) > _FILES_SHOWN:
        lines.append(f"  and {len(report.bad_files) - _FILES_SHOWN:,} more")
    return "\n".join(_wrapped(line, indent="    ") for line in lines)


def _copies(report: AuditReport) -> str:
    across = [group for group in report.copies if len(group.splits) > 1]
    conflicting = [group for group in report.copies if len(group.class_names) > 1 and group not in across]
    rest = [group for group in report.copies if group not in across and group not in conflicting]
    lines = _groups("copies across splits (these make test results too good)", across)
    lines += _groups("copies under several classes", conflicting)
    lines += _groups("other copies", rest)
    return "\n".join(_wrapped(line, indent="    ") for line in lines)


def _groups(title: str, groups: Sequence[CopyGroup]) -> list[str]:
    images = sum(len(group.image_ids) for group in groups)
    plural = "s" if len(groups) > 1 else ""
    lines = [f"{title}: {f'{len(groups):,} group{plural}, {images:,} images' if groups else 'none'}"]
    for group in groups[:_GROUPS_SHOWN]:
        kind = "identical" if group.identical else "near-identical"
        lines.append(f"  {kind}: {listed(group.image_ids, most=_IDS_SHOWN)}")
    if len(groups) > _GROUPS_SHOWN:
        lines.append(f"  and {len(groups) - _GROUPS_SHOWN:,} more groups")
    return lines


def _wrapped(line: str, *, indent: str) -> str:
    # A path is never broken: it is there to be copied.
    return textwrap.fill(line, _WIDTH, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


def _table(rows: Iterable[Sequence[str]]) -> str:
    """First column left, the others right."""
    cells = [[_shortened(printable(row[0])), *row[1:]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in cells
    )


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "…"
