"""Draws are pure functions of (seed, purpose, image): uniform, unrelated, and the same in any company."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resomap.data.randomness import derive_seed, epoch_order, generator, image_keys, uniforms

SEEDS = st.integers(-(2**70), 2**70)


@given(SEEDS, st.lists(st.one_of(st.integers(), st.text())))
def test_derive_seed_fits_torch_and_repeats(seed, parts):
    value = derive_seed(seed, *parts)
    assert 0 <= value < 2**63
    assert derive_seed(seed, *parts) == value


def test_derive_seed_tells_purposes_types_and_positions_apart():
    values = [derive_seed(*parts) for parts in [(0,), (1,), (0, 1), (0, "1"), (0, "a", "b"), (0, "b", "a"), (0, "ab")]]
    assert len(set(values)) == len(values)


def test_derive_seed_takes_names_that_are_not_unicode():
    assert derive_seed(0, "\udcff") != derive_seed(0, "\udcfe")


def test_derive_seed_is_the_same_in_another_process():
    # Python's own hash() differs between processes; a resumed run must not.
    code = "from resomap.data.randomness import derive_seed; print(derive_seed(3, 'image', 'a/ü.png'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == derive_seed(3, "image", "a/ü.png")


def test_generator_is_a_pure_function_of_its_arguments():
    first = generator(1, "x", 2).random(5)
    np.testing.assert_array_equal(generator(1, "x", 2).random(5), first)
    assert not np.array_equal(generator(1, "x", 3).random(5), first)


@given(st.integers(0, 200), SEEDS, st.integers(0, 10**6))
def test_epoch_order_is_a_permutation(n, seed, epoch):
    order = epoch_order(n, seed=seed, epoch=epoch)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))


def test_epoch_order_differs_between_epochs_and_seeds():
    orders = [tuple(epoch_order(50, seed=s, epoch=e)) for s in (0, 1) for e in (0, 1)]
    assert len(set(orders)) == 4


@given(st.lists(st.text(min_size=1), min_size=1, max_size=20, unique=True), SEEDS, st.randoms())
def test_uniforms_of_an_image_do_not_depend_on_its_company(ids, seed, random):
    together = uniforms(image_keys(ids), 5, seed=seed, epoch=3)
    chosen = random.sample(range(len(ids)), random.randint(1, len(ids)))
    apart = uniforms(image_keys([ids[i] for i in chosen]), 5, seed=seed, epoch=3)
    np.testing.assert_array_equal(apart, together[chosen])
    assert together.min() >= 0
    assert together.max() < 1


def test_uniforms_beginning_does_not_depend_on_how_many_are_drawn():
    keys = image_keys(["a", "b"])
    np.testing.assert_array_equal(uniforms(keys, 3, seed=0, epoch=0), uniforms(keys, 9, seed=0, epoch=0)[:, :3])


@pytest.mark.parametrize("pair", [(0, 1), (3, 17)], ids=str)
def test_uniforms_are_uniform_and_uncorrelated(pair):
    # 20,000 draws: the standard error of a mean is 0.289 / 141 = 0.002, of a correlation 0.007; five of each allowed.
    keys = image_keys([f"{i}.png" for i in range(20_000)])
    u = uniforms(keys, 20, seed=0, epoch=0)
    assert np.abs(u.mean(axis=0) - 0.5).max() < 0.0102
    assert np.abs(u.var(axis=0) - 1 / 12).max() < 0.003
    assert abs(np.corrcoef(u[:, pair[0]], u[:, pair[1]])[0, 1]) < 0.035
    later = uniforms(keys, 20, seed=0, epoch=1)
    assert abs(np.corrcoef(u[:, pair[0]], later[:, pair[0]])[0, 1]) < 0.035
    assert abs(np.corrcoef(u[:-1, pair[0]], u[1:, pair[0]])[0, 1]) < 0.035
