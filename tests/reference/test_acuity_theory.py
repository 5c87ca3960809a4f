"""The closed form of acuity's ideal observer against Pillow, scipy and drawn images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from resomap.data import acuity_signal as signal
from resomap.data.acuity_render import AcuitySpec, describe, render
from resomap.data.acuity_theory import (
    IdealObserver,
    ideal_accuracy,
    ideal_dprime,
    placements,
    resize_matrix,
)
from resomap.errors import ConfigError, ResoMapError

KERNELS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


def resized(image: np.ndarray, resolution: int, kernel: str) -> np.ndarray:
    """(r, r) of (n, n), by Pillow in float."""
    picture = Image.fromarray(image.astype(np.float32))
    return np.asarray(picture.resize((resolution, resolution), KERNELS[kernel]), dtype=np.float64)


def template(size: int, place: signal.Placement, band: float) -> np.ndarray:
    """(n, n) difference of a band's two classes at amplitude 1."""
    image = np.zeros((size, size))
    side = signal.patch_side(size)
    patch = image[place.top : place.top + side, place.left : place.left + side]
    patch += signal.evidence(size, band=band, orientation="horizontal", phase=place.phase)
    patch -= signal.evidence(size, band=band, orientation="vertical", phase=place.phase)
    return image


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("resolution", [20, 48, 64, 80])
def test_resize_matrix_is_pillows_resize(kernel, resolution):
    image = np.random.default_rng(0).random((64, 64))
    matrix = resize_matrix(64, resolution, kernel)
    np.testing.assert_allclose(matrix @ image @ matrix.T, resized(image, resolution, kernel), atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_dprime_equals_the_unfactored_formula(kernel):
    # Small enough for the whole covariance: 24 x 24 pixels of a 64-pixel image.
    size, resolution, band, sigma, rms = 64, 24, 10.0, 0.1, 0.05
    matrix, factor = resize_matrix(size, resolution, kernel), signal.background_factor(size)
    white, coloured = matrix @ matrix.T, matrix @ factor @ factor.T @ matrix.T
    covariance = sigma**2 * np.kron(white, white) + rms**2 * np.kron(coloured, coloured)
    evidence = [(matrix @ template(size, place, band) @ matrix.T).ravel() for place in placements(size)]
    squared = 3 * (np.array(evidence).T * np.linalg.solve(covariance, np.array(evidence).T)).sum(axis=0)
    observer = IdealObserver(
        kernel=kernel, size=size, bands=(band,), native_dprime=5.0, white_noise=sigma, background=rms
    )
    assert observer.dprime(resolution, band) == pytest.approx(observer.amplitude * np.sqrt(np.mean(squared)))
    accuracy = stats.norm.cdf(observer.amplitude * np.sqrt(squared) / 2).mean()
    assert observer.within_band(resolution, band) == pytest.approx(accuracy)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "resolution"), [("lanczos", 24), ("bilinear", 20), ("box", 24)])
def test_matched_filter_on_drawn_8_bit_images_reaches_the_closed_form(kernel, resolution):
    """Images as written, Pillow's own 8-bit resize, the optimal linear rule: the predicted accuracy."""
    spec = AcuitySpec(size=64, bands=(12.0,), native_dprime=3.0, train=1600)
    observer = spec.observer(kernel)
    matrix, factor = resize_matrix(64, resolution, kernel), signal.background_factor(64)
    white, coloured = matrix @ matrix.T, matrix @ factor @ factor.T @ matrix.T
    covariance = spec.white_noise**2 * np.kron(white, white)
    covariance += spec.background**2 * np.kron(coloured, coloured)
    correct, amplitude = [], observer.amplitude
    inverse = np.linalg.inv(covariance)
    for index in range(spec.train):
        entry = describe(spec, "train", index)
        place = signal.Placement(entry.top, entry.left, entry.phase)
        picture = Image.fromarray(render(spec, entry)).resize((resolution, resolution), KERNELS[kernel])
        grey = np.asarray(picture, dtype=np.float64).sum(axis=2).ravel() / 255 - 1.5
        # Both classes have the same energy only on average over phases, hence the middle.
        first, second = (
            (matrix @ _class_evidence(place, orientation) @ matrix.T).ravel() * amplitude
            for orientation in signal.ORIENTATIONS
        )
        score = (first - second) @ inverse @ (grey - 3 * (first + second) / 2)
        correct.append((score > 0) == (entry.orientation == "horizontal"))
    expected = observer.within_band(resolution, 12.0)
    error = np.sqrt(expected * (1 - expected) / len(correct))
    assert 0.6 < expected < 0.97  # else the comparison would prove little
    assert abs(np.mean(correct) - expected) < 3 * error


def _class_evidence(place: signal.Placement, orientation: str) -> np.ndarray:
    image = np.zeros((64, 64))
    image[place.top : place.top + 16, place.left : place.left + 16] = signal.evidence(
        64, band=12.0, orientation=orientation, phase=place.phase
    )
    return image


@pytest.mark.parametrize("bands", [signal.BANDS, (20.0, 30.0, 44.0)])
def test_native_dprime_is_the_one_asked_for_in_every_standard_band(bands):
    observer = IdealObserver(bands=bands, native_dprime=7.0)
    values = [observer.dprime(256, band) for band in bands]
    assert min(values) == pytest.approx(7.0)
    assert max(values) < 7.0 * 1.01


