"""Drawing acuity images: each one a pure function of the specification, the split and its index.

Legend: n image side, p patch side, C classes.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from resomap.checks import is_number, is_whole
from resomap.data import acuity_signal as signal
from resomap.data.acuity_theory import IdealObserver
from resomap.data.folder import SPLITS
from resomap.data.randomness import derive_seed, generator
from resomap.errors import DatasetError

_ROWS = 32
"""Rows of background made at a time: they stay in the cache."""
TINT_CONTRAST = 0.15
"""Length of the shortcut's colour vector at the spot's centre, grey values 0..1."""


@dataclass(frozen=True, slots=True)
class AcuitySpec:
    """Everything that determines a set; the fields are those of `acuity.make_acuity`.

    Raises (on construction):
        DatasetError: a value that no set can be made of, with what to choose instead.
    """

    seed: int = 0
    size: int = signal.SIZE
    bands: tuple[float, ...] = signal.BANDS
    train: int = signal.TRAIN
    val: int = signal.VAL
    test: int = signal.TEST
    variant: str = "standard"
    native_dprime: float = signal.NATIVE_DPRIME
    white_noise: float = signal.WHITE_NOISE
    background: float = signal.BACKGROUND
    shortcut_agreement: float = signal.SHORTCUT_AGREEMENT

    def __post_init__(self) -> None:
        self._check_types()
        object.__setattr__(self, "bands", tuple(float(band) for band in self.bands))
        if self.variant not in signal.VARIANTS:
            variants = ", ".join(signal.VARIANTS)
            raise DatasetError(f"acuity variant: expected one of {variants}, got {self.variant!r}")
        if self.size < signal.LEAST_SIZE:
            raise DatasetError(f"acuity size: expected {signal.LEAST_SIZE} pixels or more, got {self.size}")
        signal.check_bands(self.bands, self.size)
        self._check_counts()
        self._check_noise()
        self._check_grey_scale()

    @property
    def evidence_bands(self) -> tuple[float, ...]:
        """The bands that carry the evidence: `bands`, or the low ones of the null variant."""
        return signal.evidence_bands(self.bands, self.variant)

    @property
    def class_names(self) -> tuple[str, ...]:
        return signal.class_names(self.evidence_bands)

    def observer(self, kernel: str = "lanczos") -> IdealObserver:
        """The ideal observer of this set's evidence (it does not look at a shortcut's tint)."""
        return IdealObserver(
            kernel=kernel,
            size=self.size,
            bands=self.evidence_bands,
            native_dprime=self.native_dprime,
            white_noise=self.white_noise,
            background=self.background,
        )

    def _check_types(self) -> None:
        for name in ("seed", "size", *SPLITS):
            value = getattr(self, name)
            if not is_whole(value):
                raise DatasetError(f"acuity {name}: expected a whole number, got {value!r}")
        for name in ("native_dprime", "white_noise", "background", "shortcut_agreement"):
            if not is_number(getattr(self, name)):
                raise DatasetError(f"acuity {name}: expected a number, got {getattr(self, name)!r}")
        if not all(is_number(band) for band in self.bands):
            raise DatasetError(f"acuity bands: expected numbers, got {list(self.bands)}")

    def _check_counts(self) -> None:
        classes = 2 * len(self.bands)
        for split in SPLITS:
            count = getattr(self, split)
            if count < classes:
                raise DatasetError(f"acuity {split}: expected {classes} images or more (classes), got {count}")

    def _check_noise(self) -> None:
        for name in ("native_dprime", "white_noise"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise DatasetError(f"acuity {name}: expected a number above 0, got {value}")
        for name in ("background", "shortcut_agreement"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise DatasetError(f"acuity {name}: expected a number from 0 to 1, got {value}")

    def _check_grey_scale(self) -> None:
        """The evidence and two standard deviations of noise must fit between black and white."""
        room = 0.5 - 2 * math.hypot(self.white_noise, self.background)
        if room <= 0:
            raise DatasetError(
                f"acuity white_noise {self.white_noise:g} and background {self.background:g} fill the grey "
                "scale; together (root of the sum of squares) they must stay under 0.25"
            )
        peak = self.observer().amplitude * math.sqrt(2) * float(signal.window(self.size).max()) ** 2
        if peak > room:
            raise DatasetError(
                f"acuity native_dprime {self.native_dprime:g} would leave the grey scale at size "
                f"{self.size}; choose at most {self.native_dprime * room / peak:.3g}, a larger size or less noise"
            )


@dataclass(frozen=True, slots=True)
class AcuityImage:
    """What one image shows and where; an entry of the manifest.

    top, left, side: the evidence's patch in pixels; centre = (top + side / 2, left + side / 2), counted
    from the image's upper left corner. phase: radians, the grating's at that centre. seed: a number of
    this image's own, from (seed, split, index). tint: class of the coloured spot, shortcut variant only.
    """

    path: str
    split: str
    index: int
    class_name: str
    band: float
    orientation: str
    top: int
    left: int
    side: int
    centre_y: float
    centre_x: float
    phase: float
    seed: int
    tint: str | None = None


def describe(spec: AcuitySpec, split: str, index: int) -> AcuityImage:
    """What image `index` of `split` shows; its class is `index` modulo the number of classes."""
    label = index % len(spec.class_names)
    name = spec.class_names[label]
    seed = derive_seed(spec.seed, "acuity", split, index)
    rng = generator(seed, "evidence")
    side = signal.patch_side(spec.size)
    top, left = (int(value) for value in rng.integers(0, spec.size - side + 1, size=2))
    phase = float(rng.uniform(0, 2 * math.pi))
    tint = _tint_class(spec, label, rng) if spec.variant == "shortcut" else None
    return AcuityImage(
        path=f"{split}/{name}/{index:06d}.png",
        split=split,
        index=index,
        class_name=name,
        band=spec.evidence_bands[label // 2],
        orientation=signal.ORIENTATIONS[label % 2],
        top=top,
        left=left,
        side=side,
        centre_y=top + side / 2,
        centre_x=left + side / 2,
        phase=phase,
        seed=seed,
        tint=tint,
    )


def render(spec: AcuitySpec, image: AcuityImage) -> np.ndarray:
    """(n, n, 3) uint8 pixels of an image that `describe` gave for the same specification."""
    # 0.5 more than mid-grey, so that cutting off the fraction rounds to the nearest.
    pixels = _noise(spec, image.seed)
    amplitude = 255 * _amplitude(spec)
    stripes = signal.evidence(spec.size, band=image.band, orientation=image.orientation, phase=image.phase)
    pixels[_patch(image)] += (amplitude * stripes).astype(np.float32)[:, :, None]
    if image.tint is not None:
        spot = 255 * TINT_CONTRAST * _spot(image.side // 2)[:, :, None] * _tint_colour(spec, image.tint)
        pixels[_tint_patch(spec, image)] += spot.astype(np.float32)
    np.clip(pixels, 0, 255, out=pixels)
    return pixels.astype(np.uint8)


def evidence_mask(spec: AcuitySpec, image: AcuityImage) -> np.ndarray:
    """(n, n) uint8: local contrast of the evidence, 255 at its centre, 0 outside the patch."""
    mask = np.zeros((spec.size, spec.size), dtype=np.uint8)
    mask[_patch(image)] = np.rint(255 * _spot(image.side))
    return mask


def tint_mask(spec: AcuitySpec, image: AcuityImage) -> np.ndarray:
    """(n, n) uint8: the same for the coloured spot; all 0 where there is none."""
    mask = np.zeros((spec.size, spec.size), dtype=np.uint8)
    if image.tint is not None:
        mask[_tint_patch(spec, image)] = np.rint(255 * _spot(image.side // 2))
    return mask


@lru_cache(maxsize=16)
def _amplitude(spec: AcuitySpec) -> float:
    return spec.observer().amplitude


def _noise(spec: AcuitySpec, seed: int) -> np.ndarray:
    """(n, n, 3) float32 mid-grey, white noise and background, grey values 0..255."""
    rng = generator(seed, "noise")
    n, modes = spec.size, signal.BACKGROUND_MODES
    factor = signal.background_factor(n)
    weights = 255 * spec.background * rng.standard_normal((modes, modes, 3))
    across = (factor @ weights).reshape(modes, n * 3)
    pixels = _white_noise(rng, spec.white_noise, n * n * 3).reshape(n, n * 3)
    for top in range(0, n, _ROWS):
        # float64 until it is added: how the product is summed (threads, vector width) changes no pixel.
        pixels[top : top + _ROWS] += factor[top : top + _ROWS] @ across
    return pixels.reshape(n, n, 3)


def _white_noise(rng: np.random.Generator, deviation: float, count: int) -> np.ndarray:
    """(count,) float32 normal of mean 128 (mid-grey) and `deviation` x 255.

    16 random bits pick one of 65,536 equally likely quantiles: several times as fast as exact normals,
    and nothing is lost in 8 bits but what lies beyond 4.3 deviations.
    """
    bits = rng.bit_generator.random_raw((count + 3) // 4).astype("<u8", copy=False).view("<u2")
    noise = np.empty(count, dtype=np.float32)
    # No index can be out of range; with 'wrap' numpy neither checks nor buffers.
    return np.take(_quantiles(deviation), bits[:count], out=noise, mode="wrap")


@lru_cache(maxsize=4)
def _quantiles(deviation: float) -> np.ndarray:
    """(65536,) float32 quantiles of the normal of mean 128 and `deviation` x 255."""
    normal = statistics.NormalDist()
    upper = np.array([normal.inv_cdf((i + 0.5) / 65536) for i in range(32768, 65536)])
    upper /= np.sqrt((upper**2).mean())
    return (128 + 255 * deviation * np.concatenate([-upper[::-1], upper])).astype(np.float32)


@lru_cache(maxsize=16)
def _spot(side: int) -> np.ndarray:
    """(side, side) product of two Hann windows, about 1 at the centre."""
    hann = np.hanning(side + 2)[1:-1]
    return np.outer(hann, hann)


def _patch(image: AcuityImage) -> tuple[slice, slice]:
    return _square(image.top, image.left, image.side)


def _tint_patch(spec: AcuitySpec, image: AcuityImage) -> tuple[slice, slice]:
    """The spot: half as wide as the evidence, level with it, on its right where that fits."""
    side = image.side // 2
    right = image.left + image.side
    left = right if right + side <= spec.size else image.left - side
    return _square(image.top + (image.side - side) // 2, left, side)


def _square(top: int, left: int, side: int) -> tuple[slice, slice]:
    return slice(top, top + side), slice(left, left + side)


def _tint_class(spec: AcuitySpec, label: int, rng: np.random.Generator) -> str:
    """The image's own class with probability `shortcut_agreement`, else any other."""
    names = spec.class_names
    agrees = rng.random() < spec.shortcut_agreement
    return names[label if agrees else (label + int(rng.integers(1, len(names)))) % len(names)]


def _tint_colour(spec: AcuitySpec, class_name: str) -> np.ndarray:
    """(3,) unit vector without luminance (its sum is 0), a hue of its own for each class."""
    angle = 2 * math.pi * spec.class_names.index(class_name) / len(spec.class_names)
    first, second = np.array([1, -1, 0]) / math.sqrt(2), np.array([1, 1, -2]) / math.sqrt(6)
    return math.cos(angle) * first + math.sin(angle) * second
