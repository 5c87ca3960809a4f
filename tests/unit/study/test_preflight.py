"""Whether the study's disk has room for it, found out before the first step."""

import re
import shutil
from collections import namedtuple

import pytest

from resomap.errors import StorageError
from resomap.study.preflight import _check_disk

Usage = namedtuple("Usage", "total used free")


def test_a_disk_without_room_for_the_checkpoints_is_told_in_sizes_that_show_the_difference(
    make_context, store_run, monkeypatch
):
    context = make_context()
    # Two runs keep weights of 1 MiB each, and one has a state of 3 MiB at a time: 5 MiB.
    parameters = {"tiny_cnn": 2**18}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 5 * 2**20 - 1))
    with pytest.raises(StorageError, match=re.escape("need about 5.0 MiB, 5.0 MiB are free; free some")):
        _check_disk(context, parameters)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 5 * 2**20))
    _check_disk(context, parameters)
    store_run(context, context.cells[0])  # finished: one is left, with 1 + 3 MiB
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 4 * 2**20))
    _check_disk(context, parameters)
