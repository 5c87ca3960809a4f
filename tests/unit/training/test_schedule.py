"""Learning-rate curves worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resomap.training.schedule import SCHEDULES, Plateau, Schedule, warmup_updates


def _curve(name: str, updates: int, **options: float) -> list[float]:
    schedule = Schedule(name, total_updates=updates, updates_per_epoch=2, **options)  # type: ignore[arg-type]
    return [schedule.factor(update) for update in range(updates)]


def test_schedule_cosine_follows_half_a_cosine():
    # cos(0), cos(45), cos(90), cos(135) degrees: 1, 0.7071, 0, -0.7071; (1 + c) / 2.
    assert _curve("cosine", 4) == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_schedule_cosine_starts_at_the_peak_after_warm_up():
    # Warm-up of 2: 1/2, 2/2; then half a cosine over the 4 left.
    assert _curve("cosine", 6, warmup_updates=2) == pytest.approx([0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_schedule_step_drops_at_epoch_boundaries():
    # 2 updates an epoch, a drop to a tenth every 2 epochs: updates 0-3, 4-7, 8-9.
    assert _curve("step", 10, step_epochs=2, gamma=0.1) == pytest.approx([1.0] * 4 + [0.1] * 4 + [0.01] * 2)


def test_schedule_exponential_loses_gamma_each_epoch():
    # 2 updates an epoch: sqrt(0.25) = 0.5 each update.
    assert _curve("exponential", 4, gamma=0.25) == pytest.approx([1.0, 0.5, 0.25, 0.125])


def test_schedule_exponential_decays_from_the_end_of_warm_up():
    assert _curve("exponential", 4, gamma=0.25, warmup_updates=2) == pytest.approx([0.5, 1.0, 1.0, 0.5])


@pytest.mark.parametrize("name", ["constant", "plateau"])
def test_schedule_constant_stays_at_the_peak_after_warm_up(name):
    assert _curve(name, 5, warmup_updates=4) == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_warmup_updates_takes_fractions_of_epochs():
    assert warmup_updates(0.5, updates_per_epoch=10, total_updates=100) == 5


def test_warmup_updates_leaves_one_update_at_the_peak():
    assert warmup_updates(5.0, updates_per_epoch=10, total_updates=20) == 19


def test_warmup_updates_of_a_single_update_is_none():
    assert warmup_updates(1.0, updates_per_epoch=1, total_updates=1) == 0


@given(
    name=st.sampled_from(SCHEDULES),
    total=st.integers(1, 400),
    per_epoch=st.integers(1, 50),
    warmup=st.floats(0, 10),
    gamma=st.floats(0.01, 0.99),
)
def test_schedule_factor_is_a_share_that_never_rises_after_warm_up(name, total, per_epoch, warmup, gamma):
    first = warmup_updates(warmup, updates_per_epoch=per_epoch, total_updates=total)
    schedule = Schedule(name, total, per_epoch, warmup_updates=first, gamma=gamma)
    factors = [schedule.factor(update) for update in range(total)]
    assert all(0.0 <= factor <= 1.0 for factor in factors)
    assert all(later <= earlier for earlier, later in zip(factors[first:], factors[first + 1 :], strict=False))
    assert factors[:first] == sorted(factors[:first])


def test_plateau_drops_after_patience_epochs_without_improvement():
    plateau = Plateau(gamma=0.5, patience=2)
    seen = []
    # 1.0 best; 1.0, 1.0: two without -> drop; 0.9 best; 0.95, 0.95: drop again.
    for loss in (1.0, 1.0, 1.0, 0.9, 0.95, 0.95):
        plateau.step(loss)
        seen.append(plateau.factor)
    assert seen == [1.0, 1.0, 0.5, 0.5, 0.5, 0.25]


def test_plateau_takes_a_tiny_gain_for_none():
    plateau = Plateau(gamma=0.5, patience=1)
    plateau.step(1.0)
    plateau.step(0.99999)  # 0.001 % smaller: under the threshold of 0.01 %
    assert plateau.factor == 0.5


def test_plateau_state_continues_where_it_was():
    one, other = Plateau(gamma=0.5, patience=2), Plateau(gamma=0.5, patience=2)
    for loss in (1.0, 2.0):
        one.step(loss)
    other.load_state_dict(one.state_dict())
    other.step(2.0)
    assert other.factor == 0.5
