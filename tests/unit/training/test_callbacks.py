from __future__ import annotations

import inspect
import os
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch

from resomap.errors import CheckpointError, ConfigError, StorageError
from resomap.models.checkpoints import load_checkpoint, read_metadata, write_metadata
from resomap.models.registry import build_model
from resomap.records import EpochRecord
from resomap.training import events
from resomap.training.callbacks import Callback, EarlyStopping, ModelCheckpoint

METADATA = {
    "model": "tiny_cnn", "family": "cnn", "resolution": 8, "class_names": ["a", "b", "c"], "seed": 0,
    "preprocessing": {"resolution": 8, "kernel": "lanczos", "mean": [0.5] * 3, "std": [0.25] * 3},
}  # fmt: skip


OWN = METADATA | {"model": "own:Network"}
"""Of code that nothing is built from here."""


class Log(Callback):
    """Notes every event."""


def _note(event: str):
    def method(self, trainer, *details) -> None:
        self.seen.append(event)

    return method


def _documented() -> list[str]:
    return re.findall(r"^\s+(on_\w+)", events.__doc__ or "", flags=re.MULTILINE)


for _event in _documented():
    setattr(Log, _event, _note(_event))


def test_events_are_the_methods_of_a_callback():
    methods = [name for name, _ in inspect.getmembers(Callback, inspect.isfunction) if name.startswith("on_")]
    assert sorted(methods) == sorted(_documented())


def test_events_happen_as_documented(trainer, loader):
    log = Log()
    log.seen = []
    trainer(train=loader(8), epochs=2, callbacks=[log]).fit()
    start, epoch, update, end, saved, fit_end = _documented()
    assert log.seen == [start, *[epoch, update, update, end, saved] * 2, fit_end]


def test_updates_and_their_images_are_all_seen(trainer, loader):
    images: list[int] = []

    class Progress(Callback):
        def on_update_end(self, made) -> None:
            images.append(made.images_in_update)

    trainer(train=loader(10), epochs=2, accumulation_steps=2, callbacks=[Progress()]).fit()
    assert images == [8, 2, 8, 2]  # batches of 4, 4, 2, two to an update


def _record(epoch: int, value: float) -> EpochRecord:
    return EpochRecord(epoch, 1.0, 0.5, 0.1, 1.0, 1.0, None, {"score": value})


class FakeTrainer:
    """What callbacks ask of a Trainer."""

    def __init__(self, model: torch.nn.Module | None = None) -> None:
        self.model, self.stopped, self.update = model, False, 0

    def on_main(self, work):
        return work()

    def stop_early(self) -> None:
        self.stopped = True


@pytest.mark.parametrize(
    ("mode", "values", "stops_after"),
    [
        ("max", [1.0, 2.0, 2.0, 1.5], 4),
        ("max", [1.0, 2.0, 3.0, 4.0], None),
        ("min", [2.0, 1.0, 1.0, 3.0], 4),
        ("min", [1.0, 2.0, 3.0, 0.5], 3),
        ("max", [float("nan"), float("nan"), 1.0], 2),
    ],
)
def test_early_stopping_waits_for_patience(mode, values, stops_after):
    stopping = EarlyStopping(monitor="score", mode=mode, patience=2)
    made = FakeTrainer()
    for epoch, value in enumerate(values, start=1):
        stopping.on_epoch_end(made, _record(epoch, value))
        if made.stopped:
            break
    assert (epoch if made.stopped else None) == stops_after


def test_early_stopping_wants_more_than_min_delta():
    stopping = EarlyStopping(monitor="score", mode="max", patience=1, min_delta=0.5)
    made = FakeTrainer()
    stopping.on_epoch_end(made, _record(1, 1.0))
    stopping.on_epoch_end(made, _record(2, 1.6))
    assert not made.stopped
    stopping.on_epoch_end(made, _record(3, 2.0))
    assert made.stopped


def test_early_stopping_state_continues():
    one, other = (EarlyStopping(monitor="score", mode="max", patience=2) for _ in range(2))
    made = FakeTrainer()
    for epoch, value in ((1, 2.0), (2, 1.0)):
        one.on_epoch_end(made, _record(epoch, value))
    other.load_state_dict(one.state_dict())
    other.on_epoch_end(made, _record(3, 1.0))
    assert made.stopped


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "best"},
        {"mode": "max", "patience": 0},
        {"mode": "max", "patience": 2.5},
        {"mode": "max", "patience": "3"},
        {"mode": "max", "min_delta": float("nan")},
        {"mode": "max", "min_delta": "0.1"},
    ],
)
def test_early_stopping_refuses_nonsense(options):
    with pytest.raises(ConfigError):
        EarlyStopping(**{"monitor": "score", "patience": 1} | options)


