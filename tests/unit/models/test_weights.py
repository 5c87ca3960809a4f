from __future__ import annotations

import gc
import itertools
import os
import pickle
import random
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from resomap.errors import CheckpointError, UnsafeCheckpointError
from resomap.models.registry import build_model, check_pretrained
from resomap.models.weights import classifier_names, load_weights, read_state_dict


def tiny(num_classes: int = 3, *, seed: int = 0) -> nn.Module:
    return build_model("tiny_cnn", num_classes=num_classes, seed=seed)


def equal(model: nn.Module, other: nn.Module, *, but: tuple[str, ...] = ()) -> bool:
    ours, theirs = model.state_dict(), other.state_dict()
    return all(torch.equal(v, theirs[k]) for k, v in ours.items() if k not in but)


HEAD = ("classifier.weight", "classifier.bias")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"state": {}}},
        lambda state: OrderedDict((f"module.{k}", v) for k, v in state.items()),
        lambda state: {"state_dict": {f"_orig_mod.module.{k}": v for k, v in state.items()}},
        lambda state: {"n_averaged": torch.tensor(3)} | {f"module.{k}": v for k, v in state.items()},
        lambda state: {k: v.half() for k, v in state.items() if "num_batches" not in k},
    ],
    ids=["bare", "state_dict", "model", "DataParallel", "compiled", "AveragedModel", "half precision, no counters"],
)
def test_load_weights_opens_the_usual_wrappers(wrap: object, tmp_path: Path) -> None:
    source, target = tiny(seed=1), tiny(seed=2)
    source.half().float()  # so that half precision loses nothing
    torch.save(wrap(source.state_dict()), tmp_path / "w.pth")  # type: ignore[operator]
    fit = load_weights(target, tmp_path / "w.pth")
    assert not fit.by_order
    assert fit.left_as_initialised == ()
    assert equal(target, source)


@pytest.mark.parametrize("first", [True, False])
def test_an_entry_beside_a_wrapped_model_is_the_one_that_is_named(tmp_path: Path, first: bool) -> None:
    """As Lightning stores a loss with weights of classes beside the model."""
    model, loss = {f"model.{k}": v for k, v in tiny().state_dict().items()}, {"criterion.weight": torch.ones(3)}
    torch.save({"state_dict": loss | model if first else model | loss}, tmp_path / "w.ckpt")
    with pytest.raises(CheckpointError, match=r"of the model: criterion\.weight is unknown$"):
        load_weights(tiny(), tmp_path / "w.ckpt")


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_torchscript_archive_is_called_one(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(tiny().eval(), torch.zeros(1, 3, 16, 16)), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"w\.pt is a TorchScript archive.*torch\.jit\.load\(FILE\)\.state_dict"):
        load_weights(tiny(), tmp_path / "w.pt")


def test_read_state_dict_goes_by_content_not_by_name(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "weights.pth")
    torch.save({"a": torch.ones(2)}, tmp_path / "weights.safetensors")
    for name in ("weights.pth", "weights.safetensors"):
        assert torch.equal(read_state_dict(tmp_path / name)["a"], torch.ones(2))


def test_reading_weights_again_and_again_leaves_nothing_in_memory(tmp_path: Path) -> None:
    save_file({f"w{i}": torch.ones(300, 300) for i in range(10)}, tmp_path / "w.safetensors")

    def left(times: int) -> int:
        for _ in range(times):
            read_state_dict(tmp_path / "w.safetensors")
        gc.collect()
        return sys.getallocatedblocks()

    counts = [left(20)]  # the first calls fill caches
    counts += [left(100) for _ in range(4)]
    # Mapped files left 20 blocks each time; what other threads bring is not there in every hundred.
    assert min(after - before for before, after in itertools.pairwise(counts)) < 100


def test_another_number_of_classes_leaves_the_head_as_initialised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = tiny(1000, seed=1), tiny(3, seed=2)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    with caplog.at_level("INFO"):
        fit = load_weights(target, tmp_path / "w.safetensors")
    assert fit.left_as_initialised == HEAD
    assert "left as initialised: classifier.weight, classifier.bias" in caplog.text
    assert torch.equal(target.features[0][0].weight, source.features[0][0].weight)
    assert torch.equal(target.classifier.weight, tiny(3, seed=2).classifier.weight)


def test_weights_without_a_classifier_leave_it_as_initialised(tmp_path: Path) -> None:
    trunk = {k: v for k, v in tiny(seed=1).state_dict().items() if k not in HEAD}
    save_file(trunk, tmp_path / "trunk.safetensors")
    target = tiny(seed=2)
    assert load_weights(target, tmp_path / "trunk.safetensors").left_as_initialised == HEAD
    assert equal(target, tiny(seed=1), but=HEAD)
    assert torch.equal(target.classifier.weight, tiny(seed=2).classifier.weight)


def test_other_names_in_the_same_order_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, target = tiny(5, seed=1), tiny(3, seed=2)
    renamed = {f"net{i}.{k.rpartition('.')[2]}": v for i, (k, v) in enumerate(source.state_dict().items())}
    torch.save(renamed, tmp_path / "w.pth")
    fit = load_weights(target, tmp_path / "w.pth")
    assert fit.by_order
    assert "matched by order and shape" in caplog.text  # shown: pytest keeps warnings and what is worse
    assert fit.left_as_initialised == HEAD
    assert torch.equal(target.features[2][1].running_var, source.features[2][1].running_var)


