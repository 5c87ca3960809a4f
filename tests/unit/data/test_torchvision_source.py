"""Exports of torchvision's data sets, without a network: its own readers on files that we make."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from resomap.data import torchvision_source
from resomap.data.sources import open_dataset
from resomap.data.torchvision_source import SOURCES, canonical_title, export_dataset
from resomap.errors import DatasetError


def photograph(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def make_eurosat(cache: Path, *, images: int = 8) -> Path:
    """The files of EuroSAT, where its reader looks for them."""
    folder = cache / "torchvision" / "raw" / "EuroSAT" / "eurosat" / "2750"
    for k, name in enumerate(("Forest", "River")):
        (folder / name).mkdir(parents=True)
        for i in range(images):
            photograph(100 * k + i).save(folder / name / f"{name}_{i}.jpg")
    return folder


@pytest.mark.parametrize("title", SOURCES)
def test_sources_are_names_that_torchvision_has(title):
    assert hasattr(datasets, title)


def test_export_links_original_files_and_splits_what_has_no_splits(tmp_path):
    raw = make_eurosat(tmp_path)
    dataset = open_dataset("torchvision:eurosat", cache_dir=tmp_path, download=False)
    assert dataset.name == "EuroSAT"
    assert dataset.class_names == ("Forest", "River")
    assert {split: len(records) for split, records in dataset.splits.items()} == {
        "train": 12,
        "val": 2,
        "test": 2,
    }
    exported = dataset.root / "Forest" / "000000_Forest_0.jpg"
    assert exported.read_bytes() == (raw / "Forest" / "Forest_0.jpg").read_bytes()


def test_export_keeps_official_splits_and_saves_arrays_as_png(tmp_path, monkeypatch):
    class Numbers:
        """As torchvision's MNIST: arrays, a train flag, class names that are no folder names."""

        classes = ("0/zero", ".one")

        def __init__(self, root: str, *, train: bool, download: bool) -> None:
            self.start = 0 if train else 50

        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: int) -> tuple[Image.Image, int]:
            return photograph(self.start + i).convert("L"), i % 2

    monkeypatch.setattr(datasets, "MNIST", Numbers)
    root, title = export_dataset("mnist", cache_dir=tmp_path)
    assert title == "MNIST"
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    assert files[:4] == [
        "test/0_zero/000000.png", "test/0_zero/000002.png", "test/one/000001.png", "test/one/000003.png",
    ]  # fmt: skip
    assert len(files) == 8
    stored = np.asarray(Image.open(root / "train" / "one" / "000001.png"))
    assert np.array_equal(stored, np.asarray(photograph(1).convert("L")))


def test_export_happens_once(tmp_path, monkeypatch):
    make_eurosat(tmp_path)
    first = export_dataset("EuroSAT", cache_dir=tmp_path, download=False)
    monkeypatch.setattr(datasets, "EuroSAT", None)
    assert export_dataset("EuroSAT", cache_dir=tmp_path, download=False) == first


def test_export_that_was_cut_short_is_made_again(tmp_path, monkeypatch):
    make_eurosat(tmp_path)
    write = torchvision_source.write_json

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torchvision_source, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        export_dataset("EuroSAT", cache_dir=tmp_path, download=False)
    assert not (tmp_path / "torchvision" / "EuroSAT").exists()
    monkeypatch.setattr(torchvision_source, "write_json", write)
    root, _ = export_dataset("EuroSAT", cache_dir=tmp_path, download=False)
    assert len(list(root.rglob("*.jpg"))) == 16


def test_export_says_what_to_do_offline(tmp_path, monkeypatch):
    def offline(self: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(datasets.EuroSAT, "download", offline)
    with pytest.raises(DatasetError, match=r"could not be had \(.*not known.*\); connect to the network") as caught:
        export_dataset("EuroSAT", cache_dir=tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DatasetError, match="run again with downloads allowed"):
        export_dataset("EuroSAT", cache_dir=tmp_path, download=False)


def test_export_fetches_an_interrupted_download_again(tmp_path, monkeypatch):
    # torchvision takes the half-extracted folder for a complete one.
    def interrupted(self: datasets.EuroSAT) -> None:
        make_eurosat(tmp_path, images=3)
        raise ConnectionResetError(104, "reset by peer")

    def complete(self: datasets.EuroSAT) -> None:
        if not Path(self._data_folder).exists():
            make_eurosat(tmp_path, images=8)

    monkeypatch.setattr(datasets.EuroSAT, "download", interrupted)
    with pytest.raises(DatasetError, match="could not be had"):
        export_dataset("EuroSAT", cache_dir=tmp_path)
    monkeypatch.setattr(datasets.EuroSAT, "download", complete)
    root, _ = export_dataset("EuroSAT", cache_dir=tmp_path)
    assert len(list(root.rglob("*.jpg"))) == 16


def test_canonical_title_names_the_nearest():
    assert canonical_title("oxfordiiitpet") == "OxfordIIITPet"
    with pytest.raises(DatasetError, match=r"did you mean CIFAR10 or CIFAR100\?"):
        canonical_title("cifar1")
    with pytest.raises(DatasetError, match="known: CIFAR10, CIFAR100"):
        canonical_title("zzz")
