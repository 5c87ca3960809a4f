"""Whether the study's disk has room for it, found out before the first step."""

import dataclasses
import re
import shutil
from collections import namedtuple

import pytest

from resomap.errors import StorageError
from resomap.study.preflight import check_disk

Usage = namedtuple("Usage", "total used free")


def test_a_disk_without_room_for_the_checkpoints_is_told_in_sizes_that_show_the_difference(
    make_context, store_run, monkeypatch
):
    context = make_context()
    # Two runs keep weights of 1 MiB each; a state of 3 MiB is written beside the one that it replaces: 8 MiB.
    parameters = {"tiny_cnn": 2**18}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 8 * 2**20 - 1))
    with pytest.raises(StorageError, match=re.escape("need about 8.0 MiB, 8.0 MiB are free; free some")):
        check_disk(context, parameters)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 8 * 2**20))
    check_disk(context, parameters)
    both = dataclasses.replace(context, runs_at_once=2)  # 2 x 1 + 2 x 2 x 3 MiB
    with pytest.raises(StorageError, match=re.escape("need about 14.0 MiB, 8.0 MiB are free")):
        check_disk(both, parameters)
    store_run(context, context.cells[0])  # finished: one is left, with 1 + 6 MiB
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 7 * 2**20))
    check_disk(context, parameters)


def test_predictions_count_and_once_more_where_mlflow_keeps_them(make_context, monkeypatch):
    # 10^5 images, 4 bytes a probability of 2 classes and 40 besides: 4.8 MB a run, of two runs, kept twice.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 10**7))
    for enabled, needs in ((False, 9.6e6), (True, 19.2e6)):
        context = make_context(mlflow={"enabled": enabled})
        splits = {"train": range(10), "val": range(10**5)}
        context = dataclasses.replace(context, images=dataclasses.replace(context.images, splits=splits))
        if enabled:
            with pytest.raises(StorageError, match=re.escape(f"need about {needs / 2**20:.1f} MiB")):
                check_disk(context, {"tiny_cnn": 0})
        else:
            check_disk(context, {"tiny_cnn": 0})
