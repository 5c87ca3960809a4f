from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resomap.data import acuity, acuity_signal
from resomap.data.acuity import make_acuity
from resomap.data.acuity_render import AcuitySpec, describe, evidence_mask, render, tint_mask
from resomap.errors import DatasetError, StorageError

# 96 pixels: a patch of 24, bands from 4 to 40 cycles an image.
SMALL = {"size": 96, "bands": (12.0, 20.0), "native_dprime": 20.0}
FEW = {"train": 12, "val": 4, "test": 8}


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_make_acuity_writes_an_image_folder_with_masks_and_a_manifest(tmp_path):
    root = make_acuity(tmp_path / "set", **SMALL, **FEW)

    names = ["band12-horizontal", "band12-vertical", "band20-horizontal", "band20-vertical"]
    assert sorted(p.name for p in root.iterdir()) == ["manifest.json", "masks", "test", "train", "val"]
    for split, count in FEW.items():
        assert sorted(p.name for p in (root / split).iterdir()) == names
        assert {len(list(p.iterdir())) for p in (root / split).iterdir()} == {count // 4}
    manifest = json.loads((root / "manifest.json").read_text())
    assert manifest["class_names"] == names
    assert manifest["parameters"]["native_dprime"] == 20.0
    assert len(manifest["images"]) == 24
    for entry in manifest["images"]:
        image, mask = pixels(root / entry["path"]), pixels(root / "masks" / entry["path"])
        assert (image.shape, mask.shape) == ((96, 96, 3), (96, 96))
        top, left, side = entry["top"], entry["left"], entry["side"]
        assert entry["centre_y"] == top + 12
        assert entry["centre_x"] == left + 12
        assert side == 24
        outside = mask.copy()
        outside[top : top + side, left : left + side] = 0
        assert mask.max() > 245
        assert outside.max() == 0
        assert entry["path"].split("/")[1] == entry["class_name"] == f"band{entry['band']:g}-{entry['orientation']}"


def test_written_pixels_are_those_rendered(tmp_path):
    root = make_acuity(tmp_path / "set", **SMALL, **FEW)
    spec = AcuitySpec(**SMALL, **FEW)
    for index in range(4):
        entry = describe(spec, "val", index)
        np.testing.assert_array_equal(pixels(root / entry.path), render(spec, entry))


def test_make_acuity_again_returns_at_once_without_writing(tmp_path):
    root = make_acuity(tmp_path / "set", **SMALL, **FEW)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert make_acuity(tmp_path / "set", **SMALL, **FEW) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_an_image_does_not_depend_on_how_many_are_made(tmp_path):
    few = files(make_acuity(tmp_path / "few", **SMALL, **FEW))
    more = files(make_acuity(tmp_path / "more", **SMALL, train=20, val=8, test=8))
    assert all(more[name] == content for name, content in few.items() if name != "manifest.json")


@pytest.mark.parametrize("change", [{"seed": 1}, {"variant": "null"}, {"native_dprime": 10.0}])
def test_make_acuity_refuses_a_folder_with_another_set(tmp_path, change):
    make_acuity(tmp_path / "set", **SMALL, **FEW)
    with pytest.raises(DatasetError, match="other parameters; choose another folder"):
        make_acuity(tmp_path / "set", **(SMALL | FEW | change))


def test_make_acuity_refuses_a_folder_with_other_files_and_leaves_them(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(DatasetError, match="got other files"):
        make_acuity(tmp_path, **SMALL, **FEW)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_make_acuity_takes_an_empty_folder(tmp_path):
    (tmp_path / "set").mkdir()
    assert (make_acuity(tmp_path / "set", **SMALL, **FEW) / "manifest.json").is_file()


def test_make_acuity_takes_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path / "set")
    assert make_acuity(Path("."), **SMALL, **FEW) == Path(".")
    assert (tmp_path / "set" / "manifest.json").is_file()


def test_make_acuity_finds_a_set_without_writing_beside_it(tmp_path):
    root = make_acuity(tmp_path / "sets" / "set", **SMALL, **FEW)
    for lease in (tmp_path / "sets").glob(".set.*.lease"):
        lease.unlink()
    make_acuity(root, **SMALL, **FEW)
    assert [p.name for p in (tmp_path / "sets").iterdir()] == ["set"]


def test_make_acuity_names_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        make_acuity(tmp_path / "file" / "set", **SMALL, **FEW)


def test_make_acuity_names_a_set_that_lost_images(tmp_path):
    root = make_acuity(tmp_path / "set", **SMALL, **FEW)
    next((root / "val").rglob("*.png")).unlink()
    with pytest.raises(DatasetError, match=r"val: expected 4 images, got 3; choose another folder, or delete"):
        make_acuity(root, **SMALL, **FEW)


def test_make_acuity_names_a_damaged_manifest(tmp_path):
    root = make_acuity(tmp_path / "set", **SMALL, **FEW)
    (root / "manifest.json").write_text("{")
    with pytest.raises(DatasetError, match=r"manifest\.json is damaged"):
        make_acuity(root, **SMALL, **FEW)


def test_a_failed_build_leaves_nothing_and_a_killed_one_is_swept(tmp_path, monkeypatch):
    (tmp_path / ".set.making-999" / "train").mkdir(parents=True)
    calls = []

    def full_disk(pixels, *, level):
        calls.append(level)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(acuity, "_png", full_disk)
        with pytest.raises(StorageError, match="no space left"):
            make_acuity(tmp_path / "set", **SMALL, **FEW)
    assert calls
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []
    assert make_acuity(tmp_path / "set", **SMALL, **FEW).is_dir()


def test_two_at_once_make_one_set(tmp_path):
    done = []

    def make() -> None:
        done.append(make_acuity(tmp_path / "set", **SMALL, **FEW))

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [tmp_path / "set"] * 3
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["set"]


@pytest.mark.parametrize("band", [4.0, 12.5, 40.0])
@pytest.mark.parametrize("phase", [0.0, 1.0, np.pi / 2, 4.0])
def test_evidence_adds_the_same_mean_and_rms_for_every_class_and_phase(band, phase):
    for orientation in acuity_signal.ORIENTATIONS:
        patch = acuity_signal.evidence(96, band=band, orientation=orientation, phase=phase)
        assert patch.shape == (24, 24)
        assert abs(patch.sum()) < 1e-9
        assert (patch**2).sum() == pytest.approx(1.0)


def test_horizontal_stripes_vary_from_row_to_row():
    patch = acuity_signal.evidence(96, band=12.0, orientation="horizontal", phase=0.0)
    spectrum = np.abs(np.fft.fft2(patch))
    # 12 cycles an image are 3 cycles in a patch of a quarter of the side.
    assert np.unravel_index(spectrum[:12, :12].argmax(), (12, 12)) == (3, 0)


def test_background_has_rms_1_and_ends_below_four_cycles():
    factor = acuity_signal.background_factor(96)
    assert (factor**2).sum(axis=1).mean() == pytest.approx(1.0)
    # A smooth even extension has no energy beyond mode 7, which is 3.5 cycles.
    extended = np.concatenate([factor, factor[::-1]])
    spectrum = np.abs(np.fft.rfft(extended, axis=0))
    assert spectrum[8:].max() < 1e-9 * spectrum.max()


def test_noise_and_background_have_the_deviation_asked_for():
    spec = AcuitySpec(size=96, bands=(12.0,), native_dprime=1e-6, white_noise=0.1, background=0.05)
    images = np.stack([render(spec, describe(spec, "train", i)) for i in range(200)]) / 255
    assert images.mean() == pytest.approx(0.5, abs=0.01)
    # Neighbours share the background, so half the variance of their difference is that of white noise.
    difference = np.diff(images, axis=2)
    assert np.sqrt((difference**2).mean() / 2) == pytest.approx(0.1, rel=0.02)
    assert images.std() == pytest.approx(np.hypot(0.1, 0.05), rel=0.03)
    channels = images.reshape(-1, 3)[::7]
    assert abs(np.corrcoef(channels.T)[0, 1]) < 0.05


def test_null_variant_keeps_the_number_of_classes_and_moves_them_below_13_cycles():
    spec = AcuitySpec(size=96, bands=(12.0, 20.0, 30.0), native_dprime=20.0, variant="null")
    assert spec.evidence_bands == (6.0, 9.0, 12.0)
    assert len(spec.class_names) == 6
    assert spec.class_names[0] == "band6-horizontal"
    assert AcuitySpec(size=96, bands=(20.0,), native_dprime=20.0, variant="null").evidence_bands == (9.0,)


def test_shortcut_tint_agrees_with_the_class_as_often_as_asked(tmp_path):
    spec = AcuitySpec(**SMALL, variant="shortcut", shortcut_agreement=0.75)
    entries = [describe(spec, "test", i) for i in range(800)]
    # 0.75 of 800 with a standard error of 0.015.
    assert np.mean([e.tint == e.class_name for e in entries]) == pytest.approx(0.75, abs=0.05)
    assert {e.tint for e in entries} == set(spec.class_names)


def test_shortcut_tint_is_beside_the_evidence_coloured_and_without_luminance():
    plain, tinted = AcuitySpec(**SMALL), AcuitySpec(**SMALL, variant="shortcut", shortcut_agreement=1.0)
    for index in range(40):
        entry = describe(tinted, "train", index)
        same = describe(plain, "train", index)
        assert (same.top, same.left, same.phase) == (entry.top, entry.left, entry.phase)
        difference = render(tinted, entry).astype(int) - render(plain, same)
        spot = tint_mask(tinted, entry) > 0
        assert spot.sum() == 12 * 12
        assert not (spot & (evidence_mask(tinted, entry) > 0)).any()
        assert not difference[~spot].any()
        assert np.abs(difference[spot].mean(axis=0)).max() > 3
        assert abs(difference[spot].mean()) < 1
    assert tint_mask(plain, same).max() == 0


def test_shortcut_variant_writes_the_masks_of_its_tint(tmp_path):
    root = make_acuity(tmp_path / "set", **SMALL, **FEW, variant="shortcut")
    entry = json.loads((root / "manifest.json").read_text())["images"][0]
    assert entry["tint"] in {"band12-horizontal", "band12-vertical", "band20-horizontal", "band20-vertical"}
    assert pixels(root / "tint_masks" / entry["path"]).max() > 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "odd"}, "variant: expected one of standard, null, shortcut, got 'odd'"),
        ({"size": 32}, "size: expected 64 pixels or more, got 32"),
        ({"bands": ()}, r"expected one or more different frequencies, got \[\]"),
        ({"bands": (12.0, 12.0)}, "different frequencies"),
        ({"bands": (2.0,)}, "band 2 cycles an image: expected 4 to 40 at size 96"),
        ({"bands": (47.0,)}, "band 47 cycles"),
        ({"train": 3}, r"train: expected 4 images or more \(classes\), got 3"),
        ({"native_dprime": 0.0}, "native_dprime: expected a number above 0"),
        ({"native_dprime": float("nan")}, "native_dprime: expected a number above 0"),
        ({"native_dprime": 500.0}, r"would leave the grey scale at size 96; choose at most \d"),
        ({"white_noise": 0.3}, "fill the grey scale"),
        ({"background": -0.1}, "background: expected a number from 0 to 1"),
        ({"shortcut_agreement": 1.5}, "shortcut_agreement: expected a number from 0 to 1"),
    ],
)
def test_make_acuity_refuses_impossible_parameters_before_writing(tmp_path, change, message):
    with pytest.raises(DatasetError, match=message):
        make_acuity(tmp_path / "set", **(SMALL | FEW | change))
    assert not any(tmp_path.iterdir())


def test_the_largest_dprime_that_a_message_names_is_accepted():
    with pytest.raises(DatasetError) as error:
        AcuitySpec(**(SMALL | {"native_dprime": 500.0}))
    at_most = float(str(error.value).split("at most ")[1].split(",")[0])
    AcuitySpec(**(SMALL | {"native_dprime": at_most * 0.99}))
