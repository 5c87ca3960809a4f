"""The ideal observer of acuity: what accuracy the pixels themselves allow at a resolution.

With s the difference of two classes, W the resize along one axis (taken from Pillow itself), white
noise sigma and background F Z F^T of RMS b, the resized image has the covariance
sigma^2 K (x) K + b^2 Q (x) Q, K = W W^T, Q = (W F)(W F)^T, and

    d'^2 = 3 (W s W^T)^T covariance^-1 (W s W^T),        two-class accuracy = Phi(d' / 2)

3 for the independent channels. K and Q are diagonalised together (P K P^T = 1, P Q P^T = diag(l)), so
only r x r matrices are handled: with u = P W g, v = P W w and M_ij = 1 / (sigma^2 + b^2 l_i l_j),
<u v^T, u' v'^T> = sum_ij u_i u'_i M_ij v_j v'_j. Directions of K that carry nothing (upsampling
makes them) are left out, so beyond the native size nothing is gained.

The observer knows band, place and phase; a network has to find them, so it stays below. Averages are
over PLACEMENTS places and phases of a low-discrepancy sequence. The rounding to 8 bits is left out.

Legend: r resolution, n native side, N placements, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from resomap.checks import is_number, is_whole
from resomap.data import acuity_signal as signal
from resomap.data.resize import KERNELS
from resomap.errors import ConfigError

PLACEMENTS = 128

_CHANNELS = 3
_DRAWS = 1024


@dataclass(frozen=True, slots=True)
class IdealObserver:
    """The observer of one acuity set through one resize kernel.

    `bands` are those that carry the evidence (`evidence_bands` for the null variant), in cycles an
    image. They share one amplitude: the weakest has `native_dprime` at native size.
    """

    kernel: str = "lanczos"
    size: int = signal.SIZE
    bands: tuple[float, ...] = signal.BANDS
    native_dprime: float = signal.NATIVE_DPRIME
    white_noise: float = signal.WHITE_NOISE
    background: float = signal.BACKGROUND

    @property
    def amplitude(self) -> float:
        """Root of the evidence's sum of squares in one channel, grey values 0..1."""
        weakest = min(_rms(self._unit_dprimes(self.size, band)) for band in self.bands)
        return self.native_dprime / weakest

    def dprime(self, resolution: int, band: float) -> float:
        """d' between the two orientations of `band`, root mean square over placements."""
        return self.amplitude * _rms(self._unit_dprimes(resolution, band))

    def within_band(self, resolution: int, band: float) -> float:
        """Accuracy of telling the two orientations of `band` apart: mean of Phi(d'/2) over placements."""
        dprimes = self.amplitude * self._unit_dprimes(resolution, band)
        return float(np.mean([_normal_cdf(value / 2) for value in dprimes]))

    def overall(self, resolution: int) -> float:
        """Accuracy over all classes of picking the likeliest, place and phase known.

        Its decision variables are jointly normal and are drawn (fixed seed, standard error under
        0.2 %), which needs no images.
        """
        return _likeliest_accuracy(self.amplitude**2 * self._gram(resolution, self._classes()))

    def _classes(self) -> tuple[tuple[float, str], ...]:
        return tuple((band, orientation) for band in self.bands for orientation in signal.ORIENTATIONS)

    def _unit_dprimes(self, resolution: int, band: float) -> np.ndarray:
        """(N,) d' at amplitude 1."""
        gram_N22 = self._gram(resolution, tuple((band, orientation) for orientation in signal.ORIENTATIONS))
        squared = gram_N22[:, 0, 0] - 2 * gram_N22[:, 0, 1] + gram_N22[:, 1, 1]
        return np.sqrt(np.maximum(squared, 0.0))

    def _gram(self, resolution: int, classes: tuple[tuple[float, str], ...]) -> np.ndarray:
        return _gram(resolution, classes, self.kernel, self.size, self.white_noise, self.background)


def ideal_dprime(
    resolution: int,
    *,
    band: float,
    kernel: str = "lanczos",
    size: int = signal.SIZE,
    native_dprime: float = signal.NATIVE_DPRIME,
) -> float:
    """d' between the two orientations of a band at a resolution; root mean square over placements.

    For a set of several bands, its classes together, or other noise see `IdealObserver`.

    Args:
        band: cycles an image.
        kernel: 'bilinear', 'bicubic', 'lanczos' or 'box', Pillow's antialiased resize.
        native_dprime: d' at native size, which sets the amplitude.
    Raises:
        ConfigError: unknown kernel, or a number that is none or out of range.
        DatasetError: a band that an image of that size cannot show.
    """
    return _observer(resolution, band, kernel, size, native_dprime).dprime(resolution, band)


def ideal_accuracy(
    resolution: int,
    *,
    band: float,
    kernel: str = "lanczos",
    size: int = signal.SIZE,
    native_dprime: float = signal.NATIVE_DPRIME,
) -> float:
    """Accuracy of telling a band's two orientations apart: Phi(d'/2), averaged over placements.

    Arguments and errors as for `ideal_dprime`. Where d' depends on place and phase (evidence near the
    limit) the mean of Phi(d'/2) is a little below Phi of half the root mean square.
    """
    return _observer(resolution, band, kernel, size, native_dprime).within_band(resolution, band)