def test_early_stopping_ends_fit(trainer):
    stopping = EarlyStopping(monitor="loss", mode="min", patience=1)
    result = trainer(epochs=9, learning_rate=1e-30, callbacks=[stopping]).fit()
    assert result.stopped_early
    assert not result.still_improving
    assert len(result.epochs) == 2


def test_callbacks_begin_anew_with_another_network(trainer, network, tmp_path, weights, assert_identical):
    keep = ModelCheckpoint(tmp_path, monitor="loss", mode="min", top_k=9)
    stopping = EarlyStopping(monitor="loss", mode="min", patience=1)
    trainer(epochs=3, learning_rate=0.2, callbacks=[keep, stopping]).fit()
    model = network(seed=5)
    first = weights(model)
    worse = trainer(model, epochs=2, learning_rate=1e-30, callbacks=[keep, stopping])
    worse.validate = lambda: {"loss": 1e9}  # worse than any before, and no better from epoch to epoch
    assert len(worse.fit().epochs) == 2
    assert [kept.epoch for kept in keep.kept] == [1, 2]
    assert_identical(safetensors.torch.load_file(keep.get_best_checkpoint_path()), first)


def test_early_stopping_in_the_last_epoch_stopped_nothing(trainer):
    stopping = EarlyStopping(monitor="loss", mode="min", patience=1)
    result = trainer(epochs=2, learning_rate=1e-30, callbacks=[stopping]).fit()
    assert len(result.epochs) == 2
    assert not result.stopped_early


def _run(checkpoint: ModelCheckpoint, made: FakeTrainer, values: list[float], first: int = 1) -> None:
    checkpoint.on_fit_start(made)
    for epoch, value in enumerate(values, start=first):
        made.update += 1
        with torch.no_grad():
            made.model.weight.fill_(float(epoch))
        checkpoint.on_epoch_end(made, _record(epoch, value))
        checkpoint.on_epoch_saved(made, _record(epoch, value))


def _epochs_on_disk(folder: Path) -> dict[str, float]:
    """File -> epoch whose weights it holds."""
    return {
        path.name: safetensors.torch.load_file(path)["weight"].flatten()[0].item()
        for path in sorted(folder.glob("*.safetensors"))
    }


@pytest.mark.parametrize(
    ("mode", "top_k", "best", "kept"),
    [
        ("max", 1, 2, {2}),
        ("max", 3, 2, {2, 3, 4}),
        ("min", 1, 1, {1}),
        ("min", 2, 1, {1, 5}),
        ("max", 9, 2, {1, 2, 3, 4, 5}),
    ],
)
def test_model_checkpoint_keeps_the_best_and_cleans_up(tmp_path, mode, top_k, best, kept):
    # Epochs 2 and 3 are equal: the earlier is the better one.
    values = [0.1, 0.9, 0.9, 0.5, 0.2]
    checkpoint = ModelCheckpoint(tmp_path, monitor="score", mode=mode, top_k=top_k)
    _run(checkpoint, FakeTrainer(torch.nn.Linear(2, 2)), values)
    expected = {f"epoch{epoch:04d}.safetensors": float(epoch) for epoch in kept}
    assert _epochs_on_disk(tmp_path) == expected | {"best_model.safetensors": float(best)}
    assert checkpoint.get_best_checkpoint_path() == tmp_path / "best_model.safetensors"
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


def test_model_checkpoint_deletes_no_files_but_epochs(tmp_path):
    own = {tmp_path / f"epoch{name}.safetensors" for name in ("10_mine", "3", "0x10", "00004", "", "s")}
    own |= {tmp_path / "epoch0001.pt", tmp_path / "epoch0001.safetensors.bak"}
    for path in own:
        path.write_text("mine")
    (tmp_path / "epoch0009.safetensors").write_text("of an earlier training")
    _run(ModelCheckpoint(tmp_path, monitor="score", mode="max"), FakeTrainer(torch.nn.Linear(2, 2)), [0.1, 0.2])
    ours = {tmp_path / "epoch0002.safetensors", tmp_path / "best_model.safetensors"}
    assert set(tmp_path.iterdir()) == own | ours