def test_order_does_not_fit_when_roles_differ(tmp_path: Path) -> None:
    """A batch norm's bias and weight have one shape: swapped, order alone would load nonsense."""
    names = list(tiny().state_dict())
    state = [(n.replace("features", "f"), v) for n, v in tiny().state_dict().items()]
    weight = names.index("features.0.1.weight")
    state[weight], state[weight + 1] = state[weight + 1], state[weight]
    torch.save(dict(state), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"features\.0\.0\.weight is missing"):
        load_weights(tiny(), tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("features.1.0.weight"), r"features\.1\.0\.weight is missing"),
        (lambda s: s.update(extra=torch.ones(1)), "extra is unknown"),
        (
            lambda s: s.update({"features.1.0.weight": torch.ones(9, 16, 3, 3)}),
            r"features\.1\.0\.weight is \(9, 16, 3, 3\), expected \(32, 16, 3, 3\)",
        ),
        (lambda s: s.update({"classifier.weight": torch.ones(3, 7)}), r"is \(3, 7\), expected \(3, 64\)"),
        (
            lambda s: s.update({"classifier.bias": torch.ones(3).int()}),
            r"is torch\.int32, expected torch\.float32",
        ),
        (lambda s: s.update({"classifier.bias": torch.full((3,), float("nan"))}), "holds NaN or infinite"),
        (
            lambda s: s.update({"features.0.0.weight": torch.full((16, 3, 3, 3), float("inf"))}),
            "holds NaN or inf",
        ),
    ],
)
def test_weights_that_do_not_fit_change_nothing(change: object, message: str, tmp_path: Path) -> None:
    state = dict(tiny(seed=1).state_dict())
    change(state)  # type: ignore[operator]
    torch.save(state, tmp_path / "w.pth")
    model = tiny(seed=2)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_weights(model, tmp_path / "w.pth", name="tiny_cnn")
    assert "\n" not in str(raised.value)
    assert equal(model, tiny(seed=2))


def test_weights_of_another_model_name_the_first_differences(tmp_path: Path) -> None:
    torch.save(build_model("simple_cnn", num_classes=3, seed=0).state_dict(), tmp_path / "simple.pth")
    with pytest.raises(CheckpointError, match=r"simple\.pth does not hold weights of tiny_cnn: .*; and \d+ more$"):
        build_model("tiny_cnn", num_classes=3, pretrained=tmp_path / "simple.pth")
    with pytest.raises(CheckpointError, match="does not hold weights of resnet18"):
        check_pretrained("resnet18", tmp_path / "simple.pth", num_classes=3)
    check_pretrained("simple_cnn", str(tmp_path / "simple.pth"), num_classes=7)


class RunsACommand:
    def __init__(self, command: str, how: object) -> None:
        self.command, self.how = command, how

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (self.how, (self.command,))


def write_zip(content: object, path: Path) -> None:
    torch.save(content, path)


def write_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_bare(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("how", [os.system, eval, exec, subprocess.getoutput], ids=lambda f: f.__name__)
@pytest.mark.parametrize("write", [write_zip, write_legacy, write_bare])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(write: object, how: object, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    command = f"touch {ran}" if how in (os.system, subprocess.getoutput) else f"open({str(ran)!r}, 'w').close()"
    path = tmp_path / "innocent\nname.pth"
    write({"state_dict": tiny().state_dict(), "note": RunsACommand(command, how)}, path)  # type: ignore[operator]
    with pytest.raises(UnsafeCheckpointError, match="was refused: loading it would run code") as raised:
        build_model("tiny_cnn", num_classes=3, pretrained=path)
    assert not ran.exists()
    assert "\n" not in str(raised.value)
    # The trap works: read without protection it does run.
    if write is write_bare:
        pickle.loads(path.read_bytes())
        assert ran.exists()


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "m.pth")
    with pytest.raises(UnsafeCheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_state_dict(tmp_path / "m.pth")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"{}",
        b"not weights, but text of some length",
        b"\x00" * 64,
        b"PK\x03\x04" + b"\x00" * 40,
        b"\x80\x02.",
    ],
)
def test_what_is_no_weights_file_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.pth is damaged or no weights file") as raised:
        read_state_dict(tmp_path / "w.pth")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [{}, {"a": 3}, [torch.ones(2)], torch.ones(2), {"state_dict": {}}])
def test_a_file_without_named_tensors_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damaged_files_never_end_in_another_error(kind: str, tmp_path: Path) -> None:
    """Truncated anywhere, or with flipped bytes: a CheckpointError, or tensors (the flip hit a value)."""
    path = tmp_path / "w.bin"
    if kind == "safetensors":
        save_file(tiny().state_dict(), path)
    else:
        (write_zip if kind == "zip" else write_legacy)(tiny().state_dict(), path)
    whole = path.read_bytes()
    chance = random.Random(0)
    for trial in range(60):
        damaged = bytearray(whole[: chance.randrange(len(whole))] if trial % 2 else whole)
        for _ in range(chance.randrange(1, 20) if damaged else 0):
            # The first kilobytes and the last hold the structure.
            at = chance.choice([chance.randrange(len(damaged)), chance.randrange(min(4096, len(damaged)))])
            damaged[at] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            assert read_state_dict(path)
        except CheckpointError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_missing_folder_and_forbidden_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.pth is missing; give the path"):
        read_state_dict(tmp_path / "nothing.pth")
    with pytest.raises(CheckpointError, match="is a folder or device"):
        read_state_dict(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # reading one would wait for ever
    with pytest.raises(CheckpointError, match="is a folder or device"):
        read_state_dict(tmp_path / "pipe")


def test_classifier_names_come_from_timm_or_are_the_last_layer() -> None:
    assert classifier_names(build_model("resnet18", num_classes=2, seed=0)) == ("fc",)
    assert classifier_names(tiny()) == ("classifier",)
