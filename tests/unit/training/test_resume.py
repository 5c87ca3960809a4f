"""A run that is stopped or killed and goes on ends with the very weights of one that never was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from resomap.errors import CheckpointError, ConfigError, StorageError
from resomap.serialize import temporary_beside
from resomap.training.callbacks import Callback, EarlyStopping, ModelCheckpoint
from resomap.training.last_state import read_state
from resomap.training.schedule import SCHEDULES


class StopAfter(Callback):
    """Asks for a stop after some update."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_update_end(self, trainer) -> None:
        if trainer.update == self.update:
            trainer.request_stop()


def _values(record) -> tuple[float, float, float, dict[str, float]]:
    """What an epoch's record says, without the clock."""
    return record.train_loss, record.train_accuracy, record.learning_rate, dict(record.val)


# 5 updates an epoch: in the middle of the first and second epoch, and on the boundary.
@pytest.mark.parametrize("stop_after", [2, 5, 8])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_stopped_and_resumed_run_is_bit_identical(
    trainer, network, weights, assert_identical, tmp_path, schedule, stop_after
):
    options = {"schedule": schedule, "gamma": 0.5, "plateau_patience": 1, "warmup_epochs": 0.5}
    options |= {"optimizer": "adamw", "step_epochs": 1, "state_path": tmp_path / "last.pt"}
    whole = network(dropout=0.5, norm=True)
    expected = trainer(whole, **options | {"state_path": None}).fit()

    first = network(dropout=0.5, norm=True)
    with pytest.raises(KeyboardInterrupt, match="asked to stop"):
        trainer(first, callbacks=[StopAfter(stop_after)], **options).fit()
    second = network(dropout=0.5, norm=True, seed=9)  # other weights: all must come from the state
    resumed = trainer(second, **options)
    assert resumed.resume() == stop_after
    result = resumed.fit()
    assert_identical(weights(whole), weights(second))
    assert [_values(record) for record in result.epochs] == [_values(record) for record in expected.epochs]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_resumed_optimizer_state_is_bit_identical(trainer, network, weights, assert_identical, tmp_path, optimizer):
    options = {"optimizer": optimizer, "clip_grad_norm": 0.1, "learning_rate": 0.01}
    options |= {"state_path": tmp_path / "last.pt", "accumulation_steps": 2}
    whole = network(dropout=0.3)
    trainer(whole, **options | {"state_path": None}).fit()
    with pytest.raises(KeyboardInterrupt):
        trainer(network(dropout=0.3), callbacks=[StopAfter(4)], **options).fit()
    second = network(dropout=0.3)
    resumed = trainer(second, **options)
    resumed.resume()
    resumed.fit()
    assert_identical(weights(whole), weights(second))


def test_stopping_twice_and_at_every_update_changes_nothing(trainer, network, weights, assert_identical, tmp_path):
    whole = network(dropout=0.5)
    trainer(whole, epochs=2).fit()
    path = tmp_path / "last.pt"
    for update in range(1, 11):
        model = network(dropout=0.5)
        made = trainer(model, epochs=2, state_path=path, callbacks=[StopAfter(update)])
        if path.exists():
            assert made.resume() == update - 1
        with pytest.raises(KeyboardInterrupt):
            made.fit()
    last = network(dropout=0.5)
    made = trainer(last, epochs=2, state_path=path)
    made.resume()
    made.fit()
    assert_identical(whole.state_dict(), weights(last))


def test_finished_run_resumed_trains_no_more(trainer, network, weights, assert_identical, tmp_path):
    path = tmp_path / "last.pt"
    first = trainer(network(), state_path=path)
    expected = first.fit()
    model = network(seed=4)
    again = trainer(model, state_path=path)
    again.resume()
    assert again.fit() == expected
    assert_identical(weights(first.model), weights(model))


