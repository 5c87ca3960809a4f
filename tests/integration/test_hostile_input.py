"""Files and names made to do harm: refused in one line, nothing of them run. docs/security.md lists them.

What only a mistake could make stands in test_bad_input.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from resomap.config import load_config
from resomap.config.yaml_text import YamlTextError, parse
from resomap.data.decode import decode_rgb
from resomap.data.folder import find_images
from resomap.data.signatures import read_signatures
from resomap.errors import BadImageError, CheckpointError, ConfigError, StudyError, UnsafeCheckpointError
from resomap.evaluation.store import read_predictions, write_predictions
from resomap.explainability.store import read_maps
from resomap.layout import StudyLayout, folder_name
from resomap.models.checkpoints import load_checkpoint, make_metadata
from resomap.models.weights import read_state_dict
from resomap.printable import printable
from resomap.records import Cell, Condition, Predictions, Preprocessing
from resomap.serialize import read_json
from resomap.study.runs import read_run
from resomap.study.status import study_status
from resomap.training.last_state import read_state

RECIPE = Preprocessing(32, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Bomb:
    """Makes the folder `path` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """What a bomb would make; it must not exist after the test."""
    path = tmp_path / "was-run"
    yield path
    assert not path.exists()


def about(**changes: Any) -> dict[str, Any]:
    """A checkpoint's metadata."""
    fields = {"model": "tiny_cnn", "family": "cnn", "resolution": 32, "class_names": ["a", "b"], "seed": 0}
    made = make_metadata(preprocessing=RECIPE, **fields).model_dump(mode="json")
    return made | changes


