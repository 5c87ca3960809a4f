"""What training images go through: which region, which flips, which colours; drawn before any pixel is touched.

Geometry is drawn in fractions of the image, so every resolution of a seed sees the same regions. Draws are vectorised
over a batch (legend: B images) and are pure functions of (seed, epoch, image id).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from resomap.checks import is_number
from resomap.data.randomness import uniforms
from resomap.errors import ConfigError
from resomap.records import CropBox

_TRIES = 10
"""Boxes drawn until one fits into the image, as torchvision's RandomResizedCrop does."""
_FIXED_DRAWS = 12


_RANGES = {
    **dict.fromkeys(("horizontal_flip", "vertical_flip", "blur_probability"), 1.0),
    **dict.fromkeys(("brightness", "contrast", "saturation"), math.inf),
    "hue": 0.5,
    "rotation_degrees": 180.0,
}
"""Settings that are numbers from 0, and their highest values."""


@dataclass(frozen=True, slots=True)
class AugmentationSettings:
    """Strengths; all zero and crop 'center' leaves the evaluation image.

    scale: share of the image's area that a crop covers; ratio: its width / height. Flips and blur are
    probabilities. brightness, contrast, saturation: factors from [1 - x, 1 + x]; hue in turns; blur_sigma in
    fractions of the side.
    """

    crop: str = "random_resized"
    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0
    rotation_degrees: float = 0.0
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.0005, 0.005)

    def __post_init__(self) -> None:
        if self.crop not in ("random_resized", "center"):
            raise ConfigError(f"crop: expected 'random_resized' or 'center', got {self.crop!r}")
        for name, highest in _RANGES.items():
            value = getattr(self, name)
            if not (is_number(value) and 0 <= value <= highest and value < math.inf):
                raise ConfigError(f"{name}: expected a number from 0 to {highest:g}, got {value!r}")
        if not 0 <= self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ConfigError(f"blur_sigma: expected 0 <= low <= high, got {self.blur_sigma}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"scale: expected 0 < low <= high <= 1, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"ratio: expected 0 < low <= high, got {self.ratio}")

    @property
    def jitters(self) -> bool:
        """Whether colours change."""
        return max(self.brightness, self.contrast, self.saturation) > 0

    @property
    def warps(self) -> bool:
        """Whether pixels are processed again after the crop: hue, rotation or blur."""
        return max(self.hue, self.rotation_degrees, self.blur_probability) > 0


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """One epoch's choices for B images.

    boxes (B, 4): top, left, height, width in fractions. The rest is (B,): flips bool, colour factors around 1,
    hue in turns, angle in degrees, sigma of the blur in fractions of the side (0: none).
    """

    boxes: np.ndarray
    flip_x: np.ndarray
    flip_y: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    saturation: np.ndarray
    hue: np.ndarray
    angle: np.ndarray
    sigma: np.ndarray

    def box(self, index: int) -> CropBox:
        return CropBox(*self.boxes[index].tolist())


def draw(settings: AugmentationSettings, sizes_B2: np.ndarray, *, keys_B: np.ndarray, seed: int, epoch: int) -> Draws:
    """Choose what happens to B images in one epoch.

    Args:
        sizes_B2: native height and width in pixels.
        keys_B: randomness.image_keys of the images; what is drawn for one does not depend on the others.
    """
    u = uniforms(keys_B, _FIXED_DRAWS + 2 * _TRIES, seed=seed, epoch=epoch)
    low, high = settings.blur_sigma
    blurred = u[:, 7] < settings.blur_probability
    return Draws(
        boxes=_boxes(settings, sizes_B2, u),
        flip_x=u[:, 0] < settings.horizontal_flip,
        flip_y=u[:, 1] < settings.vertical_flip,
        brightness=_factor(u[:, 2], settings.brightness),
        contrast=_factor(u[:, 3], settings.contrast),
        saturation=_factor(u[:, 4], settings.saturation),
        hue=settings.hue * (2 * u[:, 5] - 1),
        angle=settings.rotation_degrees * (2 * u[:, 6] - 1),
        sigma=np.where(blurred, low + (high - low) * u[:, 8], 0.0),
    )


