"""Autotune on a network whose speed is planted: its forward pass moves the clock."""

import math

import pytest
import torch
from torch import nn

from resomap.records import TunedSettings
from resomap.training.autotune import (
    SHARE,
    Options,
    Setting,
    affordable,
    micro_batches,
    pick,
    plans,
    tune,
    untuned,
)

CPU = torch.device("cpu")
OPEN = Options(precisions=("no", "bf16"), formats=(True, False), micro_batches=(32, 16, 8))
SIDES = (16, 32)


class PlantedNetwork(nn.Module):
    """Takes `speed(bf16, NHWC, images, side)` seconds an image, by a clock of its own."""

    def __init__(self, speed):
        super().__init__()
        self.classifier = nn.Linear(3, 2)
        self.speed, self.now, self.calls = speed, 0.0, 0

    def forward(self, images_BCHW):
        count, side = len(images_BCHW), images_BCHW.shape[-1]
        nhwc = images_BCHW.is_contiguous(memory_format=torch.channels_last)
        self.now += count * self.speed(torch.is_autocast_enabled("cpu"), nhwc, count, side)
        self.calls += 1
        return self.classifier(images_BCHW.mean((2, 3)))

    def clock(self):
        return self.now


def tuned(network, *, images, options=OPEN):
    return tune(network, options, sides=SIDES, images=images, num_classes=2, device=CPU, clock=network.clock)


@pytest.mark.parametrize(("largest", "expected"), [(32, (32, 16, 8)), (12, (12,)), (4, (4,)), (16, (16, 8))])
def test_micro_batches_are_halves_down_to_8(largest, expected):
    assert micro_batches(largest) == expected


def test_effort_grows_with_what_the_training_pays_for():
    # 2 precisions, 5 rounds, the middle side (32): 4 images cost 40 x 32^2, the training N (16^2 + 32^2) x 0.02.
    least = 40 * 32**2 / (SHARE * (16**2 + 32**2))
    assert affordable(OPEN, SIDES, images=least - 1) == 0
    assert affordable(OPEN, SIDES, images=least + 1) == 1
    # Everything: 12 settings, 5 rounds, 32 images.
    most = 12 * 5 * 32 / SHARE
    assert affordable(OPEN, SIDES, images=most - 1) == 4
    assert affordable(OPEN, SIDES, images=most + 1) == 5


def test_what_was_given_is_not_searched():
    given = Options(precisions=("bf16",), formats=(True,), micro_batches=(32, 16, 8))
    assert [len(stages) for stages in plans(given, SIDES)] == [0, 0, 0, 1, 1]
    assert affordable(given, SIDES, images=1e9) == 5
    chosen = tuned(PlantedNetwork(lambda bf16, nhwc, count, side: 1.0 if bf16 else 0.1), images=1e6, options=given)
    assert (chosen.precision, chosen.micro_batch) == ("bf16", 32)


def test_short_training_is_not_tuned():
    network = PlantedNetwork(lambda *_: 1.0)
    assert tuned(network, images=100) == untuned(OPEN, SIDES)
    assert network.calls == 0


@pytest.mark.parametrize("images", [1e5, 5e4, 7e3, 2e3])
def test_the_planted_best_is_found_within_its_share_of_the_time(images):
    def speed(bf16, nhwc, count, side):
        return side**2 * (1.0 if nhwc else 1.4) * (0.4 if bf16 else 1.0) * (1.0 if count <= 16 else 2.0)

    network = PlantedNetwork(speed)
    chosen = tuned(network, images=images)
    assert chosen.precision == "bf16"
    # Too short a training cannot pay for the search for a micro-batch.
    assert chosen.micro_batch == (16 if chosen.effort >= 4 else 32)
    assert chosen.channels_last == {16: True, 32: True}
    training_s = images * sum(speed(True, True, chosen.micro_batch, side) for side in SIDES)
    assert network.now == chosen.seconds < 0.03 * training_s


def test_precision_is_one_for_all_sides_and_the_format_is_not():
    # bf16 wins at 16 and loses more at 32, so fp32 is faster in total; NCHW is faster at 16 only.
    def speed(bf16, nhwc, count, side):
        return {(16, True): 0.5, (16, False): 1.0, (32, True): 6.0, (32, False): 4.0}[side, bf16] * (
            0.8 if nhwc == (side == 32) else 1.0
        )

    chosen = tuned(PlantedNetwork(speed), images=1e6)
    assert (chosen.precision, chosen.micro_batch) == ("no", 32)
    assert chosen.channels_last == {16: False, 32: True}


def test_near_ties_keep_what_is_preferred():
    times = {
        (Setting(p, True, m), 32): t for (p, m), t in {("no", 32): 1.03, ("no", 16): 1.01, ("bf16", 32): 1.0}.items()
    }
    options = Options(("no", "bf16"), (True,), (32, 16))
    assert pick(options, times, before=untuned(options, (32,))) == TunedSettings("no", 32, {32: True}, effort=0)
    times[Setting("no", True, 32), 32] = 1.05
    assert pick(options, times, before=untuned(options, (32,))).micro_batch == 16


def test_a_setting_that_does_not_fit_the_memory_is_not_chosen(monkeypatch):
    def speed(bf16, nhwc, count, side):
        if count > 8:
            raise torch.OutOfMemoryError
        return 1.0

    chosen = tuned(PlantedNetwork(speed), images=1e6)
    assert chosen.micro_batch == 8
    assert math.isfinite(chosen.gain)


def test_weights_and_random_state_stay():
    network = PlantedNetwork(lambda *_: 1.0)
    before = [p.clone() for p in network.parameters()]
    state = torch.get_rng_state()
    tuned(network, images=1e6)
    assert network.calls
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(state, torch.get_rng_state())