# Pickles


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("reader", [read_state_dict, read_state, load_checkpoint])
def test_no_pickle_is_run(protocol: int, reader: Callable, tmp_path: Path, sprung: Path) -> None:
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": Bomb(sprung)}, protocol=protocol))
    torch.save({"a": Bomb(sprung)}, tmp_path / "zip.pt")
    torch.save({"a": Bomb(sprung)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "metadata.json").write_text(json.dumps(about()))
    for name in ("plain.pt", "zip.pt", "old.pt"):
        with pytest.raises(CheckpointError):
            reader(tmp_path / name)


def test_a_refused_pickle_is_called_what_it_is(tmp_path: Path, sprung: Path) -> None:
    torch.save({"a": Bomb(sprung)}, tmp_path / "w.pt")
    with pytest.raises(UnsafeCheckpointError, match=r"refused: loading it would run code.*mkdir"):
        read_state_dict(tmp_path / "w.pt")


def test_object_arrays_in_npz_are_refused(tmp_path: Path, sprung: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, header=np.array([Bomb(sprung)], dtype=object), allow_pickle=True)
    with pytest.raises(StudyError, match="damaged"):
        read_maps(path)
    np.savez(path, format=np.array(1), keys=np.array([Bomb(sprung)], dtype=object), allow_pickle=True)
    assert read_signatures({}, index=path) == {}


def test_array_headers_that_do_not_end_are_refused(tmp_path: Path) -> None:
    """numpy reads them with Python's tokenizer, which has an error of its own."""
    header = b"{'descr': '<f4', 'fortran_order': Fals".ljust(117) + b"\n"
    for name, read in (("m.npz", read_maps), ("s.npz", lambda path: read_signatures({}, index=path))):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member in ("header.npy", "format.npy"):
                archive.writestr(member, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        if name == "m.npz":
            with pytest.raises(StudyError, match="damaged"):
                read(tmp_path / name)
        else:
            assert read(tmp_path / name) == {}


def test_pickled_types_in_parquet_are_not_built(tmp_path: Path, sprung: Path) -> None:
    """arrow.py_extension_type is how pyarrow once pickled Python types (CVE-2023-47248)."""
    path = tmp_path / "p.parquet"
    field = pa.field(
        "label",
        pa.int64(),
        metadata={
            "ARROW:extension:name": "arrow.py_extension_type",
            "ARROW:extension:metadata": pickle.dumps(Bomb(sprung)).decode("latin1"),
        },
    )
    schema = pa.schema([field], metadata={"resomap": json.dumps({"class_names": ["a", "b"]})})
    pq.write_table(pa.table([pa.array([0])], schema=schema), path)
    with pytest.raises(StudyError, match="damaged"):
        read_predictions(path)


# Bombs: files that promise or unpack to more than there is


def test_npz_that_unpacks_to_terabytes_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resomap.explainability.store._LARGEST_BYTES", 2**30)
    path = tmp_path / "m.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.npy", b"\0" * 2**20)
    content = path.read_bytes().replace(struct.pack("<I", 2**20), struct.pack("<I", 0xFFFFFFF0))
    path.write_bytes(content)
    with pytest.raises(StudyError, match="unpacks to 4,294,967,280 bytes"):
        read_maps(path)


def test_parquet_that_promises_too_many_rows_is_refused_from_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Predictions(np.array(["i"] * 600), np.zeros(600, int), np.zeros((600, 2), np.float32), ("a", "b"))
    path = write_predictions(tmp_path / "p.parquet", answers, cell=Cell("m", 32, 0), condition=Condition("val", 32, 32))
    assert len(read_predictions(path).labels) == 600
    monkeypatch.setattr("resomap.evaluation.store._MOST_PROBABILITIES", 1000)
    with pytest.raises(StudyError, match="600 rows for 2 classes"):
        read_predictions(path)


@pytest.mark.parametrize(
    "header",
    [
        b"\xff" * 8 + b"{",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        *(
            struct.pack("<Q", len(text)) + text
            for text in (
                b'{"a":{"dtype":"F32","shape":[99999999999,99999999],"data_offsets":[0,18446744073709551615]}}',
                b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
                b'{"__metadata__":{"resomap":"' + b"[" * 100_000 + b'"}}',
                b'{"__metadata__":{"resomap":"{\\"format\\": 1e400}"}}',
            )
        ),
    ],
)
def test_safetensors_headers_that_lie_are_refused(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "best_model.safetensors"
    path.write_bytes(header)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    def framed(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"".join(framed(kind, data) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + framed(b"IHDR", header) + body + framed(b"IEND", b"")


def tiff(width: int, height: int) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8),
            (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 8)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


def bombs() -> dict[str, bytes]:
    text = b"k\0\0" + zlib.compress(b"\0" * 2**27)
    gif = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0" + struct.pack("<HHB", 65535, 65535, 0)
    bmp = (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, -(2**31), 1, 24, *[0] * 6)
    )
    return {
        "huge.png": png(2**31 - 1, 2**31 - 1, (b"IDAT", b"")),
        "text.png": png(8, 8, (b"zTXt", text), (b"IDAT", zlib.compress(b"\0" * 200))),
        "profile.png": png(8, 8, (b"iCCP", text), (b"IDAT", zlib.compress(b"\0" * 200))),
        "pixels.png": png(8, 8, (b"IDAT", zlib.compress(b"\0" * 2**27))),
        "huge.tif": tiff(2**31, 2**31),
        "huge.gif": gif,
        "huge.bmp": bmp,
        "huge.ppm": b"P6 99999999999 99999999999 255\n",
        "huge.pgm": b"P5 " + b"9" * 5000 + b" 1 255\n",
    }


@pytest.mark.parametrize("name", list(bombs()))
def test_image_bombs_take_no_memory(name: str, tmp_path: Path) -> None:
    import resource

    (tmp_path / name).write_bytes(bombs()[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(BadImageError):
        # More data than the header promises is left unread.
        assert decode_rgb(tmp_path / name).size == (8, 8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024


# YAML and JSON


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.mkdir [was-run]",
        "a: !!python/name:os.system",
        "!<tag:yaml.org,2002:python/object/new:os.system> [x]",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
        "a: &a [*a]",
        "a: " + "[" * 500,
        "{" * 100_000,
        "<<: {a: 1}",
        "? [a, b]\n: 1",
        "a: " + "9" * 10_000,
        'a: "\\U' + "9" * 400 + '"',
        'a: "\\UFFFFFFFF"',
    ],
)
def test_hostile_yaml_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError):
        load_config(tmp_path / "c.yaml")
    if not text.startswith("<<"):
        with pytest.raises(YamlTextError):
            parse(text)


def test_status_of_a_study_whose_yaml_is_a_bomb(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))]
    (tmp_path / "study.yaml").write_text("\n".join(lines) + "\nprovenance: {cells: *a39}\n")
    with pytest.raises(StudyError, match="alias"):
        study_status(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "\ud800", "", "nul", "\x00"])
