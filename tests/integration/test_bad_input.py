"""What a user can get wrong: one line that says so, a non-zero exit, nothing lost. docs/bad-input.md lists it.

Each case prepares its trouble and returns the arguments of a run (or another command).
"""

from __future__ import annotations

import errno
import io
import os
import pickle
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

Make = Callable[..., Path]
Args = Callable[..., list[str]]
Case = Callable[[Path, Make, Args], list[str]]

CASES: dict[str, tuple[Case, str]] = {}


def case(name: str, message: str) -> Callable[[Case], Case]:
    """Register a case with the regular expression that its one error line must match."""

    def register(prepare: Case) -> Case:
        CASES[name] = (prepare, message)
        return prepare

    return register


def jpeg_bytes() -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def forged_png(width: int, height: int) -> bytes:
    """A PNG header that promises width x height pixels, and nothing else."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@case("missing folder", r"nowhere.*(not|no such|does not exist)")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(tmp / "nowhere")


@case("a file instead of a folder", r"file\.txt")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    (tmp / "file.txt").write_text("x")
    return args(tmp / "file.txt")


@case("a folder without images", r"empty")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    (tmp / "empty").mkdir()
    return args(tmp / "empty")


@case("an empty class", r"hollow")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    data = make(tmp / "data")
    for split in ("train", "val", "test"):
        (data / split / "hollow").mkdir()
    return args(data)


@case("a single class", r"one class|only class|2 classes|two classes")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(make(tmp / "data", classes=("alone",)))


@case("one image per class", r"dark.*1|1.*dark")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(make(tmp / "data", splits={".": 1}))


@case("splits with different classes", r"extra")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    data = make(tmp / "data")
    shutil.copytree(data / "train" / "dark", data / "train" / "extra")
    return args(data)


@case("a truncated JPEG", r"cut\.jpg")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    data = make(tmp / "data")
    (data / "train" / "dark" / "cut.jpg").write_bytes(jpeg_bytes()[:900])
    return args(data)


@case("text named .jpg", r"notes\.jpg")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    data = make(tmp / "data")
    (data / "val" / "light" / "notes.jpg").write_text("these are not pixels")
    return args(data)


@case("an empty file", r"nothing\.png")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    data = make(tmp / "data")
    (data / "test" / "light" / "nothing.png").touch()
    return args(data)


@case("a decompression bomb of 30,000 x 30,000 px", r"bomb\.png")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    data = make(tmp / "data")
    (data / "train" / "dark" / "bomb.png").write_bytes(forged_png(30_000, 30_000))
    return args(data)


@case("a broken file whose name holds a newline and an escape", r"a\\nb\\x1b\[31m\.png")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    data = make(tmp / "data")
    (data / "train" / "dark" / "a\nb\x1b[31m.png").write_text("x")
    return args(data)


@case("an unknown key in --set", r"training\.learning_rte.*learning_rate")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(make(tmp / "data"), "--set", "training.learning_rte=0.1")


@case("an unknown key in a file", r"training\.yaml.*epoch\b.*epochs")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    (tmp / "configs").mkdir()
    (tmp / "configs" / "training.yaml").write_text("epoch: 3\n")
    return args(make(tmp / "data"), "--config", str(tmp / "configs"))


@case("a wrong type", r"training\.learning_rate.*many")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(make(tmp / "data"), "--set", "training.learning_rate=many")


@case("YAML that does not parse", r"broken\.yaml.*line")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    (tmp / "broken.yaml").write_text("training: {epochs: 3\nsweep: [")
    return args(make(tmp / "data"), "--config", str(tmp / "broken.yaml"))


@case("a configuration that is not there", r"absent\.yaml")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(make(tmp / "data"), "--config", str(tmp / "absent.yaml"))


@case("resolution 0", r"sweep\.resolutions\[0\].*0")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(make(tmp / "data"), "--resolutions", "0")


@case("resolution -1", r"sweep\.resolutions\[1\].*-1")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(make(tmp / "data"), "--resolutions", "32,-1")


@case("resolution 225", r"225.*224")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(make(tmp / "data"), "--resolutions", "225")


@case("resolution 'big'", r"sweep\.resolutions\[0\].*big")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(make(tmp / "data"), "--resolutions", "big")


@case("sizes of a probe out of bounds", r"sweep\.resolutions\[0\].*>= 16 and <= 4096, got 8\n.*\[1\].*got 10000")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    named = ["--model", "tiny_cnn", "--weights", str(tmp / "weights.pth"), "--data", str(make(tmp / "data"))]
    return ["probe", *named, "--resolutions", "8,10000"]


@case("a size of a probe twice", r"sweep.*resolutions lists 32 more than once")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    named = ["--model", "tiny_cnn", "--weights", str(tmp / "weights.pth"), "--data", str(make(tmp / "data"))]
    return ["probe", *named, "--resolutions", "32,64,32"]


@case("an unknown model", r"resnet19.*resnet")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(make(tmp / "data"), "--models", "resnet19")


@case("code of the user's without permission", r"os:getcwd.*allow_callables")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(make(tmp / "data"), "--models", "os:getcwd")


@case("code of the user's that raises an error", r"models\[0\]: torch\.nn:Module raised TypeError.*mend that code")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    named = ["--models", "torch.nn:Module", "--set", "models.allow_callables=true"]
    return args(make(tmp / "data"), *named, "--resolutions", "32,64")


@case("weights that are not there", r"weights\.pth")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(make(tmp / "data"), "--pretrained", str(tmp / "weights.pth"))


@case("a device that is not there", r"cuda|warp")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(make(tmp / "data"), "--set", "system.device=warp", "--device", "warp")


@case("fp16 on a CPU", r"fp16")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(make(tmp / "data"), "--set", "system.mixed_precision=fp16")


@case("an unknown torchvision data set", r"torchvision:Oxfrod")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args("torchvision:OxfrodIIITPet")


@case("an output below a file", r"cannot write.*a file stands")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    (tmp / "occupied").write_text("x")
    return args(make(tmp / "data"), output="occupied/study")


@case("a checkpoint that is not there", r"gone")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return ["evaluate", str(tmp / "gone"), "--data", str(make(tmp / "data"))]


@case("status of something that is no study", r"is not a study")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return ["status", str(tmp)]


@case("a list that names one thing twice", r"sweep.*more than once")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(make(tmp / "data"), "--resolutions", "32,32")


@case("a warm-up longer than the training", r"warmup_epochs 10 is above epochs 4")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(make(tmp / "data"), "--epochs", "4", "--set", "training.warmup_epochs=10")


@case("a micro-batch larger than the batch", r"micro_batch 9 is above batch_size 8")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(make(tmp / "data"), "--batch-size", "8", "--set", "training.micro_batch=9")


@case("one image at once for a network that BatchNorm cannot train on it", r"training\.micro_batch.*resnet18 @32.*to 2")
def _(tmp: Path, make: Make, args: Args) -> list[str]:
    return args(make(tmp / "data"), "--models", "resnet18", "--set", "training.micro_batch=1")


@pytest.mark.parametrize("name", list(CASES))
def test_bad_input_is_one_clear_line(
    name: str,
    tmp_path: Path,
    make_images: Make,
    small_run: Args,
    cli: Callable[..., object],
) -> None:
    prepare, message = CASES[name]
    outcome = cli(*prepare(tmp_path, make_images, small_run))
    assert outcome.status == 2
    assert "Traceback" not in outcome.err
    assert re.search(message, "\n".join(outcome.error_lines)), outcome.err
    assert len(outcome.error_lines) <= 3


def test_bad_input_every_case_stands_in_the_docs() -> None:
    table = (Path(__file__).parents[2] / "docs" / "bad-input.md").read_text()
    assert [name for name in CASES if f"| {name} |" not in table] == []


def test_all_configuration_problems_come_together(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., object]
) -> None:
    trouble = ["--set", "training.gamma=many", "--set", "data.kernl=box", "--set", "sytem.device=cpu"]
    outcome = cli(*small_run(make_images(tmp_path / "data"), *trouble))
    assert outcome.status == 2
    assert len(outcome.error_lines) == 3


def test_skip_goes_on_without_bad_files_and_records_them(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., object]
) -> None:
    data = make_images(tmp_path / "data")
    (data / "train" / "dark" / "bad.jpg").write_bytes(jpeg_bytes()[:900])
    outcome = cli(*small_run(data, "--set", "data.on_bad_file=skip"))
    assert outcome.status == 0, outcome.err
    assert "1 unreadable file left out" in outcome.err
    assert "bad.jpg" in (tmp_path / "study" / "results.json").read_text()


def test_names_with_unicode_newlines_and_html_are_carried_through(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., object]
) -> None:
    classes = ("<b>été</b>".replace("/", "_"), "鳥\n-rf")
    outcome = cli(*small_run(make_images(tmp_path / "data", classes=classes)))
    assert outcome.status == 0, outcome.err


def test_nan_loss_fails_that_run_and_the_study_goes_on(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., object]
) -> None:
    import pandas as pd

    # Weight decay times learning rate of 1e30 overflows float32 at the second update.
    blow_up = ["--set", "training.learning_rate=1e30", "--seeds", "0,1"]
    outcome = cli(*small_run(make_images(tmp_path / "data"), *blow_up))
    assert outcome.status == 1
    frame = pd.read_csv(tmp_path / "study" / "results.csv")
    assert list(frame["status"]) == ["failed", "failed"]
    assert frame["error"].str.contains(r"loss became.*epoch.*learning rate").all()
    assert "Traceback" not in outcome.err


def test_malicious_pickle_is_refused_and_not_run(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., object]
) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "was-run"),)

    hostile = tmp_path / "weights.pth"
    torch.save({"features.weight": Bomb()}, hostile)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Bomb()))
    data = make_images(tmp_path / "data")
    for path in (hostile, tmp_path / "plain.pkl"):
        outcome = cli(*small_run(data, "--pretrained", str(path)))
        assert outcome.status in (1, 2)
        assert not (tmp_path / "was-run").exists()
        assert "Traceback" not in outcome.err


def test_weights_of_another_model_are_refused(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., object]
) -> None:
    from safetensors.torch import save_file

    save_file({"stem.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    outcome = cli(*small_run(make_images(tmp_path / "data"), "--pretrained", str(tmp_path / "other.safetensors")))
    assert outcome.status in (1, 2)
    assert "Traceback" not in outcome.err
    assert "other.safetensors" in outcome.err + outcome.out


def test_changed_setting_is_named_and_nothing_is_overwritten(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., object]
) -> None:
    data = make_images(tmp_path / "data")
    assert cli(*small_run(data)).status == 0
    weights = next((tmp_path / "study").rglob("best_model.safetensors"))
    before = weights.read_bytes()
    outcome = cli(*small_run(data, "--set", "training.learning_rate=0.01"))
    assert outcome.status == 2
    assert "training.learning_rate: 0.001 -> 0.01" in outcome.err
    assert weights.read_bytes() == before
    assert cli(*small_run(data, "--set", "training.learning_rate=0.01", "--discard-changed")).status == 0
    assert weights.read_bytes() != before


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "no space left"), (errno.EROFS, "read-only")])
def test_failing_disk_stops_with_one_line_and_goes_on_once_it_is_mended(
    number: int,
    words: str,
    tmp_path: Path,
    make_images: Make,
    small_run: Args,
    cli: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = make_images(tmp_path / "data")
    assert cli(*small_run(data, output="reference")).status == 0
    real, calls = os.fsync, [0]

    def fsync(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] > 25:  # after the preparations, during training
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    outcome = cli(*small_run(data))
    assert outcome.status == 2
    assert words in outcome.err
    assert len(outcome.error_lines) == 1
    assert not list((tmp_path / "study").rglob("*.tmp"))
    monkeypatch.setattr(os, "fsync", real)
    assert cli(*small_run(data)).status == 0
    assert best_weights(tmp_path / "study") == best_weights(tmp_path / "reference")


def best_weights(study: Path) -> bytes:
    return next(study.rglob("best_model.safetensors")).read_bytes()


def test_cache_deleted_between_epochs_changes_nothing(
    tmp_path: Path,
    make_images: Make,
    small_run: Args,
    cli: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from resomap.study.observer import RunObserver

    data = make_images(tmp_path / "data")
    assert cli(*small_run(data, "--resolutions", "32,64", output="reference")).status == 0
    original = RunObserver.on_epoch_end

    def delete_cache(self: RunObserver, *arguments: object) -> None:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(RunObserver, "on_epoch_end", delete_cache)
    assert cli(*small_run(data, "--resolutions", "32,64")).status == 0
    assert best_weights(tmp_path / "study") == best_weights(tmp_path / "reference")


def test_no_permission_on_data_or_output(
    tmp_path: Path,
    make_images: Make,
    small_run: Args,
    cli: Callable[..., object],
    without_privileges: Callable[[], AbstractContextManager[None]],
) -> None:
    data = make_images(tmp_path / "data")
    assert cli(*small_run(data)).status == 0  # also loads every module while root may read them
    locked = data / "train" / "dark" / "locked.png"
    shutil.copy(next((data / "train" / "dark").glob("*.png")), locked)
    locked.chmod(0)
    (tmp_path / "cache2").mkdir()
    (tmp_path / "cache2").chmod(0o777)
    (tmp_path / "closed").mkdir(mode=0o555)
    with without_privileges():
        unreadable = cli(*small_run(data, "--set", f"data.cache_dir={tmp_path / 'cache2'}"))
        locked_output = cli(*small_run(data, output="closed/forbidden"))
    for outcome in (unreadable, locked_output):
        assert outcome.status == 2
        assert "ermission" in outcome.err
        assert "Traceback" not in outcome.err


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut short"], ids=["empty", "cut"])
def test_damaged_state_of_an_interrupted_run_is_named(
    damage: bytes, tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., object]
) -> None:
    from resomap.layout import LAST_STATE

    data = make_images(tmp_path / "data")
    assert cli(*small_run(data)).status == 0
    run_json = next((tmp_path / "study").rglob("run.json"))
    run_json.write_text(run_json.read_text().replace('"finished"', '"running"'))
    (run_json.parent / LAST_STATE).write_bytes(damage)
    outcome = cli(*small_run(data))
    assert outcome.status == 1
    assert "last.pt" in outcome.err
    assert "Traceback" not in outcome.err


def test_resolved_configuration_is_plain_yaml(cli: Callable[..., object]) -> None:
    outcome = cli("config", "--resolutions", "64,96")
    assert yaml.safe_load(outcome.out)["sweep"]["resolutions"] == [64, 96]
