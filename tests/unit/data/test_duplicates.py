"""Copies are found, and what only looks plain is not taken for a copy."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from resomap.data import duplicates, signatures
from resomap.data.duplicates import near_groups
from resomap.data.signatures import Signature, read_signatures, signature


def scene(seed: int, side: int = 128) -> Image.Image:
    grid = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=quality)
    return Image.open(buffer).convert("RGB")


def grouped(**images: Image.Image) -> list[list[str]]:
    return near_groups({name: signature(image) for name, image in images.items()})


@pytest.mark.parametrize(
    "copy",
    [
        lambda image: encoded(image, 50),
        lambda image: image.resize((64, 64)),
        lambda image: image.resize((300, 300)),
        lambda image: Image.eval(image, lambda v: min(255, v + 5)),
    ],
)
def test_near_groups_link_a_copy(copy):
    assert grouped(a=scene(0), b=copy(scene(0)), c=scene(1)) == [["a", "b"]]


def test_near_groups_do_not_link_a_mirror_image():
    assert grouped(a=scene(0), b=scene(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == []


def test_near_groups_do_not_link_plain_pictures_with_noise():
    def sky(seed: int) -> Image.Image:
        noise = np.random.default_rng(seed).normal((90, 140, 220), 4, (64, 64, 3))
        return Image.fromarray(noise.astype(np.uint8))

    assert grouped(**{str(i): sky(i) for i in range(200)}) == []


def test_near_groups_do_not_link_pictures_of_another_colour():
    grey = np.asarray(scene(0).convert("L")).astype(float) / 255
    red = Image.fromarray((grey[..., None] * (250, 60, 60)).astype(np.uint8))
    green = Image.fromarray((grey[..., None] * (60, 157, 60)).astype(np.uint8))  # equally bright
    assert grouped(a=red, b=green) == []


def test_near_groups_join_chains():
    bits = [0, 0b111_1111, 0b11_1111_1111_1111]  # 7 bits from one to the next, 14 from end to end
    grey, colour = np.arange(256, dtype=np.uint8), np.zeros(3, np.float32)
    chain = {str(i): Signature(b, grey, colour) for i, b in enumerate(bits)}
    assert near_groups(chain) == [["0", "1", "2"]]
    del chain["1"]
    assert near_groups(chain) == []


def test_near_groups_agree_with_comparing_all_pairs():
    rng = np.random.default_rng(0)
    grey, colour = np.arange(256, dtype=np.uint8), np.zeros(3, np.float32)
    codes = []
    for _ in range(60):
        code = int(rng.integers(0, 2**63))
        flips = rng.permutation(64)[: int(rng.integers(0, 12))]
        codes += [code, code ^ sum(1 << int(b) for b in flips)]
    groups = near_groups({str(i): Signature(c, grey, colour) for i, c in enumerate(codes)})
    expected = [[str(i), str(i + 1)] for i in range(0, 120, 2) if (codes[i] ^ codes[i + 1]).bit_count() <= 7]
    assert 10 < len(expected) < 60
    assert sorted(groups) == sorted(expected)


def test_near_groups_of_one_hash_are_told_apart_by_their_thumbnails(monkeypatch):
    """40 images, 8 thumbnails, 3 hashes of which two are near: a group for each thumbnail and each far hash."""
    monkeypatch.setattr(duplicates, "_EDGES", 5)  # groups are merged again and again
    monkeypatch.setattr(duplicates, "_BLOCK", 3)
    rng = np.random.default_rng(1)
    greys, colour = rng.integers(0, 256, (8, 256), dtype=np.uint8), np.zeros(3, np.float32)
    hashes = (0, 0b111, 2**64 - 1)
    kinds = [(int(rng.integers(3)), int(rng.integers(8))) for _ in range(40)]
    found = near_groups({str(i): Signature(hashes[h], greys[g], colour) for i, (h, g) in enumerate(kinds)})
    expected: dict[tuple[bool, int], list[str]] = {}
    for i, (h, g) in enumerate(kinds):
        expected.setdefault((h == 2, g), []).append(str(i))
    assert sorted(found) == sorted(group for group in expected.values() if len(group) > 1)


def test_near_groups_of_none_and_of_one_are_empty():
    assert near_groups({}) == []
    assert grouped(a=scene(0)) == []


def test_read_signatures_decodes_a_file_once(tmp_path, monkeypatch):
    scene(0).save(tmp_path / "a.png")
    (tmp_path / "bad.png").write_text("no image")
    paths = {"hash-a": tmp_path / "a.png", "hash-bad": tmp_path / "bad.png"}
    index = tmp_path / "cache" / "x.npz"
    first = read_signatures(paths, index=index)
    assert list(first) == ["hash-a"]
    monkeypatch.setattr(signatures, "decode_rgb", lambda path: pytest.fail("decoded again"))
    again = read_signatures({"hash-a": paths["hash-a"]}, index=index)["hash-a"]
    assert again.bits == first["hash-a"].bits
    assert np.array_equal(again.grey, first["hash-a"].grey)
    assert np.array_equal(again.colour, first["hash-a"].colour)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"\x93NUMPY"])
def test_read_signatures_survives_a_damaged_index(tmp_path, content):
    scene(0).save(tmp_path / "a.png")
    index = tmp_path / "x.npz"
    index.write_bytes(content)
    assert list(read_signatures({"a": tmp_path / "a.png"}, index=index)) == ["a"]
    assert index.read_bytes() != content
