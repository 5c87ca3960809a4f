"""Randomness as a pure function: what happens to an image depends on (seed, epoch, image id) and nothing else.

Neither the number of workers, nor the batch, nor a restart can change it.
"""

from __future__ import annotations

import hashlib

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_TO_UNIT = 2.0**-53


def derive_seed(seed: int, *parts: int | str) -> int:
    """A seed below 2^63 for one purpose: the hash of (seed, parts)."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in (seed, *parts))
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *parts: int | str) -> np.random.Generator:
    """A counter-based generator (Philox) for one purpose."""
    return np.random.Generator(np.random.Philox(key=derive_seed(seed, *parts)))


def epoch_order(n: int, *, seed: int, epoch: int) -> np.ndarray:
    """(n,) int64: the order in which an epoch visits n images."""
    return generator(seed, "order", epoch).permutation(n)


def image_keys(image_ids: list[str]) -> np.ndarray:
    """(n,) uint64: what an image's randomness is derived from, once for all epochs."""
    return np.array([derive_seed(0, "image", image_id) for image_id in image_ids], dtype=np.uint64)


def uniforms(keys: np.ndarray, count: int, *, seed: int, epoch: int) -> np.ndarray:
    """(n, count) float64 in [0, 1): the draws of n images in one epoch.

    A counter mixed by SplitMix64's finaliser, vectorised over images: a generator object for each image would cost
    more than resizing it. Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    """
    start = np.uint64(derive_seed(seed, "augmentation", epoch))
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    mixed = _mix(_mix(keys ^ start)[:, None] + steps)
    return (mixed >> np.uint64(11)).astype(np.float64) * _TO_UNIT


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