def _factor(u_B: np.ndarray, strength: float) -> np.ndarray:
    return np.maximum(0.0, 1 + strength * (2 * u_B - 1))


def _boxes(settings: AugmentationSettings, sizes_B2: np.ndarray, u: np.ndarray) -> np.ndarray:
    """(B, 4) random-resized boxes: area and log aspect uniform, first of ten that fits, else the largest square."""
    height_B1, width_B1 = (sizes_B2[:, i : i + 1].astype(np.float64) for i in (0, 1))
    tries_BT2 = u[:, _FIXED_DRAWS:].reshape(len(u), _TRIES, 2)
    area = height_B1 * width_B1 * (settings.scale[0] + np.diff(settings.scale) * tries_BT2[:, :, 0])
    log_low, log_high = np.log(settings.ratio)
    ratio = np.exp(log_low + (log_high - log_low) * tries_BT2[:, :, 1])
    w_BT, h_BT = np.sqrt(area * ratio) / width_B1, np.sqrt(area / ratio) / height_B1
    fits_BT = (w_BT <= 1) & (h_BT <= 1)
    first_B = fits_BT.argmax(axis=1)
    rows = np.arange(len(u))
    short = sizes_B2.min(axis=1)
    none_fits = ~fits_BT.any(axis=1)
    h_B = np.where(none_fits, short / sizes_B2[:, 0], h_BT[rows, first_B])
    w_B = np.where(none_fits, short / sizes_B2[:, 1], w_BT[rows, first_B])
    return np.stack([(1 - h_B) * u[:, 9], (1 - w_B) * u[:, 10], h_B, w_B], axis=1)


@dataclass(frozen=True, slots=True)
class ResolutionAwareAugmentation:
    """Stronger augmentation at high resolution, gentler and detail-preserving at low resolution.

    Off by default: when augmentation differs by resolution, resolution is not all that changes, and the report
    says so. At `low` the strengths are multiplied by `gentle`, at `high` by `strong`, linearly in log(resolution)
    between; crops at low resolution cover more of the image, and there is no blur below the geometric middle.

    Raises:
        ConfigError: low above high, gentle above strong, or either below 0.
    """

    base: AugmentationSettings
    low: int = 224
    high: int = 512
    gentle: float = 0.5
    strong: float = 1.5

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ConfigError(f"low, high: expected sides with 0 < low <= high, got {self.low} and {self.high}")
        if not 0 <= self.gentle <= self.strong < np.inf:
            raise ConfigError(
                f"gentle, strong: expected factors with 0 <= gentle <= strong, got {self.gentle} and {self.strong}"
            )

    def at(self, resolution: int) -> AugmentationSettings:
        """The settings for one resolution."""
        t = self._position(resolution)
        factor = self.gentle + (self.strong - self.gentle) * t
        base = self.base
        return replace(
            base,
            scale=(max(1e-3, 1 - min(1.0, (1 - base.scale[0]) * factor)), base.scale[1])
            if base.scale[1] == 1
            else base.scale,
            brightness=base.brightness * factor,
            contrast=base.contrast * factor,
            saturation=base.saturation * factor,
            hue=min(0.5, base.hue * factor),
            rotation_degrees=min(180.0, base.rotation_degrees * factor),
            blur_probability=min(1.0, base.blur_probability * factor) if t >= 0.5 else 0.0,
        )

    def _position(self, resolution: int) -> float:
        """0 at `low`, 1 at `high`, in log scale, clipped; the middle where both are the same."""
        if self.high <= self.low:
            return 0.5
        return float(np.clip(np.log(resolution / self.low) / np.log(self.high / self.low), 0, 1))