def test_model_checkpoint_best_takes_no_more_disk(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, monitor="score", mode="max")
    _run(checkpoint, FakeTrainer(torch.nn.Linear(2, 2)), [0.1, 0.2])
    assert os.path.samefile(tmp_path / "best_model.safetensors", tmp_path / "epoch0002.safetensors")


def test_model_checkpoint_copies_where_links_are_not_possible(tmp_path, monkeypatch):
    def no_links(*paths) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    checkpoint = ModelCheckpoint(tmp_path, monitor="score", mode="max")
    _run(checkpoint, FakeTrainer(torch.nn.Linear(2, 2)), [0.1, 0.2])
    assert _epochs_on_disk(tmp_path) == {"best_model.safetensors": 2.0, "epoch0002.safetensors": 2.0}


def test_model_checkpoint_destroys_nothing_before_the_state_is_saved(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, monitor="score", mode="max")
    made = FakeTrainer(torch.nn.Linear(2, 2))
    _run(checkpoint, made, [0.1])
    torch.nn.init.constant_(made.model.weight, 2.0)
    checkpoint.on_epoch_end(made, _record(2, 0.2))
    assert _epochs_on_disk(tmp_path) == {
        "best_model.safetensors": 1.0,
        "epoch0001.safetensors": 1.0,
        "epoch0002.safetensors": 2.0,
    }


def test_model_checkpoint_makes_good_what_a_kill_interrupted(tmp_path):
    # Killed after epoch 2 was written and saved, before it was published and epoch 1 deleted.
    checkpoint = ModelCheckpoint(tmp_path, monitor="score", mode="max", metadata=OWN)
    made = FakeTrainer(torch.nn.Linear(2, 2))
    _run(checkpoint, made, [0.1])
    torch.nn.init.constant_(made.model.weight, 2.0)
    checkpoint.on_epoch_end(made, _record(2, 0.2))

    resumed = ModelCheckpoint(tmp_path, monitor="score", mode="max", metadata=OWN)
    resumed.load_state_dict(checkpoint.state_dict())
    resumed.on_fit_start(made)
    assert _epochs_on_disk(tmp_path) == {"best_model.safetensors": 2.0, "epoch0002.safetensors": 2.0}
    assert read_metadata(tmp_path).epoch == 2


def test_model_checkpoint_goes_back_to_what_the_state_says(tmp_path):
    # Killed after epoch 2 was written, before the state was saved: the state knows epoch 1 only.
    checkpoint = ModelCheckpoint(tmp_path, monitor="score", mode="max")
    made = FakeTrainer(torch.nn.Linear(2, 2))
    _run(checkpoint, made, [0.1])
    state = checkpoint.state_dict()
    checkpoint.on_epoch_end(made, _record(2, 0.2))

    resumed = ModelCheckpoint(tmp_path, monitor="score", mode="max")
    resumed.load_state_dict(state)
    resumed.on_fit_start(made)
    assert _epochs_on_disk(tmp_path) == {"best_model.safetensors": 1.0, "epoch0001.safetensors": 1.0}


def test_model_checkpoint_missing_best_is_an_error(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, monitor="score", mode="max", top_k=2)
    made = FakeTrainer(torch.nn.Linear(2, 2))
    _run(checkpoint, made, [0.1, 0.2])
    (tmp_path / "epoch0002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is missing, the best weights so far"):
        checkpoint.on_fit_start(made)


def test_model_checkpoint_missing_other_is_a_warning(tmp_path, caplog):
    checkpoint = ModelCheckpoint(tmp_path, monitor="score", mode="max", top_k=2)
    made = FakeTrainer(torch.nn.Linear(2, 2))
    _run(checkpoint, made, [0.1, 0.2])
    (tmp_path / "epoch0001.safetensors").unlink()
    checkpoint.on_fit_start(made)
    assert [kept.epoch for kept in checkpoint.kept] == [2]
    assert "epoch0001.safetensors is gone" in caplog.text


def test_model_checkpoint_ignores_nan(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, monitor="score", mode="max")
    _run(checkpoint, FakeTrainer(torch.nn.Linear(2, 2)), [float("nan")])
    assert checkpoint.get_best_checkpoint_path() is None
    assert checkpoint.save_metadata() is None
    assert list(tmp_path.iterdir()) == []


def test_model_checkpoint_writes_metadata_of_the_best_epoch(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, monitor="score", mode="max", metadata=OWN)
    _run(checkpoint, FakeTrainer(torch.nn.Linear(2, 2)), [0.1, 0.3, 0.2])
    metadata = read_metadata(tmp_path)
    assert (metadata.epoch, metadata.monitor, metadata.mode) == (2, "score", "max")
    assert metadata.metrics == {"score": 0.3}
    assert metadata.class_names == ("a", "b", "c")
    assert checkpoint.save_metadata() == tmp_path / "metadata.json"