def test_resumed_run_picks_the_same_best_epoch_and_stops_at_the_same_epoch(trainer, network, tmp_path, monkeypatch):
    # Accuracy by epoch; patience 2: best is epoch 2, stopped after epoch 4.
    accuracy = {1: 0.3, 2: 0.9, 3: 0.5, 4: 0.6, 5: 1.0}

    def run(folder: Path, stop_after: int | None, *, resume: bool):
        keep = ModelCheckpoint(folder, monitor="accuracy", mode="max", top_k=2)
        stopping = EarlyStopping(monitor="accuracy", mode="max", patience=2)
        extra = [StopAfter(stop_after)] if stop_after else []
        made = trainer(
            network(dropout=0.5),
            epochs=5,
            monitor="accuracy",
            monitor_mode="max",
            state_path=folder / "last.pt",
            callbacks=[keep, stopping, *extra],
        )
        made.validate = lambda: {"accuracy": accuracy[made.epoch], "loss": 1.0}
        if resume:
            made.resume()
        return keep, made.fit()

    kept, expected = run(tmp_path / "whole", None, resume=False)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", 12, resume=False)
    kept_again, result = run(tmp_path / "cut", None, resume=True)
    assert (result.best_epoch, result.stopped_early, len(result.epochs)) == (2, True, 4)
    assert (expected.best_epoch, expected.stopped_early, len(expected.epochs)) == (2, True, 4)
    assert [entry.epoch for entry in kept_again.kept] == [entry.epoch for entry in kept.kept] == [2, 4]
    one, other = kept.get_best_checkpoint_path(), kept_again.get_best_checkpoint_path()
    assert one.read_bytes() == other.read_bytes()


def test_state_is_saved_within_an_epoch_when_due(trainer, tmp_path):
    path = tmp_path / "last.pt"
    seen: list[int] = []

    class Watch(Callback):
        def on_update_end(self, made) -> None:
            if path.exists():
                seen.append(read_state(path)["loop"]["progress"]["update"])

    trainer(epochs=1, state_path=path, save_every_s=0.0, callbacks=[Watch()]).fit()
    assert seen == [1, 2, 3, 4]  # before update k is saved, the state is that after update k - 1


def test_resume_from_an_epochs_last_update_goes_on_with_validation(
    trainer, network, weights, assert_identical, tmp_path
):
    path = tmp_path / "last.pt"

    class FailInValidation(Callback):
        def on_epoch_end(self, made, record) -> None:
            raise ZeroDivisionError

    whole = network(dropout=0.5)
    expected = trainer(whole).fit()
    with pytest.raises(ZeroDivisionError):
        trainer(network(dropout=0.5), state_path=path, save_every_s=0.0, callbacks=[FailInValidation()]).fit()
    assert read_state(path)["loop"]["progress"]["update"] == 5
    model = network(dropout=0.5)
    made = trainer(model, state_path=path)
    made.resume()
    result = made.fit()
    assert_identical(weights(whole), weights(model))
    assert [_values(record) for record in result.epochs] == [_values(record) for record in expected.epochs]


def test_resume_refuses_the_state_of_other_settings(trainer, tmp_path):
    path = tmp_path / "last.pt"
    trainer(state_path=path).fit()
    with pytest.raises(CheckpointError, match=r"learning_rate 0.05 \(now 0.1\)"):
        trainer(state_path=path, learning_rate=0.1).resume()


def test_resume_refuses_the_state_of_another_model(trainer, network, tmp_path):
    path = tmp_path / "last.pt"
    trainer(network(), state_path=path).fit()
    with pytest.raises(CheckpointError, match="saved by a run with other settings: model"):
        trainer(network(norm=True), state_path=path).resume()


def test_resume_refuses_other_callbacks(trainer, tmp_path):
    path = tmp_path / "last.pt"
    trainer(state_path=path).fit()
    stopping = EarlyStopping(monitor="loss", mode="min", patience=2)
    with pytest.raises(CheckpointError, match=r"callbacks \[\], these are \['EarlyStopping'\]"):
        trainer(state_path=path, callbacks=[stopping]).resume()


