"""acuity: generated images whose class evidence, its place and its limit of resolution are known.

`make_acuity` writes

    <out>/{train,val,test}/{class}/{index}.png     8-bit RGB, an ImageFolder
    <out>/masks/{split}/{class}/{index}.png        8-bit grey, local contrast of the evidence
    <out>/tint_masks/...                           the same for the tint, shortcut variant only
    <out>/manifest.json                            parameters, class names, one entry an image

What the ideal observer makes of the images stands in acuity_theory, what they consist of in
acuity_signal, how they are drawn in acuity_render.
"""

from __future__ import annotations

import logging
import os
import shutil
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resomap.data import acuity_signal as signal
from resomap.data.acuity_render import (
    AcuityImage,
    AcuitySpec,
    describe,
    evidence_mask,
    render,
    tint_mask,
)
from resomap.data.acuity_theory import ideal_accuracy, ideal_dprime
from resomap.data.folder import SPLITS
from resomap.errors import DatasetError
from resomap.lease import Leases
from resomap.printable import printable
from resomap.serialize import make_dirs, plain, read_json, storage_errors, write_json

__all__ = ["FORMAT", "MANIFEST", "AcuitySpec", "ideal_accuracy", "ideal_dprime", "make_acuity", "parameters"]

FORMAT = 1
"""Format of the files and the pixels: a set of another one is another set."""
MANIFEST = "manifest.json"
_THREADS = 8
"""More would wait for each other: half of the work holds Python's lock."""

_logger = logging.getLogger(__name__)


def make_acuity(
    out: Path,
    *,
    seed: int = 0,
    size: int = signal.SIZE,
    bands: Sequence[float] = signal.BANDS,
    train: int = signal.TRAIN,
    val: int = signal.VAL,
    test: int = signal.TEST,
    variant: str = "standard",
    native_dprime: float = signal.NATIVE_DPRIME,
    white_noise: float = signal.WHITE_NOISE,
    background: float = signal.BACKGROUND,
    shortcut_agreement: float = signal.SHORTCUT_AGREEMENT,
) -> Path:
    """Write the set to `out`, complete or not at all; where it stands already, return at once.

    Image `index` of a split is a pure function of (seed, split, index) and the parameters of the
    picture: asking for more images leaves those of a smaller set as they were.

    Args:
        out: folder to make; its parents are made too.
        bands: spatial frequencies in cycles an image, two classes (orientations) each. The null
            variant takes only their number.
        train, val, test: images of the split over all classes, which take turns.
        variant: 'standard'; 'null', evidence at 6 to 12 cycles, so that every resolution from 32
            pixels on suffices; 'shortcut', a coloured spot beside the evidence, in each split of the
            class's own colour with probability `shortcut_agreement`, else of another class's.
        native_dprime: of the ideal observer (two orientations of a band, place and phase known) at
            native size; for the weakest band, as all share one amplitude.
        white_noise, background: RMS in grey values 0..1, in each channel.
    Returns:
        `out`.
    Raises:
        DatasetError: impossible parameters, or `out` holds something else.
        StorageError: no room or no permission; nothing half-made is left under `out`.
    """
    spec = AcuitySpec(
        seed=seed,
        size=size,
        bands=tuple(bands),
        train=train,
        val=val,
        test=test,
        variant=variant,
        native_dprime=native_dprime,
        white_noise=white_noise,
        background=background,
        shortcut_agreement=shortcut_agreement,
    )
    root = Path(os.path.abspath(out))  # '.' has no name to put a folder beside
    if not _stands(root, spec):
        make_dirs(root.parent)
        with storage_errors(out), Leases(root.parent).hold(f".{root.name}"):
            if not _stands(root, spec):  # another process may have made it meanwhile
                _build(root, spec)
    return out


def parameters(spec: AcuitySpec) -> dict[str, Any]:
    """What a manifest says of its set; equal parameters, equal pixels."""
    return {"format": FORMAT, **plain(asdict(spec))}


def _stands(out: Path, spec: AcuitySpec) -> bool:
    """True where `out` already holds the set, complete; False where it is free.

    Raises:
        DatasetError: it holds something else, or the set has lost files.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    remedy = "choose another folder, or delete this one to have it made again"
    if not (out / MANIFEST).is_file():
        raise DatasetError(f"{printable(out)}: expected a free folder or an acuity set, got other files; {remedy}")
    manifest = read_json(out / MANIFEST, error=DatasetError)
    found = manifest.get("parameters") if isinstance(manifest, dict) else None
    if found != parameters(spec):
        raise DatasetError(f"{printable(out)}: holds an acuity set with other parameters; {remedy}")
    for split in SPLITS:
        files = sum(1 for _ in (out / split).glob("*/*.png"))
        if files != getattr(spec, split):
            raise DatasetError(
                f"{printable(out / split)}: expected {getattr(spec, split)} images, got {files}; {remedy}"
            )
    return True


def _build(out: Path, spec: AcuitySpec) -> None:
    """Write everything to a folder beside `out`, then rename it. The caller holds the lock."""
    prefix = f".{out.name}.making-"
    for leftover in out.parent.glob(f"{prefix}*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = out.parent / f"{prefix}{os.getpid()}"
    entries = [describe(spec, split, i) for split in SPLITS for i in range(getattr(spec, split))]
    _logger.info("making %d acuity images of %d px in %s", len(entries), spec.size, printable(out))
    try:
        _write_images(temporary, spec, entries)
        write_json(temporary / MANIFEST, _manifest(spec, entries))
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _manifest(spec: AcuitySpec, entries: list[AcuityImage]) -> dict[str, Any]:
    return {
        "parameters": parameters(spec),
        "evidence_bands": spec.evidence_bands,
        "class_names": spec.class_names,
        "amplitude": spec.observer().amplitude,
        "images": entries,
    }


def _write_images(root: Path, spec: AcuitySpec, entries: list[AcuityImage]) -> None:
    trees = ["", "masks"] + (["tint_masks"] if spec.variant == "shortcut" else [])
    for folder in {str(Path(entry.path).parent) for entry in entries}:
        for tree in trees:
            (root / tree / folder).mkdir(parents=True)
    with ThreadPoolExecutor(max_workers=min(_THREADS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(partial(_write_image, root, spec), entries):
            pass


def _write_image(root: Path, spec: AcuitySpec, entry: AcuityImage) -> None:
    # Noise does not compress: stored costs 15 % of room and saves most of the time.
    (root / entry.path).write_bytes(_png(render(spec, entry), level=0))
    (root / "masks" / entry.path).write_bytes(_png(evidence_mask(spec, entry), level=1))
    if entry.tint is not None:
        (root / "tint_masks" / entry.path).write_bytes(_png(tint_mask(spec, entry), level=1))


def _png(pixels: np.ndarray, *, level: int) -> bytes:
    """PNG of (n, m) grey or (n, m, 3) RGB uint8 pixels, rows unfiltered.

    Pillow tries every filter on every row, which takes twice as long as everything else here together.
    """
    height, width = pixels.shape[:2]
    colour_type = 0 if pixels.ndim == 2 else 2
    rows = np.zeros((height, 1 + pixels[0].size), dtype=np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes(), level)),
        (b"IEND", b""),
    ]
    framed = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
        for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)
