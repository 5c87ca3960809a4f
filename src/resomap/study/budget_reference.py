"""The resolution by which a compute-matched study is measured: the largest of its first start, kept in budget.json.

Processes of one study may have other resolutions; each taking its own largest would train them to other lengths.
"""

from __future__ import annotations

import contextlib
import logging

from resomap.errors import StudyError
from resomap.layout import TUNING_LEASE, StudyLayout
from resomap.printable import printable
from resomap.serialize import read_json, write_json
from resomap.study import build
from resomap.study.context import StudyContext
from resomap.study.runs import stored_runs

log = logging.getLogger(__name__)


def stored_reference(layout: StudyLayout) -> int | None:
    """What the study keeps; a lost or damaged file is made up for by its runs' records. None where there is none."""
    if layout.budget_path.exists():
        try:
            return _side(read_json(layout.budget_path, error=StudyError)["resolution"])
        except (StudyError, LookupError, TypeError, ValueError) as bad:
            log.warning("%s is damaged (%s)", printable(layout.budget_path), printable(str(bad)))
    for record in stored_runs(layout):
        stored = record.determinants.get("protocol", {}).get("training", {}).get("budget_reference")
        with contextlib.suppress(ValueError):
            return _side(stored)
    return None


def _side(value: object) -> int:
    if not isinstance(value, int) or not 0 < value < 2**16:
        raise ValueError(f"{value!r} is no resolution")
    return value


def settle_reference(context: StudyContext) -> int | None:
    """The study's resolution, its own largest if it has begun with none; None where nothing is matched."""
    own = build.budget_reference(context.config)
    if own is None:
        return None
    if context.ranks.is_main:
        with context.leases.hold(TUNING_LEASE):
            write_json(context.layout.budget_path, {"resolution": stored_reference(context.layout) or own})
    context.ranks.barrier()
    return stored_reference(context.layout)


def forget_reference(layout: StudyLayout) -> None:
    """After runs were discarded: a study without any begins anew."""
    if not any(stored_runs(layout)):
        layout.budget_path.unlink(missing_ok=True)