def test_resume_without_any_path_says_so(trainer):
    with pytest.raises(ConfigError, match="needs a path"):
        trainer().resume()


def test_damaged_state_is_an_error_of_one_line(trainer, tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(b"not a state")
    with pytest.raises(CheckpointError, match="delete it to start anew"):
        trainer(state_path=path).resume()


def test_full_disk_ends_the_run_and_keeps_the_state_before(trainer, network, tmp_path, monkeypatch):
    path = tmp_path / "last.pt"

    class FillDisk(Callback):
        def on_update_end(self, made) -> None:
            if made.update == 7:
                monkeypatch.setattr(torch, "save", self._full)

        @staticmethod
        def _full(payload, stream) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="no space left"):
        trainer(state_path=path, save_every_s=0.0, callbacks=[FillDisk()]).fit()
    assert read_state(path)["loop"]["progress"] | {"seconds": 0} == {"epoch": 1, "update": 1, "seconds": 0}


def test_leftovers_of_a_kill_are_removed(trainer, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in ("last.pt", "epoch0003.safetensors", "best_model.safetensors"):
        of_us = temporary_beside(folder / name)
        of_us.with_name(of_us.name.replace(f".{os.getpid()}.", f".{dead.pid}.")).write_bytes(b"half")
    living = temporary_beside(folder / "last.pt")
    living.write_bytes(b"half")
    (folder / ".theirs.tmp").write_bytes(b"not ours")
    keep = ModelCheckpoint(folder, monitor="loss", mode="min")
    trainer(epochs=1, state_path=folder / "last.pt", callbacks=[keep]).fit()
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted([living.name, ".theirs.tmp", "best_model.safetensors", "epoch0001.safetensors", "last.pt"])


KILLED = """
    import sys
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset
    from resomap.training.callbacks import Callback, ModelCheckpoint
    from resomap.training.trainer import Trainer

    folder, pause = sys.argv[1], float(sys.argv[2])

    class Slow(Callback):
        def on_update_end(self, trainer):
            import time
            time.sleep(pause)

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 3)
    )
    data = TensorDataset(torch.randn(24, 3, 8, 8), torch.arange(24) % 3)
    trainer = Trainer(
        model, DataLoader(data, batch_size=4, shuffle=True), DataLoader(data, batch_size=8), epochs=3,
        device="cpu", state_path=f"{folder}/last.pt", save_every_s=0.0,
        callbacks=[ModelCheckpoint(folder, monitor="loss", mode="min", top_k=2), Slow()],
    )
    import pathlib
    if pathlib.Path(f"{folder}/last.pt").exists():
        trainer.resume()
    trainer.fit()
    torch.save(model.state_dict(), f"{folder}/final.pt")
"""


def _start(folder: Path, pause: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(KILLED), str(folder), str(pause)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def _updates_saved(folder: Path) -> int:
    path = folder / "last.pt"
    if not path.exists():
        return 0
    progress = read_state(path)["loop"]["progress"]
    return int(progress["epoch"]) * 6 + int(progress["update"])


@pytest.mark.slow
def test_killed_run_ends_with_the_weights_of_one_that_was_not(tmp_path, assert_identical):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert _start(whole, 0.0).wait(timeout=120) == 0
    for at_least in (2, 15):  # in the middle of the first and of the last of three epochs of 6 updates
        process = _start(killed, 0.05)
        deadline = time.monotonic() + 60
        while _updates_saved(killed) < at_least and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=30) == -signal.SIGKILL
    assert _start(killed, 0.0).wait(timeout=120) == 0
    ours, theirs = (torch.load(folder / "final.pt", weights_only=True) for folder in (whole, killed))
    assert_identical(ours, theirs)
    assert (whole / "best_model.safetensors").read_bytes() == (killed / "best_model.safetensors").read_bytes()
    assert sorted(p.name for p in whole.glob("epoch*")) == sorted(p.name for p in killed.glob("epoch*"))
