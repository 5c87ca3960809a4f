"""Autotune on a network whose speed is planted: its forward pass moves the clock."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from resomap.records import TunedSettings
from resomap.training.autotune import (
    SHARE,
    SHORTEST_S,
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


def tuned(network, *, images, options=OPEN, **more):
    return tune(network, options, sides=SIDES, images=images, num_classes=2, device=CPU, clock=network.clock, **more)


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


def test_a_training_of_less_than_a_minute_is_not_tuned():
    # 1e5 images at both sides: 59 s and 61 s.
    least = SHORTEST_S / (1e5 * (16**2 + 32**2))
    network = PlantedNetwork(lambda bf16, nhwc, count, side: 0.98 * least * side**2 * (0.1 if bf16 else 1.0))
    assert tuned(network, images=1e5) == untuned(OPEN, SIDES)
    assert network.now < 0.001 * SHORTEST_S
    network = PlantedNetwork(lambda bf16, nhwc, count, side: 1.02 * least * side**2 * (0.1 if bf16 else 1.0))
    assert tuned(network, images=1e5).precision == "bf16"


def test_what_making_the_network_took_counts():
    network = PlantedNetwork(lambda bf16, nhwc, count, side: 1e-6 * side**2 * (0.5 if bf16 else 1.0))
    training_s = 1e5 * 1e-6 * (16**2 + 32**2)
    network.now = 2 * SHARE * training_s
    calls = tuned(network, images=1e5, started=0.0), network.calls
    assert calls == (replace(untuned(OPEN, SIDES), seconds=network.now), 2)


def test_one_hopeless_setting_cannot_take_more_than_the_share():
    # Everything but what is preferred is 100 times as slow.
    def speed(bf16, nhwc, count, side):
        return side**2 * (1.0 if nhwc and not bf16 and count != 16 else 100.0)

    network = PlantedNetwork(speed)
    chosen = tuned(network, images=1e5)
    assert (chosen.precision, chosen.micro_batch, chosen.channels_last) == ("no", 32, {16: True, 32: True})
    assert network.now < 0.06 * 1e5 * (16**2 + 32**2)


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


def test_the_gain_is_over_what_is_used_without_tuning():
    # NCHW is twice as fast at 16 px and as good as NHWC at 32: 3 + 5 s became 1.5 + 5 s.
    times = {(Setting("no", nhwc, 32), side): t for (nhwc, side), t in
             {(True, 16): 3.0, (False, 16): 1.5, (True, 32): 5.0, (False, 32): 4.9}.items()}  # fmt: skip
    options = Options(("no",), (True, False), (32,))
    chosen = pick(options, times, before=untuned(options, SIDES))
    assert chosen.channels_last == {16: False, 32: True}
    assert chosen.gain == pytest.approx(8 / 6.5)
    times[Setting("no", False, 32), 16] = 2.9  # within the tolerance: nothing changes
    assert pick(options, times, before=untuned(options, SIDES)).gain == 1


def test_a_setting_that_does_not_fit_the_memory_is_not_chosen(monkeypatch):
    def speed(bf16, nhwc, count, side):
        if count > 8:
            raise torch.OutOfMemoryError
        return 1.0

    chosen = tuned(PlantedNetwork(speed), images=1e6)
    assert chosen.micro_batch == 8
    assert math.isfinite(chosen.gain)


def test_other_words_for_too_little_memory(monkeypatch):
    """MPS and the CPU raise a plain RuntimeError, and the images themselves may not fit."""
    draw = torch.rand

    def rand(count, *shape):
        if count > 16:
            raise RuntimeError("MPS backend out of memory")
        return draw(count, *shape)

    monkeypatch.setattr(torch, "rand", rand)
    options = Options(("no", "bf16"), (True,), (32,))
    network = PlantedNetwork(lambda bf16, nhwc, count, side: 1.0)
    says_so = {"is_out_of_memory": lambda error: "out of memory" in str(error)}
    assert tuned(network, images=1e6, options=options, **says_so).precision == "no"
    with pytest.raises(RuntimeError, match="MPS backend"):
        tuned(network, images=1e6, options=options)


def test_no_single_image_is_left_over():
    def speed(bf16, nhwc, count, side):
        if count == 1:
            raise ValueError("Expected more than 1 value per channel when training")
        return 1.0 if count == 8 else 2.0

    options = Options(("no",), (True,), micro_batches(17))
    assert tuned(PlantedNetwork(speed), images=1e6, options=options).micro_batch == 8


def test_weights_and_random_state_stay():
    network = PlantedNetwork(lambda *_: 1.0)
    before = [p.clone() for p in network.parameters()]
    state = torch.get_rng_state()
    tuned(network, images=1e6)
    assert network.calls
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(state, torch.get_rng_state())
