from __future__ import annotations

import pickle
import time
import tracemalloc

import pytest
import torch

from resomap.errors import CheckpointError, StorageError, UnsafeCheckpointError
from resomap.training.last_state import FORMAT, StateKeeper, check_same, read_state, write_state


def test_state_round_trip_keeps_tensors_and_plain_values(tmp_path):
    path = tmp_path / "last.pt"
    state = {"a": torch.arange(3), "b": {"c": [1, 2.5, None, "x", True]}, "best": float("-inf")}
    write_state(path, state)
    back = read_state(path)
    assert torch.equal(back.pop("a"), state.pop("a"))
    assert {k: back[k] for k in state} == state


def test_read_state_refuses_a_pickle_that_would_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    path = tmp_path / "last.pt"
    torch.save({"format": FORMAT, "x": Evil()}, path)
    with pytest.raises(UnsafeCheckpointError, match="could run code; it was not loaded"):
        read_state(path)
    assert not (tmp_path / "owned").exists()


def test_read_state_refuses_a_bare_pickle(tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(pickle.dumps({"format": FORMAT}))
    with pytest.raises(CheckpointError, match="damaged or no training state"):
        read_state(path)


def test_read_state_names_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pt is missing; there is nothing to resume"):
        read_state(tmp_path / "none.pt")


def test_read_state_of_a_folder_is_an_error_of_one_line(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read .*: Is a directory"):
        read_state(tmp_path)


def test_read_state_refuses_a_file_with_one_changed_bit(tmp_path):
    path = tmp_path / "last.pt"
    write_state(path, {"a": torch.arange(300.0), "b": [1, "x"]})
    data = path.read_bytes()
    assert len(data) > 1200  # of 300 numbers
    for position in range(0, len(data) - 48, 13):  # the last 48 bytes are the checksum itself
        path.write_bytes(data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :])
        with pytest.raises(CheckpointError, match="to start anew"):
            read_state(path)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_read_state_refuses_truncated_files(tmp_path, keep):
    path = tmp_path / "last.pt"
    write_state(path, {"a": torch.zeros(1000)})
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    with pytest.raises(CheckpointError, match="delete it to start anew"):
        read_state(path)


def test_read_state_refuses_files_with_flipped_bytes_or_reads_them(tmp_path):
    # Flipping a byte of the zip's structure must end in CheckpointError, never in another exception.
    path = tmp_path / "last.pt"
    write_state(path, {"a": torch.zeros(4), "b": [1, 2]})
    data = path.read_bytes()
    refused = 0
    for position in range(0, len(data), 7):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        try:
            read_state(path)
        except CheckpointError:
            refused += 1
    assert refused > 10


def test_read_state_refuses_other_torch_files(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="no training state of this version"):
        read_state(path)


def test_write_state_failing_half_way_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    write_state(path, {"n": 1})

    def full(payload, stream):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(StorageError, match="no space left"):
        write_state(path, {"n": 2})
    monkeypatch.undo()
    assert read_state(path)["n"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_check_same_names_what_differs():
    with pytest.raises(CheckpointError, match=r"epochs 3 \(now 5\); seed 1 \(now 2\)"):
        check_same({"epochs": 3, "seed": 1, "lr": 0.1}, {"epochs": 5, "seed": 2, "lr": 0.1})


def test_state_keeper_without_path_is_never_due_and_writes_nothing():
    keeper = StateKeeper(None, every_s=0.0)
    keeper.write({})
    assert not keeper.due()


def test_state_keeper_every_update_is_always_due(tmp_path):
    keeper = StateKeeper(tmp_path / "last.pt", every_s=0.0)
    keeper.write({"n": 1})
    assert keeper.due()


def test_state_keeper_waits_between_states(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    keeper = StateKeeper(tmp_path / "last.pt", every_s=60.0)
    now[0] += 59
    assert not keeper.due()
    now[0] += 1
    assert keeper.due()
    keeper.write({})
    assert not keeper.due()


def test_state_keeper_saves_large_states_less_often(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    keeper = StateKeeper(tmp_path / "last.pt", every_s=10.0)

    def slow(path, state):
        now[0] += 5.0

    monkeypatch.setattr("resomap.training.last_state.write_state", slow)
    keeper.write({})
    # 5 s a state may be 5 % of the time: one every 100 s.
    now[0] += 99
    assert not keeper.due()
    now[0] += 1
    assert keeper.due()


def test_a_state_is_not_held_twice_while_it_is_read(tmp_path):
    path = tmp_path / "last.pt"
    write_state(path, {"a": torch.arange(10**6, dtype=torch.float64)})
    tracemalloc.start()
    state = read_state(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert state["a"][-1] == 10**6 - 1
    assert most < 4e6  # the 8 MB of the tensor are torch's own; the file's bytes would be counted here