def _observer(resolution: int, band: float, kernel: str, size: int, native_dprime: float) -> IdealObserver:
    """The observer of a set of one band, where there can be one."""
    for name, pixels, least in (("resolution", resolution, 1), ("size", size, signal.LEAST_SIZE)):
        if not is_whole(pixels) or pixels < least:
            raise ConfigError(f"{name}: expected {least} or more pixels, got {pixels!r}")
    for name, number in (("band", band), ("native_dprime", native_dprime)):
        if not is_number(number) or not 0 < number < math.inf:
            raise ConfigError(f"{name}: expected a number above 0, got {number!r}")
    signal.check_bands((float(band),), size)
    return IdealObserver(kernel=kernel, size=size, bands=(band,), native_dprime=native_dprime)


@lru_cache(maxsize=64)
def resize_matrix(size: int, resolution: int, kernel: str) -> np.ndarray:
    """(r, n) float64 weights that Pillow applies along one axis, read off by resizing unit impulses.

    Raises:
        ConfigError: unknown kernel, or a resolution below 1.
    """
    if kernel not in KERNELS:
        raise ConfigError(f"resize kernel: expected one of {', '.join(KERNELS)}, got {kernel!r}")
    if resolution < 1:
        raise ConfigError(f"resolution: expected 1 or more pixels, got {resolution}")
    impulses = Image.fromarray(np.eye(size, dtype=np.float32))
    matrix = np.asarray(impulses.resize((size, resolution), KERNELS[kernel]), dtype=np.float64)
    matrix.flags.writeable = False
    return matrix


@lru_cache(maxsize=16)
def placements(size: int) -> tuple[signal.Placement, ...]:
    """PLACEMENTS places and phases that cover the possible ones evenly (the R3 sequence).

    Reference: M. Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018.
    """
    root = 1.2207440846057596  # the real solution of x^4 = x + 1
    steps = np.array([root**-1, root**-2, root**-3])
    free = size - signal.patch_side(size) + 1
    points = (0.5 + np.arange(1, PLACEMENTS + 1)[:, None] * steps) % 1
    return tuple(signal.Placement(int(y * free), int(x * free), 2 * math.pi * p) for y, x, p in points)


@lru_cache(maxsize=64)
def _whitener(
    size: int, resolution: int, kernel: str, white_noise: float, background: float
) -> tuple[np.ndarray, np.ndarray]:
    """(k, n) P W and (k, k) M of the module's formula; k <= min(r, n)."""
    matrix = resize_matrix(size, resolution, kernel)
    variances, axes = np.linalg.eigh(matrix @ matrix.T)
    carried = variances > 1e-9 * variances[-1]
    whiten = (axes[:, carried] / np.sqrt(variances[carried])).T @ matrix
    coloured = whiten @ signal.background_factor(size)
    powers, turn = np.linalg.eigh(coloured @ coloured.T)
    weights = 1 / (white_noise**2 + background**2 * np.outer(powers, powers).clip(min=0))
    return turn.T @ whiten, weights


@lru_cache(maxsize=256)
def _gram(
    resolution: int,
    classes: tuple[tuple[float, str], ...],
    kernel: str,
    size: int,
    white_noise: float,
    background: float,
) -> np.ndarray:
    """(N, C, C) products t_i^T covariance^-1 t_j of the classes' resized evidence at amplitude 1."""
    project, weights = _whitener(size, resolution, kernel, white_noise, background)
    rows, columns = zip(*(_projected(project, size, *kind) for kind in classes), strict=True)
    gram = np.empty((PLACEMENTS, len(classes), len(classes)))
    for i in range(len(classes)):
        for j in range(len(classes)):
            gram[:, i, j] = ((rows[i] * rows[j]) @ weights * (columns[i] * columns[j])).sum(axis=1)
    gram *= _CHANNELS
    gram.flags.writeable = False
    return gram


def _projected(project: np.ndarray, size: int, band: float, orientation: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, k) row and (N, k) column profile of one class at each placement, resized and whitened."""
    side = signal.patch_side(size)
    rows, columns = np.zeros((PLACEMENTS, size)), np.zeros((PLACEMENTS, size))
    for n, place in enumerate(placements(size)):
        stripes = signal.grating(size, band=band, phase=place.phase)
        horizontal = orientation == "horizontal"
        rows[n, place.top : place.top + side] = stripes if horizontal else signal.window(size)
        columns[n, place.left : place.left + side] = signal.window(size) if horizontal else stripes
    return rows @ project.T, columns @ project.T


def _likeliest_accuracy(gram_NCC: np.ndarray) -> float:
    """P(argmax of the log-likelihoods is the true class), equal priors.

    Given class j the log-likelihoods are normal with mean gram_ij - gram_ii / 2 and covariance gram.
    """
    count = gram_NCC.shape[1]
    rng = np.random.Generator(np.random.Philox(key=0))
    correct = 0
    for gram_CC in gram_NCC:
        variances, axes = np.linalg.eigh(gram_CC)
        noise_SC = rng.standard_normal((_DRAWS, count)) @ (axes * np.sqrt(variances.clip(min=0))).T
        for j in range(count):
            scores_SC = noise_SC + gram_CC[:, j] - np.diag(gram_CC) / 2
            correct += int((scores_SC.argmax(axis=1) == j).sum())
    return correct / (_DRAWS * count * len(gram_NCC))


def _normal_cdf(value: float) -> float:
    return 0.5 * math.erfc(-value / math.sqrt(2))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))
