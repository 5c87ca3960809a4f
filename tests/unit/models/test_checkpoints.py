from __future__ import annotations

import json
import re
import sys
import types
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from resomap.errors import CheckpointError, UnsafeCheckpointError
from resomap.models.checkpoints import (
    load_checkpoint,
    make_metadata,
    read_metadata,
    save_weights,
    write_metadata,
)
from resomap.models.registry import build_model, count_parameters
from resomap.records import Preprocessing

PREPROCESSING = Preprocessing(64, "lanczos", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def fields(**changed: Any) -> dict[str, Any]:
    return {
        "model": "tiny_cnn",
        "family": "cnn",
        "resolution": 64,
        "class_names": ["ants", "bees"],
        "preprocessing": asdict(PREPROCESSING),
        "seed": 0,
        "epoch": 3,
        "monitor": "macro_f1",
        "mode": "max",
        "metrics": {"macro_f1": 0.75, "loss": float("nan")},
        "key": "abc",
        **changed,
    }


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run as training leaves it: weights without a header of ours, metadata.json beside them."""
    model = build_model("tiny_cnn", num_classes=2, seed=7)
    folder = tmp_path / "run"
    folder.mkdir()
    save_file(model.state_dict(), folder / "best_model.safetensors")
    write_metadata(folder / "metadata.json", **fields(parameters=count_parameters(model)))
    return folder


@pytest.mark.parametrize("inside", ["", "best_model.safetensors", "metadata.json"])
def test_load_checkpoint_takes_the_folder_or_a_file_in_it(run_dir: Path, inside: str) -> None:
    checkpoint = load_checkpoint(run_dir / inside)
    expected = build_model("tiny_cnn", num_classes=2, seed=7)
    images = torch.rand(2, 3, 64, 64)
    assert not checkpoint.model.training
    assert torch.equal(checkpoint.model(images), expected.eval()(images))
    assert checkpoint.preprocessing == PREPROCESSING
    assert checkpoint.metadata.class_names == ("ants", "bees")
    assert checkpoint.metadata.num_classes == 2
    # NaN cannot be written as JSON.
    assert checkpoint.metadata.metrics == {"macro_f1": 0.75, "loss": None}
    assert set(checkpoint.metadata.versions) >= {"torch", "timm"}


def test_load_checkpoint_leaves_the_random_state_alone(run_dir: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load_checkpoint(run_dir)
    assert torch.equal(torch.rand(1), expected)


def test_torch_files_are_checkpoints_too(run_dir: Path) -> None:
    (run_dir / "best_model.safetensors").unlink()
    torch.save(build_model("tiny_cnn", num_classes=2, seed=8).state_dict(), run_dir / "best_model.pt")
    assert load_checkpoint(run_dir).path.name == "best_model.pt"


def test_a_lone_weights_file_carries_its_metadata(tmp_path: Path) -> None:
    model = build_model("simple_cnn", num_classes=2, seed=1, specs={"simple_cnn": {"channels": [4, 6]}})
    metadata = make_metadata(**fields(model="simple_cnn", model_spec={"channels": [4, 6]}))
    save_weights(tmp_path / "moved.safetensors", model, metadata=metadata)
    checkpoint = load_checkpoint(tmp_path / "moved.safetensors")
    assert checkpoint.metadata == metadata
    assert torch.equal(checkpoint.model.classifier.weight, model.classifier.weight)


def test_the_header_wins_over_a_stale_file_beside_it(run_dir: Path) -> None:
    """A kill between writing weights and metadata.json leaves the metadata of an earlier epoch."""
    model = build_model("tiny_cnn", num_classes=2, seed=9)
    save_weights(run_dir / "best_model.safetensors", model, metadata=make_metadata(**fields(epoch=9)))
    assert read_metadata(run_dir).epoch == 3
    assert load_checkpoint(run_dir).metadata.epoch == 9


def test_save_weights_writes_tied_and_strided_tensors(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    save_weights(tmp_path / "w.safetensors", {"a": shared, "b": shared, "c": shared.T})
    from resomap.models.weights import read_state_dict

    read = read_state_dict(tmp_path / "w.safetensors")
    assert torch.equal(read["a"], shared)
    assert torch.equal(read["b"], shared)
    assert torch.equal(read["c"], shared.T)


def rewrite(run_dir: Path, **changed: Any) -> None:
    content = json.loads((run_dir / "metadata.json").read_text())
    content.update(changed)
    (run_dir / "metadata.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "resnet18"}, "does not hold weights of resnet18"),
        ({"model": "no_such_net"}, "its model cannot be built: no model is called 'no_such_net'"),
        ({"model": "a\x1b[2J"}, "its model cannot be built"),
        ({"model": ""}, "model: String should have at least 1 character"),
        ({"class_names": ["ants"]}, "num_classes is 2, but 1 are named"),
        (
            {"class_names": ["a", "b", "c"], "num_classes": 3},
            r"classifier\.weight is \(2, 64\), expected \(3, 64\)",
        ),
        ({"class_names": "ants"}, "class_names"),
        ({"num_classes": 10**15}, "num_classes is 1000000000000000"),
        ({"parameters": 12}, "has 23784|has 23,784|parameters, the metadata says 12"),
        ({"resolution": -5}, "resolution: Input should be greater than or equal to 1"),
        ({"resolution": "big"}, "resolution"),
        ({"preprocessing": None}, "preprocessing"),
        ({"preprocessing": {**asdict(PREPROCESSING), "std": [0, 1, 1]}}, r"preprocessing\.std\.0"),
        ({"preprocessing": {**asdict(PREPROCESSING), "mean": [1e300, 1, 1]}}, r"preprocessing\.mean\.0"),
        ({"preprocessing": {**asdict(PREPROCESSING), "kernel": "../x"}}, r"preprocessing\.kernel"),
        ({"model_spec": {"channels": [10**9]}}, "its model cannot be built: channels: whole numbers"),
        ({"model_spec": {"channels": 3}}, "its model cannot be built"),
        ({"model_spec": {"evil": 3}}, "its model cannot be built"),
        ({"format": 2}, "has format 2, this version reads 1; update resomap"),
        ({"format": 0}, "format"),
        ({"seed": None}, "seed"),
        ({"mode": "sideways"}, "mode"),
    ],
)
def test_hostile_or_foreign_metadata_is_refused_in_one_line(
    run_dir: Path, changed: dict[str, Any], message: str
) -> None:
    rewrite(run_dir, **changed)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_checkpoint(run_dir)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "[" * 100_000, '{"resolution": NaN}', "\xff"])
def test_damaged_metadata_is_refused_in_one_line(run_dir: Path, text: str) -> None:
    (run_dir / "metadata.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"metadata\.json is (damaged|no valid checkpoint)") as raised:
        load_checkpoint(run_dir)
    assert "\n" not in str(raised.value)


def test_metadata_that_names_code_is_refused_unless_allowed(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    module = types.ModuleType("strangers_nets")

    def make(num_classes: int) -> nn.Module:
        ran.append(num_classes)
        return build_model("tiny_cnn", num_classes=num_classes)

    module.make = make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "strangers_nets", module)
    rewrite(run_dir, model="strangers_nets:make")
    with pytest.raises(UnsafeCheckpointError, match="its model 'strangers_nets:make' would run code"):
        load_checkpoint(run_dir)
    assert ran == []
    assert load_checkpoint(run_dir, allow_callables=True).metadata.model == "strangers_nets:make"


def test_a_giant_model_is_refused_before_it_is_allocated(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 100 kB file cannot hold VGG16 (550 MB): found out from shapes alone."""

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights were allocated")

    monkeypatch.setattr("resomap.models.checkpoints.construct", never)
    rewrite(run_dir, model="vgg16")
    with pytest.raises(CheckpointError, match="does not hold weights of vgg16"):
        load_checkpoint(run_dir)


def test_missing_parts_are_named(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere is missing or no file; give a run's folder"):
        load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty holds no best_model\.safetensors"):
        load_checkpoint(tmp_path / "empty")
    (run_dir / "metadata.json").unlink()
    with pytest.raises(CheckpointError, match=r"metadata\.json is missing"):
        load_checkpoint(run_dir)
    (run_dir / "best_model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"best_model\.safetensors|metadata\.json"):
        load_checkpoint(run_dir)


def test_truncated_weights_are_refused(run_dir: Path) -> None:
    path = run_dir / "best_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"best_model\.safetensors is damaged"):
        load_checkpoint(run_dir)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"colour": 3}, "unknown metadata fields: colour"),
        ({"class_names": []}, "class_names"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_write_metadata_writes_nothing_wrong(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        write_metadata(tmp_path / "metadata.json", **fields(**changed))
    assert list(tmp_path.iterdir()) == []


def test_read_metadata_ignores_what_a_later_version_added(run_dir: Path) -> None:
    rewrite(run_dir, something_new={"a": 1})
    assert read_metadata(run_dir / "metadata.json") == read_metadata(run_dir)


def test_load_checkpoint_refuses_weights_with_one_changed_bit(tmp_path: Path) -> None:
    model = build_model("tiny_cnn", num_classes=2, seed=7)
    path = save_weights(tmp_path / "best_model.safetensors", model, metadata=make_metadata(**fields()))
    data, names = path.read_bytes(), [(n.start(), n.end()) for n in re.finditer(rb"resomap\.sha256", path.read_bytes())]
    load_checkpoint(path)
    assert (len(names), len(data) >= 400) == (1, True)  # so that at least 300 bits are changed in turn
    for position in range(0, len(data), max(1, len(data) // 400)):
        if any(start <= position < end for start, end in names):
            continue  # without its name the checksum is free text; the weights are what they were
        path.write_bytes(data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :])
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(path)


def test_sealed_weights_are_plain_safetensors(tmp_path: Path) -> None:
    tensors = {"w": torch.arange(5.0), "flag": torch.tensor([True]), "n": torch.tensor(3)}
    back = load_file(save_weights(tmp_path / "w.safetensors", tensors))
    assert {name: tensor.tolist() for name, tensor in back.items()} == {n: t.tolist() for n, t in tensors.items()}
