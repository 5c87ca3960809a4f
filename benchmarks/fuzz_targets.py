"""What fuzz.py feeds: one builder a target, which writes what it needs into a folder and says how to run an input."""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from resomap.errors import ResoMapError

WORDS = [
    *(b"null", b"true", b"{}", b"[]", b'""', b"-1", b"0", b"1e400", b"NaN", b"Infinity", b"-0.0", b"1e-999"),
    *(b"9" * 30, b"9" * 5000, b"18446744073709551616", b"2147483648", b"../../../etc/passwd", b"/dev/zero", b"\x00"),
    *(b"{", b"}", b"[" * 40, b'{"a":' * 40, b'"', b"'", b"\n", b"\t", b": ", b"- ", b"&a ", b"*a", b"!!python/object"),
    *(b"\xff\xfe", b"\xed\xa0\x80", "\u202e".encode(), b"\x1b]0;x\x07", b"<script>", b"$(id)", b"%s%n", b"\\ud800"),
]  # fmt: skip


@dataclass
class Target:
    """How to run one input; what it may raise; inputs to start from; words to put into them."""

    check: Callable[[bytes], object]
    seeds: list[bytes]
    allowed: tuple[type[BaseException], ...] = (ResoMapError,)
    words: list[bytes] = field(default_factory=lambda: WORDS)


Builder = Callable[[Path], Target]


def awkward(randomness: random.Random) -> bytes:
    """Four bytes that counters, sizes and offsets do not expect."""
    value = randomness.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000])
    return struct.pack(randomness.choice("<>") + "I", value)