def test_hostile_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError):
        read_json(tmp_path / "metadata.json", error=CheckpointError)


@pytest.mark.parametrize(
    "changes",
    [
        {"resolution": -1}, {"resolution": 10**30}, {"resolution": float("nan")}, {"resolution": True},
        {"num_classes": 10**9}, {"class_names": []}, {"seed": 1e400}, {"format": 10**30}, {"epoch": "x" * 10**6},
        {"preprocessing": {"resolution": 32, "kernel": "bilinear", "mean": [0, 0, 0], "std": [1, 1, 0]}},
        {"preprocessing": {"resolution": 32, "kernel": "../x", "mean": [0, 0, 0], "std": [1, 1, 1]}},
        {"model": "../../etc/passwd"}, {"model": ""}, {"model": "os:system"}, {"model": "hf-hub:a/b"},
        {"model": "\x1b]0;owned\x07"}, {"model_spec": {"channels": [10**9], "kernel_size": 3}},
        {"model_spec": {"channels": "x"}}, {"model_spec": {"__class__": "x"}},
    ],
)  # fmt: skip
def test_hostile_metadata_is_refused_in_one_line(changes: dict[str, Any], tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "best_model.safetensors")
    (tmp_path / "metadata.json").write_text(json.dumps(about(**changes)))
    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(tmp_path)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1000


# Names that become paths, and links


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/passwd", "..", ".", "", "a/../../b", "a\\b", "\0", "a\nb", "$(id)", "<b>", "x" * 500, "é"]
)
def test_no_name_leaves_the_study(name: str, tmp_path: Path) -> None:
    layout = StudyLayout(tmp_path)
    cell, condition = Cell(name, 32, 0), Condition(name, 32, 32, name)
    paths = [
        layout.run_dir(cell, name), layout.predictions_path(cell, condition), layout.maps_path(cell, name),
        layout.profile_path(name, 32), layout.locks_dir / layout.lease_name(cell), layout.summary_dir(name, 32),
        tmp_path / folder_name(name),
    ]  # fmt: skip
    for path in paths:
        assert Path(os.path.normpath(path)).is_relative_to(tmp_path)
        assert ".." not in path.parts
        assert str(path).isascii()
        assert str(path).isprintable()
        assert len(path.parts) > len(tmp_path.parts)


def test_a_run_record_with_a_name_for_the_terminal_is_refused(tmp_path: Path) -> None:
    cell = {"model": "\x1b]0;owned\x07", "resolution": 32, "seed": 0}
    record = {"cell": cell, "family": "f", "key": "", "determinants": {}, "status": "finished", "epochs": []}
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(StudyError) as refused:
        read_run(tmp_path / "run.json")
    assert str(refused.value).isprintable()


