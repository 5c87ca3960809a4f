from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resomap import serialize
from resomap.errors import StorageError, StudyError
from resomap.layout import folder_name
from resomap.printable import printable
from resomap.records import Cell
from resomap.serialize import (
    check_writable,
    digest,
    plain,
    read_json,
    remove_leftovers,
    temporary_beside,
    to_json,
    write_atomic,
    write_json,
)


def test_write_atomic_keeps_the_old_content_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file"
    write_atomic(path, lambda stream: stream.write(b"old"))

    def half(stream: object) -> None:
        stream.write(b"ne")  # type: ignore[attr-defined]
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        write_atomic(path, half)
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_write_atomic_names_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*file: no space left"):
        write_atomic(tmp_path / "file", lambda stream: stream.write(b"x"))
    assert list(tmp_path.iterdir()) == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_to_json_is_strict_for_anything(value: object) -> None:
    def refuse(text: str) -> object:
        raise AssertionError(text)

    json.loads(to_json(value), parse_constant=refuse)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_write_atomic_names_a_full_disk_whatever_the_writer_makes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(stream: BinaryIO) -> None:
        try:
            stream.write(b"0" * 100_000)
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")  # as torch.save ends on a full disk

    opened = serialize._Remembering
    monkeypatch.setattr(serialize, "_Remembering", lambda path, mode: opened("/dev/full", "wb"))
    with pytest.raises(StorageError, match=r"x\.pt.*no space left"):
        write_atomic(tmp_path / "x.pt", write)


def test_write_atomic_names_a_disk_that_became_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)  # also of a file that was never there
    with pytest.raises(StorageError, match=r"x\.json.*read-only"):
        write_atomic(tmp_path / "x.json", lambda stream: stream.write(b"{}"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("folder", "a folder stands where a file is needed; give the name of a file"),
        ("file/x.json", "a file stands where a folder is needed; choose another name"),
        ("n" * 300, "the name is too long; choose a shorter one"),
    ],
)
def test_what_cannot_be_written_is_told_in_one_line_before_and_after_the_work(
    tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for write in (check_writable, lambda path: write_json(path, {})):
        with pytest.raises(StorageError) as refused:
            write(tmp_path / name)
        assert str(refused.value).startswith(f"cannot write {tmp_path / name.partition('/')[0]}")
        assert str(refused.value).endswith(f": {said}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_check_writable_leaves_nothing_behind(tmp_path: Path, without_privileges) -> None:
    check_writable(tmp_path / "new" / "folder" / "x.json", None, tmp_path / "y.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "locked").mkdir(mode=0o555)
    with without_privileges(), pytest.raises(StorageError, match="permission denied; change its permissions, or write"):
        check_writable(tmp_path / "locked" / "new" / "x.json")
    with pytest.raises(StorageError, match=r"cannot write /proc/x\.json: "):
        check_writable(Path("/proc/x.json"))


def test_plain_turns_records_and_arrays_into_json_types() -> None:
    value = {"cell": Cell("a", 32, 0), "x": np.array([1.0, np.nan]), "n": np.int64(3), "inf": -math.inf}
    expected = {"cell": {"model": "a", "resolution": 32, "seed": 0}, "x": [1.0, None], "n": 3, "inf": None}
    assert plain(value) == expected


def test_read_json_names_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"x\.json is missing"):
        read_json(tmp_path / "x.json", error=StudyError)
    write_json(tmp_path / "x.json", [1])
    assert read_json(tmp_path / "x.json") == [1]
    (tmp_path / "x.json").write_bytes(b"\xff{")
    with pytest.raises(StorageError, match="damaged"):
        read_json(tmp_path / "x.json")


def test_digest_ignores_key_order_only() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


@given(st.text())
def test_folder_name_is_one_safe_component(name: str) -> None:
    folder = folder_name(name)
    assert folder not in ("", ".", "..")
    assert "/" not in folder
    assert "\0" not in folder
    assert len(folder.encode()) < 200


def test_folder_name_keeps_plain_names_and_tells_others_apart() -> None:
    assert folder_name("mobilenet_v3_small") == "mobilenet_v3_small"
    assert folder_name("a/b") != folder_name("a:b")
    assert folder_name("..") != ".."


@given(st.text())
def test_printable_is_one_line(text: str) -> None:
    assert printable(text).isprintable()


def test_remove_leftovers_takes_what_dead_processes_left_and_what_other_machines_left_long_ago(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "sub").mkdir()
    mine = temporary_beside(tmp_path / "mine.json").name
    here = mine.split(".")[3]
    assert here != "fedcba98"
    ages_s = {
        f".old.json.{here}.{dead.pid}.0123abcd.tmp": 60,
        f"sub/.new.json.{here}.{dead.pid}.0123abcd.tmp": 0,
        f".older.json.fedcba98.{dead.pid}.0123abcd.tmp": 4000,
        f".slow.json.fedcba98.{dead.pid}.0123abcd.tmp": 60,  # elsewhere, in a long fsync
        mine: 4000,
        ".somebody's.tmp": 4000,
        f"old.json.{here}.{dead.pid}.0123abcd.tmp": 4000,
    }
    for name, age_s in ages_s.items():
        (tmp_path / name).write_text("")
        then = time.time() - age_s
        os.utime(tmp_path / name, (then, then))
    remove_leftovers(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(list(ages_s)[3:])