def through_a_file(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """A check that writes its input to `path` first."""

    def check(data: bytes) -> object:
        with open(path, "wb", buffering=0) as stream:
            stream.write(data)
        return read(path)

    return check


def yaml_target(folder: Path) -> Target:
    from resomap.config.yaml_text import YamlTextError, parse

    texts = [
        b"a: 1",
        b"sweep:\n  models: [x, y]\n  resolutions: [64, 96]",
        b"a: {b: 3e-4, c: ~}",
        b"- 1\n- 'x'",
        b'"\\u00e9"',
    ]
    return Target(lambda data: parse(data.decode("utf-8", "replace")), texts, (YamlTextError,))


def config_target(folder: Path) -> Target:
    from resomap.config.load import load_config

    texts = [
        b"study:\n  name: a\ntraining:\n  epochs: 3\n  learning_rate: 3e-4",
        b"sweep:\n  models: [tiny_cnn]\n  resolutions: [32, 64]\n  seeds: [0]",
        b"data:\n  source: acuity\n  augmentation: {scale: [0.5, 1.0]}\nmlflow: {tracking_uri: 'http://u:p@h'}",
        b"models:\n  families: {cnn: [simple_cnn]}\nsystem: {device: cpu}",
    ]
    return Target(through_a_file(folder / "c.yaml", load_config), texts)


def override_target(folder: Path) -> Target:
    from resomap.config.load import load_config

    texts = [b"training.epochs=3", b"sweep.resolutions=64,96", b"data.augmentation.scale=[0.5, 1]", b"study.name=x",
             b"models.families={a: [b]}", b"data.mean=null", b"system.device='cuda:1'"]  # fmt: skip
    return Target(lambda data: load_config(folder, [data.decode("utf-8", "surrogateescape")]), texts)


def metadata_target(folder: Path) -> Target:
    from resomap.models.checkpoints import read_metadata

    seed = {
        "format": 1, "model": "tiny_cnn", "family": "cnn", "resolution": 32, "class_names": ["a", "b"],
        "num_classes": 2,
        "preprocessing": {"resolution": 32, "kernel": "bilinear", "mean": [0, 0, 0], "std": [1, 1, 1]}, "seed": 0,
        "epoch": 2, "mode": "max", "metrics": {"loss": 0.1}, "versions": {"torch": "2"}, "model_spec": {"a": 1},
    }  # fmt: skip
    return Target(through_a_file(folder / "metadata.json", read_metadata), [json.dumps(seed).encode()])


def manifest_target(folder: Path) -> Target:
    from resomap.data.acuity import MANIFEST, AcuitySpec, make_acuity, parameters

    options = {"size": 64, "bands": [8.0], "train": 2, "val": 2, "test": 2, "native_dprime": 20.0}
    content = {"parameters": parameters(AcuitySpec(**{**options, "bands": (8.0,)})), "class_names": ["a"], "images": []}
    other = folder / "set" / "other"
    other.parent.mkdir()
    other.touch()
    check = through_a_file(folder / "set" / MANIFEST, lambda path: make_acuity(path.parent, **options))
    return Target(check, [json.dumps(content).encode()])


def checkpoint_target(folder: Path) -> Target:
    from safetensors.torch import save

    from resomap.models.checkpoints import load_checkpoint, make_metadata
    from resomap.models.registry import build_model
    from resomap.records import Preprocessing

    names, recipe = ("a", "b"), Preprocessing(32, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    about = make_metadata(
        model="tiny_cnn", family="cnn", resolution=32, class_names=names, preprocessing=recipe, seed=0
    )
    model = build_model("tiny_cnn", num_classes=2, seed=0)
    whole = save(model.state_dict(), metadata={"resomap": about.model_dump_json()})
    length = 8 + int.from_bytes(whole[:8], "little")
    small = save(
        {"a": next(model.parameters()).detach()[:1].contiguous()}, metadata={"resomap": about.model_dump_json()}
    )
    words = [*WORDS, b"F32", b"data_offsets", b"[0,18446744073709551615]", b"__metadata__", b"shape"]
    check = through_a_file(folder / "best_model.safetensors", load_checkpoint)
    return Target(check, [whole[: length + 64], small], words=words)


def weights_target(folder: Path) -> Target:
    import torch

    from resomap.models.weights import read_state_dict

    seeds = []
    for new in (True, False):
        stream = io.BytesIO()
        torch.save({"a": torch.zeros(2), "n": 1}, stream, _use_new_zipfile_serialization=new)
        seeds.append(stream.getvalue())
    words = [*WORDS, b"cos\nsystem\n", b"(S'id'\ntR", b"\x80\x02", b"cbuiltins\neval\n", b"R.", b"PK\x03\x04"]
    return Target(through_a_file(folder / "w.pt", read_state_dict), seeds, words=words)


def state_target(folder: Path) -> Target:
    import torch

    from resomap.training.last_state import read_state, write_state

    write_state(folder / "s.pt", {"epoch": 1, "w": torch.zeros(2), "text": "x", "list": [1.0, None]})
    return Target(through_a_file(folder / "last.pt", read_state), [(folder / "s.pt").read_bytes()])


def cache_target(folder: Path) -> Target:
    from resomap.data.store_files import find_or_build
    from resomap.data.store_settings import StoreSettings
    from resomap.records import ImageRecord

    Image.new("RGB", (40, 36), "red").save(folder / "i.png")
    images = [ImageRecord("i.png", folder / "i.png", 0)]
    settings = StoreSettings(resolutions=(8,))

    def find(limit_bytes: int) -> object:
        return find_or_build(images, ["h"], settings=settings, cache_dir=folder / "cache", limit_bytes=limit_bytes,
                             workers=1, progress=None)  # fmt: skip

    find(2**20)
    meta = next((folder / "cache").rglob("meta.json"))
    return Target(through_a_file(meta, lambda path: find(0)), [meta.read_bytes()])


def hashes_target(folder: Path) -> Target:
    from resomap.data.hashes import content_hashes, index_path
    from resomap.records import ImageRecord

    (folder / "data").mkdir()
    record = ImageRecord("i.png", folder / "data" / "i.png", 0)
    path = index_path(record, cache_dir=folder)
    path.parent.mkdir()
    text = json.dumps({"format": 1, "files": {str(record.path): [[1, 2, 3], "ab"]}}).encode()
    return Target(through_a_file(path, lambda _: content_hashes([record], cache_dir=folder)), [text])


def signatures_target(folder: Path) -> Target:
    from resomap.data.signatures import read_signatures

    columns = {"format": np.array(1), "keys": np.array(["k"]), "bits": np.array([5], np.uint64),
               "grey": np.zeros((1, 256), np.uint8), "colour": np.zeros((1, 3), np.float32)}  # fmt: skip
    stream = io.BytesIO()
    np.savez(stream, **columns)
    words = [*WORDS, b"'descr': '|O'", b"(1000000000,)", b"PK\x01\x02", b"PK\x05\x06"]
    check = through_a_file(folder / "s.npz", lambda path: read_signatures({}, index=path))
    return Target(check, [stream.getvalue()], words=words)


def maps_target(folder: Path) -> Target:
    from resomap.explainability.store import StoredMaps, read_maps, write_maps
    from resomap.records import Cell

    arrays = {"maps": np.zeros((1, 2, 2), np.float32), "boxes": np.zeros((1, 4))}
    names = StoredMaps.__dataclass_fields__
    text = {"cell": Cell("m", 32, 0), "method": "gradcam", "key": "k", "image_ids": ("i",), "notes": {}}
    filled = {name: text.get(name, arrays.get(name, np.zeros(1, np.float32))) for name in names}
    write_maps(folder / "a.npz", StoredMaps(**filled))
    return Target(through_a_file(folder / "m.npz", read_maps), [(folder / "a.npz").read_bytes()])


def predictions_target(folder: Path) -> Target:
    from resomap.evaluation.store import read_predictions, write_predictions
    from resomap.records import Cell, Condition, Predictions

    answers = Predictions(
        np.array(["a", "b"]), np.array([0, 1]), np.array([[0.5, 0.5], [0.1, 0.9]], np.float32), ("x", "y")
    )
    write_predictions(folder / "a.parquet", answers, cell=Cell("m", 32, 0), condition=Condition("val", 32, 32))
    return Target(through_a_file(folder / "p.parquet", read_predictions), [(folder / "a.parquet").read_bytes()])


def run_target(folder: Path) -> Target:
    from resomap.study.runs import read_run

    epoch = {"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5, "learning_rate": 0.1, "seconds": 1.0}
    epoch |= {"images_per_s": 2.0, "peak_memory_mib": None, "val": {"loss": 1.0}}
    seed = {"cell": {"model": "m", "resolution": 32, "seed": 0}, "family": "f", "key": "k", "determinants": {}}
    seed |= {"status": "finished", "epochs": [epoch], "metrics": {"c": {}}}
    return Target(through_a_file(folder / "run.json", read_run), [json.dumps(seed).encode()])


def images_target(folder: Path) -> Target:
    from resomap.data.decode import decode_rgb, native_size

    def look(path: Path) -> None:
        native_size(path, max_pixels=10**6)
        decode_rgb(path, max_pixels=10**6)

    seeds = []
    picture = Image.fromarray(np.arange(108, dtype=np.uint8).reshape(6, 6, 3))
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "ICO", "PPM", "TGA", "PCX", "DDS", "SGI", "QOI"):
        stream = io.BytesIO()
        picture.save(stream, kind)
        seeds.append(stream.getvalue())
    words = [*WORDS, b"IHDR", b"IDAT", b"iCCP", b"eXIf", b"\xff\xd8", b"\xff\xc4", b"Exif\x00\x00", b"II*\x00"]
    return Target(through_a_file(folder / "i.png", look), seeds, words=words)


def names_target(folder: Path) -> Target:
    from resomap.layout import folder_name
    from resomap.printable import printable, without_secrets
    from resomap.report.html import script_json

    def check(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        name = folder_name(text)
        assert name not in ("", ".", ".."), name
        assert len(name) < 100, name
        assert not set(name) & set("/\\\0\n"), name
        assert printable(text).isprintable()
        assert "<" not in script_json(text)
        assert "hunter2" not in without_secrets(f"http://user:hunter2@{text}")

    return Target(check, [b"resnet18", b"pkg.module:Net", "été".encode(), b"../../x", b"a b\x1b[2J"])


TARGETS: dict[str, Builder] = {
    "yaml": yaml_target,
    "config": config_target,
    "override": override_target,
    "manifest": manifest_target,
    "metadata": metadata_target,
    "checkpoint": checkpoint_target,
    "weights": weights_target,
    "state": state_target,
    "cache": cache_target,
    "hashes": hashes_target,
    "signatures": signatures_target,
    "maps": maps_target,
    "predictions": predictions_target,
    "run": run_target,
    "images": images_target,
    "names": names_target,
}