def test_links_that_loop_or_lead_out_end(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    root = make_images(tmp_path / "data", splits={"train": 3, "val": 2})
    os.symlink(root / "train", root / "train" / "dark" / "again")
    os.symlink("self", root / "train" / "dark" / "self")
    os.symlink("b.png", root / "train" / "dark" / "a.png")
    os.symlink("a.png", root / "train" / "dark" / "b.png")
    os.symlink("/dev/zero", root / "train" / "light" / "endless.png")
    found = find_images(root)
    assert len(found.splits["train"]) == 9
    assert any("links to folders already read" in note for note in found.notes)
    for name, reason in (("dark/a.png", "loop"), ("light/endless.png", "device")):
        with pytest.raises(BadImageError, match=reason):
            decode_rgb(root / "train" / name)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.timeout(60)
def test_pipes_and_devices_are_not_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "metadata.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        os.symlink("/dev/zero", path)
    else:
        path.mkdir()
    readers = (lambda: read_json(path), lambda: read_state(path), lambda: read_predictions(path))
    for read in readers:
        with pytest.raises(
            (StudyError, CheckpointError, Exception), match=r"cannot read .*(directory|pipe or a device)"
        ):
            read()
    with pytest.raises(CheckpointError):
        read_state_dict(path)


@pytest.mark.parametrize("name", ["../escaped.txt", "/tmp/resomap-escaped.txt"])
def test_archives_of_torchvision_sets_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    from torchvision.datasets.utils import extract_archive

    from resomap.data.torchvision_source import _careful_tar

    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(tarfile.TarError), _careful_tar():
        extract_archive(str(tmp_path / "a.tar"), str(tmp_path / "into"))
    assert not (tmp_path / "escaped.txt").exists()
    assert not Path("/tmp/resomap-escaped.txt").exists()
    assert not os.path.lexists(tmp_path / "into" / "link")


# Names on a terminal and code from a file


def test_names_of_classes_and_files_do_not_reach_the_terminal_raw(
    tmp_path: Path, make_images: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    classes = ("\x1b]0;owned\x07", "\u202egnp.\r[red]$(id)`id`")
    data = make_images(tmp_path / "data", classes=classes)
    Image.new("RGB", (1, 1)).save(data / "train" / classes[0] / "\x1b[2J\n.png")
    (data / "train" / classes[0] / "broken\x1b[2J\n.png").write_bytes(b"no image")
    outcome = cli("audit", data, "--set", f"data.cache_dir={tmp_path / 'cache'}")
    printed = outcome.out + outcome.err
    assert "Traceback" not in printed
    assert printable(classes[0]) in printed
    assert not set("\x1b\x07\r\u202e") & set(printed)


def test_a_file_cannot_allow_code_by_itself(
    tmp_path: Path,
    small_run: Callable[..., list[str]],
    make_images: Callable[..., Path],
    cli: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "cwd" / "hostile_net.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'was-run')!r})\n")
    config = tmp_path / "study.yaml"
    config.write_text("models: {allow_callables: true}\nsweep: {models: ['hostile_net:net']}\n")
    arguments = small_run(make_images(tmp_path / "data"))
    for flag in ("--models", "tiny_cnn"):
        arguments.remove(flag)
    outcome = cli(*arguments, "--config", config)
    assert outcome.status == 2
    assert "not taken from a file" in caplog.text
    assert "allow_callables" in outcome.error_lines[0]
    assert not (tmp_path / "was-run").exists()
    assert load_config(config, ["models.allow_callables=true"]).models.allow_callables


@pytest.mark.parametrize("command", ["evaluate", "probe"])
def test_a_checkpoint_cannot_run_code(
    command: str, tmp_path: Path, make_images: Callable[..., Path], cli: Callable[..., Any]
) -> None:
    (tmp_path / "cwd" / "hostile_net.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'was-run')!r})\n")
    run = tmp_path / "run"
    run.mkdir()
    save_file({"a": torch.zeros(1)}, run / "best_model.safetensors")
    (run / "metadata.json").write_text(json.dumps(about(model="hostile_net:net")))
    config = tmp_path / "config.yaml"
    config.write_text("models: {allow_callables: true}\n")
    data = make_images(tmp_path / "data")
    rest = ["--resolutions", "32,48", "--checkpoint", run] if command == "probe" else [run]
    outcome = cli(command, *rest, "--data", data, "--config", config, "--set", f"data.cache_dir={tmp_path / 'cache'}")
    assert outcome.status == 2
    assert "would run code" in outcome.error_lines[0]
    assert not (tmp_path / "was-run").exists()


# Secrets


def test_secrets_of_a_tracking_server_are_nowhere_in_what_a_study_writes(
    tmp_path: Path, small_run: Callable[..., list[str]], make_images: Callable[..., Path], start: Callable[..., Any]
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    uri = "http://me:pass-hunter2@127.0.0.1:9/path?token=token-hunter2&api_key=key-hunter2"
    arguments = small_run(make_images(tmp_path / "data"), "--set", f"mlflow.tracking_uri={uri}")
    arguments[arguments.index("mlflow.enabled=false")] = "mlflow.enabled=true"
    process = start(*arguments, cwd=here)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "MLflow at http://***@127.0.0.1:9" in err
    assert not list(here.iterdir())
    written = [path.read_bytes() for path in (tmp_path / "study").rglob("*") if path.is_file()]
    assert len(written) > 5
    assert not any(b"hunter2" in content for content in (*written, out.encode(), err.encode()))


@pytest.mark.parametrize(
    "override",
    ["mlflow.tracking_url=http://me:hunter2@host", "http://me:hunter2@host", "training.epochs=http://me:hunter2@host",
     "mlflow.enabled=http://me:hunter2@host"],
)  # fmt: skip
def test_secrets_are_not_in_messages_about_settings(override: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(None, [override])
    assert "hunter2" not in str(refused.value)