def test_weights_kept_without_metadata_say_how_to_load_them(trainer, tmp_path, weights, assert_identical):
    model = build_model("tiny_cnn", num_classes=3, seed=0)
    trainer(model, callbacks=[ModelCheckpoint(tmp_path, monitor="train_loss", mode="min")], epochs=1).fit()
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".json"] == []
    expected = r"metadata\.json is missing, .* ModelCheckpoint\(.*, metadata=FIELDS\), .* FIELDS = (dict\(.*\)); the"
    with pytest.raises(CheckpointError, match=expected) as raised:
        load_checkpoint(tmp_path)
    # What the message says works: its fields with this network's own, and its other way.
    told = re.search(expected, str(raised.value))
    fields = eval(told[1])
    own = {"model": "tiny_cnn", "class_names": ["a", "b", "c"]}
    own["preprocessing"] = fields["preprocessing"] | {"mean": [0.5] * 3, "std": [0.2] * 3}
    write_metadata(tmp_path, **fields | own)
    assert_identical(weights(load_checkpoint(tmp_path).model), weights(model))
    bare = build_model("tiny_cnn", num_classes=3, pretrained=tmp_path / "best_model.safetensors")
    assert_identical(weights(bare), weights(model))


def test_model_checkpoint_refuses_incomplete_metadata_before_training(tmp_path):
    with pytest.raises(CheckpointError, match="model"):
        ModelCheckpoint(tmp_path, monitor="score", mode="max", metadata={"family": "cnn"})


def test_two_model_checkpoints_in_one_folder_are_refused_before_training(trainer, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    of_loss, of_accuracy = (
        ModelCheckpoint(tmp_path / folder, monitor=monitor, mode=mode)
        for folder, monitor, mode in (("run", "loss", "min"), ("link", "accuracy", "max"))
    )
    with pytest.raises(ConfigError, match=r"^callbacks: two of them keep their files in .*run; give each its own"):
        trainer(callbacks=[of_loss, of_accuracy])
    trainer(callbacks=[of_loss, Log(), Log(), ModelCheckpoint(tmp_path / "b", monitor="accuracy", mode="max")])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "resnet19"}, "cannot be built: no model is called 'resnet19'; nearest: resnet18"),
        ({"class_names": ["a", "b"]}, r"got tiny_cnn with 2 class names, .* classifier\.weight is .*\(3, 64\).*1 more"),
        ({"model": "simple_cnn"}, "got simple_cnn with 3 class names, by which: "),
    ],
)
def test_metadata_of_another_network_is_refused_before_training(trainer, tmp_path, fields, message):
    model = build_model("tiny_cnn", num_classes=3, seed=0)
    keep = ModelCheckpoint(tmp_path / "run", monitor="loss", mode="min", metadata=METADATA | fields)
    made = trainer(model, callbacks=[keep])
    with pytest.raises(CheckpointError, match=f"^metadata: .*{message}"):
        made.fit()
    assert made.update == 0
    assert not (tmp_path / "run").exists()


def test_model_checkpoint_refuses_to_keep_nothing(tmp_path):
    with pytest.raises(ConfigError, match=r"training\.top_k: expected a whole number from 1, got 0"):
        ModelCheckpoint(tmp_path, monitor="score", mode="max", top_k=0)


def test_model_checkpoint_says_where_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("in the way")
    checkpoint = ModelCheckpoint(tmp_path / "file" / "run", monitor="score", mode="max")
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        checkpoint.on_fit_start(FakeTrainer())


def test_best_checkpoint_holds_the_best_epochs_weights(trainer, tmp_path, weights, assert_identical):
    model = build_model("tiny_cnn", num_classes=3, seed=0)
    by_epoch: dict[int, dict[str, torch.Tensor]] = {}

    class Copy(Callback):
        def on_epoch_end(self, made, record) -> None:
            by_epoch[record.epoch] = weights(model)

    keep = ModelCheckpoint(tmp_path, monitor="loss", mode="min", metadata=METADATA)
    result = trainer(model, callbacks=[keep, Copy()], learning_rate=0.5, epochs=4).fit()
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.metadata.epoch == result.best_epoch
    assert_identical(weights(checkpoint.model), by_epoch[result.best_epoch])
