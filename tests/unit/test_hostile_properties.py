"""Whatever the bytes, a reader of files answers or raises a ResoMapError (benchmarks/fuzz.py: the same for longer)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from resomap.data.acuity import MANIFEST, AcuitySpec, make_acuity, parameters
from resomap.data.audit import audit_dataset
from resomap.data.folder import find_images
from resomap.data.hashes import content_hashes, index_path
from resomap.data.store_files import find_or_build
from resomap.data.store_settings import StoreSettings
from resomap.errors import DatasetError, ResoMapError
from resomap.layout import folder_name
from resomap.models.checkpoints import make_metadata, read_metadata
from resomap.printable import printable, without_secrets
from resomap.records import ImageDataset, ImageRecord, Preprocessing
from resomap.study.runs import read_run

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([2**31, 2**63, -1, 10**400]))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8))
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))


def mutated(content: Any, draw: Callable) -> Any:
    """`content` with one value, at a drawn place, replaced by anything."""
    if isinstance(content, dict) and content and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(content)))
        return content | {key: mutated(content[key], draw)}
    if isinstance(content, list) and content and draw(st.booleans()):
        place = draw(st.integers(0, len(content) - 1))
        return [*content[:place], mutated(content[place], draw), *content[place + 1 :]]
    return draw(JSON)


def answers_or_refuses(read: Callable[[], object]) -> None:
    refusal = ""
    try:
        read()
    except ResoMapError as error:
        refusal = str(error)
    assert all(line.isprintable() for line in refusal.split("\n"))


@pytest.mark.parametrize("reader", ["metadata", "run"])
@QUICK
@given(data=st.data())
def test_json_of_a_run(reader: str, tmp_path: Path, data: st.DataObject) -> None:
    recipe = Preprocessing(32, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    made = make_metadata(
        model="m", family="f", resolution=32, class_names=["a", "b"], seed=0, preprocessing=recipe, metrics={"x": 1.0}
    )
    record = {"cell": {"model": "m", "resolution": 32, "seed": 0}, "family": "f", "key": "", "determinants": {}}
    content = made.model_dump(mode="json") if reader == "metadata" else record | {"status": "failed", "epochs": []}
    path = tmp_path / "content.json"
    path.write_text(json.dumps(mutated(content, data.draw)))
    answers_or_refuses(lambda: (read_metadata if reader == "metadata" else read_run)(path))


@QUICK
@given(data=st.data())
def test_manifest_of_an_acuity_set(tmp_path: Path, data: st.DataObject) -> None:
    options: dict[str, Any] = {"size": 64, "bands": (8.0,), "train": 2, "val": 2, "test": 2, "native_dprime": 20.0}
    content = {"parameters": parameters(AcuitySpec(**options)), "images": []}
    (tmp_path / "set").mkdir(exist_ok=True)
    (tmp_path / "set" / MANIFEST).write_text(json.dumps(mutated(content, data.draw)))
    with pytest.raises(DatasetError):
        make_acuity(tmp_path / "set", **options)


@QUICK
@given(data=st.data())
def test_header_of_a_cache_and_index_of_hashes(tmp_path: Path, data: st.DataObject) -> None:
    picture = tmp_path / "data" / "i.png"
    picture.parent.mkdir(exist_ok=True)
    Image.new("RGB", (40, 36), "red").save(picture)
    record = ImageRecord("i.png", picture, 0)

    def find(limit_bytes: int) -> object:
        return find_or_build(
            [record], ["h"], settings=StoreSettings((8,)), cache_dir=tmp_path, limit_bytes=limit_bytes, workers=1,
            progress=None,
        )  # fmt: skip

    assert find(2**20) is not None
    meta = next((tmp_path / "pyramid").rglob("meta.json"))
    meta.write_text(json.dumps(mutated(json.loads(meta.read_text()), data.draw)))
    answers_or_refuses(lambda: find(0))
    meta.unlink()
    right = content_hashes([record], cache_dir=tmp_path)
    index = index_path(record, cache_dir=tmp_path)
    index.parent.mkdir(exist_ok=True)
    index.write_text(json.dumps(mutated({"format": 1, "files": {str(picture): [[1, 2, 3], "ab"]}}, data.draw)))
    assert content_hashes([record], cache_dir=tmp_path) == right


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=64),
    name=st.text(st.characters(exclude_characters="/\0\n\r", codec="utf-8"), max_size=20),
)
def test_audit_of_a_folder_that_holds_anything(tmp_path_factory: Any, content: bytes, name: str) -> None:
    root = tmp_path_factory.mktemp("audit") / "data"
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        Image.new("RGB", (9, 8)).save(root / label / "good.png")
    (root / "a" / f"{name}x.png").write_bytes(content)
    found = find_images(root)
    images = ImageDataset("x", root, found.class_names, {"train": found.splits[""]})
    report = audit_dataset(images, resolutions=[8], cache_dir=root.parent, workers=1)
    assert report.images == 2 + (not name.startswith("."))


@settings(max_examples=300, deadline=None)
@given(text=st.text())
def test_names(text: str) -> None:
    name = folder_name(text)
    assert name not in ("", ".", "..")
    assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert len(name) < 100
    assert printable(text).isprintable()
    assert "hunter2" not in without_secrets(f"{text} postgresql://me:hunter2{''.join(text.split())}@host/x")
