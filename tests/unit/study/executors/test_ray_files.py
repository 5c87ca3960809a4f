"""Files that travel: whole or not at all, inside their folders or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from resomap.errors import StorageError, StudyError
from resomap.study.executors.ray_files import commit, fetch, file_digest, inside, list_files


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "a\\..\\x", "."])
def test_names_that_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="refused"):
        inside(tmp_path, name)


def test_listing_has_the_state_first_the_record_last_and_nothing_hidden(tmp_path: Path) -> None:
    fill(tmp_path, {"a/run.json": b"r", "a/zz.bin": b"z", "a/last.pt": b"s", ".locks/x": b"", "a/.tmp": b""})
    assert list(list_files(tmp_path)) == ["a/last.pt", "a/zz.bin", "a/run.json"]


def test_fetch_copies_in_pieces_and_replaces_what_was_there(tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"0123456789", "b/c": b"", "d": b"x"})
    target = fill(tmp_path / "target", {"old": b""})
    fetch(list_files(source), target, lambda name, offset: (source / name).read_bytes()[offset : offset + 4])
    assert list_files(target) == list_files(source)


def test_fetch_of_damaged_bytes_leaves_nothing(tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"0123456789"})
    with pytest.raises(StorageError, match="arrived damaged"):
        fetch(list_files(source), tmp_path / "target", lambda name, offset: b"x" * (10 - offset))
    assert not (tmp_path / "target").exists()
    with pytest.raises(StorageError, match="arrived damaged"):  # cut short
        fetch(list_files(source), tmp_path / "target", lambda name, offset: b"0123"[offset:])


def test_commit_moves_files_and_removes_older_ones(tmp_path: Path) -> None:
    incoming = fill(tmp_path / "in", {"runs/a/best": b"new", "runs/a/run.json": b"{}"})
    root = fill(tmp_path / "study", {"runs/a/best": b"old", "runs/a/last.pt": b"old", "runs/b/best": b"other"})
    own = root / "runs/a"
    commit(incoming, root, allowed=(own,), listing=list_files(incoming), replaces=(own,))
    assert set(list_files(root)) == {"runs/a/best", "runs/a/run.json", "runs/b/best"}
    assert (own / "best").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["runs/b/best", "study.yaml", "runs/a/../b/best", "../elsewhere"])
def test_commit_refuses_files_of_others(name: str, tmp_path: Path) -> None:
    incoming = fill(tmp_path / "in", {"runs/b/best": b"x", "study.yaml": b"x"})
    root = fill(tmp_path / "study", {"runs/b/best": b"other"})
    with pytest.raises(StudyError, match="refused"):
        commit(incoming, root, allowed=(root / "runs/a",), listing={name: (1, "0" * 32)}, replaces=())
    assert (root / "runs/b/best").read_bytes() == b"other"


def test_commit_of_a_damaged_file_changes_nothing(tmp_path: Path) -> None:
    incoming = fill(tmp_path / "in", {"a/x": b"good", "a/y": b"bad"})
    listing = {"a/x": (4, file_digest(incoming / "a/x")), "a/y": (3, "0" * 32)}
    with pytest.raises(StudyError, match="damaged"):
        commit(incoming, tmp_path / "study", allowed=(tmp_path / "study/a",), listing=listing, replaces=())
    assert not (tmp_path / "study").exists()