def test_one_band_overall_is_within_band():
    observer = IdealObserver(bands=(26.0,), native_dprime=2.0)
    assert observer.overall(256) == pytest.approx(stats.norm.cdf(1.0), abs=0.005)
    assert observer.within_band(256, 26.0) == pytest.approx(stats.norm.cdf(1.0), abs=1e-3)


def test_overall_of_orthogonal_classes_equals_the_known_integral():
    # Four equally strong, nearly orthogonal templates (bands far apart, no background) of length
    # d'/sqrt(2): P(correct) = integral of phi(x - length) Phi(x)^3.
    observer = IdealObserver(bands=(30.0, 80.0), native_dprime=2.0, background=0.0)
    x = np.linspace(-8, 12, 20_001)
    integrand = stats.norm.pdf(x - np.sqrt(2)) * stats.norm.cdf(x) ** 3
    assert observer.overall(256) == pytest.approx(np.trapezoid(integrand, x), abs=0.004)


def test_default_set_has_its_limits_at_48_and_96():
    observer = IdealObserver()
    enough = {band: [side for side in (32, 48, 64, 96, 128) if observer.within_band(side, band) >= 0.95]
              for band in signal.BANDS}  # fmt: skip
    assert list(enough.values()) == [[48, 64, 96, 128], [96, 128]]
    # One resolution below the limit the observer itself is near chance.
    assert observer.within_band(32, signal.BANDS[0]) < 0.7
    assert observer.within_band(64, signal.BANDS[1]) < 0.7


def test_lost_bands_leave_chance_and_known_ones_do_not():
    observer = IdealObserver(bands=(26.0, 46.0), native_dprime=4.0)
    assert observer.within_band(16, 46.0) == pytest.approx(0.5, abs=0.01)
    assert observer.overall(16) == pytest.approx(0.25, abs=0.02)
    assert observer.within_band(48, 26.0) > 0.8 > observer.within_band(48, 46.0)
    assert observer.overall(16) < observer.overall(48) < observer.overall(128)


@pytest.mark.parametrize("kernel", KERNELS)
def test_resizing_never_adds_evidence_and_upsampling_loses_none(kernel):
    native = ideal_dprime(64, band=12.0, kernel=kernel, size=64, native_dprime=3.0)
    assert native == pytest.approx(3.0)
    for resolution in (16, 24, 32, 48, 63):
        assert ideal_dprime(resolution, band=12.0, kernel=kernel, size=64, native_dprime=3.0) < native
    assert ideal_dprime(96, band=12.0, kernel=kernel, size=64, native_dprime=3.0) == pytest.approx(native)


def test_accuracy_is_at_most_phi_of_half_the_rms_dprime():
    # Phi(sqrt(x)/2) is concave in x, so averaging over phases can only lose.
    for resolution in (16, 24, 32, 64):
        dprime = ideal_dprime(resolution, band=12.0, size=64, native_dprime=3.0)
        accuracy = ideal_accuracy(resolution, band=12.0, size=64, native_dprime=3.0)
        assert 0.5 <= accuracy <= stats.norm.cdf(dprime / 2) + 1e-12


def test_null_bands_are_whole_at_every_resolution_from_32():
    observer = AcuitySpec(variant="null").observer()
    dprimes = [observer.dprime(side, band) for side in (32, 48, 96) for band in observer.bands]
    assert len(dprimes) == 3 * len(observer.bands) > 0
    assert min(dprimes) > 0.9 * observer.native_dprime


def test_placements_cover_the_image_evenly():
    places = placements(256)
    tops = np.array([place.top for place in places])
    assert tops.min() >= 0
    assert tops.max() <= 256 - 64
    # Every quarter of the range gets a quarter of the placements, give or take two.
    counts = np.histogram(tops, bins=4, range=(0, 193))[0]
    np.testing.assert_allclose(counts, 32, atol=2)
    assert abs(np.exp(1j * np.array([place.phase for place in places])).mean()) < 0.03


def test_unknown_kernel_and_resolution_are_named():
    with pytest.raises(ConfigError, match="expected one of bilinear, bicubic, lanczos, box, got 'nearest'"):
        ideal_accuracy(32, band=26.0, kernel="nearest")
    with pytest.raises(ConfigError, match="expected 1 or more pixels, got 0"):
        ideal_dprime(0, band=26.0)


@pytest.mark.parametrize("band", [-3, 0, 0.0, 200, float("nan"), float("inf"), "27", True, 3.9, 121])
def test_bands_that_no_image_can_show_are_refused(band):
    """At 256 px from 4 cycles, one a patch, to 120: Nyquist's 128 less two cycles a patch of 64 px, which are 8."""
    with pytest.raises(ResoMapError, match="band"):
        ideal_accuracy(64, band=band)


@pytest.mark.parametrize("options", [{"size": 63}, {"size": 64.5}, {"native_dprime": 0}, {"native_dprime": -1.0}])
def test_sizes_and_strengths_that_make_no_image_are_refused(options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))}: expected"):
        ideal_accuracy(64, **{"band": 8.0} | options)


@pytest.mark.parametrize("resolution", [-1, 2.5, True, "64", None])
def test_resolutions_that_are_no_number_of_pixels_are_refused(resolution):
    with pytest.raises(ConfigError, match="resolution: expected 1 or more pixels"):
        ideal_accuracy(resolution, band=26.0)
