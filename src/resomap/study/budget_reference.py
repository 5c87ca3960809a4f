"""The resolution by which a compute-matched study is measured: the largest of its first start, kept in budget.json.

Processes of one study may have other resolutions; each taking its own largest would train them to other lengths. Until
there is a run, the file names the processes that go by it: what all of them have left is nobody's.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from resomap.errors import StudyError
from resomap.layout import TUNING_LEASE, StudyLayout
from resomap.lease import has_ended, this_process
from resomap.serialize import read_json, read_record, write_json
from resomap.study import build
from resomap.study.context import StudyContext
from resomap.study.runs import stored_runs

log = logging.getLogger(__name__)


def stored_reference(layout: StudyLayout) -> int | None:
    """What the study keeps; a lost or damaged file is made up for by its runs' records.

    None where there is none, or where whoever chose it ended before the study had a run.
    """
    if layout.budget_path.exists():
        try:
            mend = "the runs' own records are used"
            side, users = read_record(layout.budget_path, _side_and_users, mend=mend)
        except StudyError as bad:
            log.warning("%s", bad)
        else:
            return side if users or any(stored_runs(layout)) else None
    for record in stored_runs(layout):
        stored = record.determinants.get("protocol", {}).get("training", {}).get("budget_reference")
        with contextlib.suppress(ValueError):
            return _side(stored)
    return None


def _side_and_users(stored: Mapping[str, Any]) -> tuple[int, list[Any]]:
    return _side(stored["resolution"]), _users(stored)


def _users(stored: Mapping[str, Any]) -> list[Any]:
    """Processes that the file names and that are not known to have ended."""
    named = stored.get("users", [])
    return [user for user in named if not has_ended(user)] if isinstance(named, list) else []


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
            _keep(context.layout, own)
    context.ranks.barrier()
    return stored_reference(context.layout)


def _keep(layout: StudyLayout, own: int) -> None:
    kept: dict[str, Any] = {"resolution": stored_reference(layout) or own}
    if not any(stored_runs(layout)):
        with contextlib.suppress(StudyError, AttributeError):  # none, or damaged
            kept["users"] = _users(read_json(layout.budget_path, error=StudyError))
        me = this_process()
        kept["users"] = [*(user for user in kept.get("users", ()) if user != me), me]
    write_json(layout.budget_path, kept)


def forget_reference(layout: StudyLayout) -> None:
    """After runs were discarded: a study without any begins anew."""
    if not any(stored_runs(layout)):
        layout.budget_path.unlink(missing_ok=True)
