"""What the loaders hand out: the same for any company, order, worker count and restart, and at every resolution."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from resomap.data import loaders
from resomap.data import pinned_ring as ring_module
from resomap.data.augmentation import AugmentationSettings, draw
from resomap.data.decode import decode_rgb
from resomap.data.image_store import ImageStore
from resomap.data.loaders import Batch, EvalLoader, TrainLoader, as_batches, to_model_input
from resomap.data.pinned_ring import SPARE, Ring
from resomap.data.randomness import epoch_order, image_keys
from resomap.data.resize import to_square

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CENTER = AugmentationSettings(crop="center", horizontal_flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0)
WARPING = AugmentationSettings(
    vertical_flip=0.5, hue=0.1, rotation_degrees=15.0, blur_probability=0.5, blur_sigma=(0.02, 0.05)
)


@pytest.fixture
def store(photographs, open_images):
    return open_images(photographs(13))


def train_loader(store, **changes) -> TrainLoader:
    options = {
        "resolution": 16, "augmentation": AugmentationSettings(), "effective_batch": 4, "micro_batch": 2,
        "seed": 0, "mean": MEAN, "std": STD,
    }  # fmt: skip
    return TrainLoader(store, **(options | changes))


def epoch_of(loader: TrainLoader, epoch: int = 0, *, start_update: int = 0) -> list[Batch]:
    loader.set_epoch(epoch, start_update=start_update)
    return list(loader)


def whole_epoch_of(store: ImageStore, loader: TrainLoader, epoch: int = 0) -> list[Batch]:
    """All batches of an epoch, which hold every image once."""
    batches = epoch_of(loader, epoch)
    assert sorted(index for batch in batches for index in batch.indices.tolist()) == list(range(len(store.images)))
    return batches


def assert_equal_batches(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for name in ("images", "labels", "indices", "colour"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)
        assert (one.share, one.ends_update) == (other.share, other.ends_update)


def by_image(batches: list[Batch]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Position in the store -> (pixels, colour map)."""
    return {
        int(index): (batch.images[i], batch.colour[i])
        for batch in batches
        for i, index in enumerate(batch.indices)
        if batch.share
    }


def assert_same_images(ours: list[Batch], theirs: list[Batch]) -> None:
    one, other = by_image(ours), by_image(theirs)
    assert one.keys() == other.keys()
    for index in one:
        for ours_, theirs_ in zip(one[index], other[index], strict=True):
            torch.testing.assert_close(ours_, theirs_, rtol=0, atol=0)


# Training


def test_train_loader_hands_out_an_epoch_in_order(store):
    loader = train_loader(store)
    batches = epoch_of(loader, 3)
    # 13 = 4 + 4 + 5, in micro-batches of 2: 2 + 2, 2 + 2, 2 + 1 + 2 (5 in three nearly equal parts).
    assert (loader.updates_per_epoch, loader.micro_steps_per_epoch, loader.samples_per_epoch) == (3, 7, 13)
    assert len(loader) == len(batches) == 7
    indices = torch.cat([batch.indices for batch in batches])
    np.testing.assert_array_equal(indices, epoch_order(13, seed=0, epoch=3))
    np.testing.assert_array_equal(torch.cat([batch.labels for batch in batches]), store.labels[indices])
    for batch in batches:
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape == (len(batch.labels), 16, 16, 3)
        assert batch.images.is_contiguous()
        assert (batch.labels.dtype, batch.indices.dtype) == (torch.int64, torch.int64)
        assert batch.colour.shape == (len(batch.labels), 3, 4)
        assert batch.colour.dtype == torch.float32
    assert [batch.ends_update for batch in batches] == [False, True] * 2 + [False, False, True]
    assert sum(batch.share for batch in batches) == pytest.approx(3)


@pytest.mark.parametrize(
    "augmentation", [AugmentationSettings(), WARPING, CENTER], ids=["default", "warping", "center"]
)
def test_train_loader_does_not_depend_on_workers(store, augmentation):
    alone = train_loader(store, augmentation=augmentation)
    helped = train_loader(store, augmentation=augmentation, workers=2, persistent_workers=True, prefetch_factor=3)
    for epoch, start in ((0, 0), (1, 0), (1, 2)):
        assert_equal_batches(epoch_of(alone, epoch, start_update=start), epoch_of(helped, epoch, start_update=start))


def test_batches_in_a_ring_are_those_of_the_loader(store, monkeypatch):
    made = []

    def ring_for(*, workers: int, prefetch_factor: int, images: int, side: int) -> Ring:
        made.append(Ring(workers * prefetch_factor + SPARE, images, side))
        return made[-1]

    monkeypatch.setattr(loaders, "ring_for", ring_for)
    for options in ({}, {"augmentation": WARPING}, {"augmentation": CENTER}):
        alone = train_loader(store, **options)
        ringed = train_loader(store, workers=2, persistent_workers=True, prefetch_factor=1, pin_memory=True, **options)
        assert made[-1].places == 5
        for epoch, start in ((0, 0), (1, 2), (2, 0)):
            expected = epoch_of(alone, epoch, start_update=start)
            ringed.set_epoch(epoch, start_update=start)
            # Each batch is looked at when two more have come: it still lies there.
            held: list[tuple[Batch, Batch]] = []
            for pair in zip(ringed, expected, strict=True):
                held.append(pair)
                assert_equal_batches(*([each] for each in held[0]))
                held = held[-2:]


def test_a_batch_is_overwritten_when_the_device_has_read_it(monkeypatch):
    waited = []

    class Event:
        def record(self) -> None:
            self.number = len(waited)

        def synchronize(self) -> None:
            waited.append(self)

    ring = Ring(2 + SPARE, 1, 1)
    ring._is_locked = True
    monkeypatch.setattr(torch, "Event", Event)
    for _ in range(5):
        ring.advance()
    # The sixth batch is asked for, and two more are being filled: they lie where the first three lay.
    assert len(waited) == 5 - (SPARE - 1)
    ring.restart()
    assert len(waited) == 5
    ring._is_locked = False


@pytest.mark.parametrize(
    ("workers", "cuda", "free", "there"),
    [(2, True, 2**30, True), (0, True, 2**30, False), (2, False, 2**30, False), (2, True, 10_000, False)],
)
def test_where_there_is_a_ring(workers, cuda, free, there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(ring_module, "_lock_pages", lambda _: False)
    monkeypatch.setattr(ring_module.psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    found = ring_module.ring_for(workers=workers, prefetch_factor=2, images=4, side=16)
    assert (found is not None) is there
    if found is not None:
        assert found.places == 7


@pytest.mark.parametrize("batch", [(13, 13), (13, 1), (5, 3), (1, 1)], ids=str)
def test_images_do_not_depend_on_the_batch(store, batch):
    effective, micro = batch
    changed = train_loader(store, augmentation=WARPING, effective_batch=effective, micro_batch=micro)
    assert_same_images(epoch_of(train_loader(store, augmentation=WARPING)), epoch_of(changed))


def test_images_do_not_depend_on_the_other_images(photographs, open_images):
    # The same files in another order, some missing: each keeps its own draws.
    records = photographs(8)
    chosen = [6, 1, 4, 3]
    every = by_image(epoch_of(train_loader(open_images(records))))
    some = by_image(epoch_of(train_loader(open_images([records[i] for i in chosen]))))
    for position, i in enumerate(chosen):
        torch.testing.assert_close(some[position], every[i], rtol=0, atol=0)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_what_one_would_do(store, world_size):
    alone = epoch_of(train_loader(store), 2)
    ranks = [epoch_of(train_loader(store, rank=r, world_size=world_size), 2) for r in range(world_size)]
    assert_same_images(alone, [batch for rank in ranks for batch in rank])
    steps = [[batch.ends_update for batch in rank] for rank in ranks]
    assert all(rank == steps[0] for rank in steps)
    assert sum(batch.share for rank in ranks for batch in rank) == pytest.approx(3)


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_set_epoch_from_an_update_gives_the_tail_of_the_epoch(store, start):
    loader = train_loader(store)
    whole, tail = epoch_of(loader, 1), epoch_of(loader, 1, start_update=start)
    assert len(loader) == len(tail) == len(whole) - 2 * start if start < 3 else tail == []
    assert_equal_batches(tail, whole[len(whole) - len(tail) :])
    assert loader.micro_steps_per_epoch == 7  # of a whole epoch


def test_set_epoch_does_not_disturb_an_epoch_under_way(store):
    loader = train_loader(store)
    expected = epoch_of(loader, 0)
    loader.set_epoch(0)
    batches = iter(loader)
    seen = [next(batches)]
    loader.set_epoch(1, start_update=1)
    seen += batches
    assert_equal_batches(seen, expected)


def test_epochs_and_seeds_differ(store):
    loader = train_loader(store)
    first, second = by_image(epoch_of(loader, 0)), by_image(epoch_of(loader, 1))
    other = by_image(epoch_of(train_loader(store, seed=1), 0))
    assert any(not torch.equal(first[i][0], second[i][0]) for i in first)
    assert any(not torch.equal(first[i][0], other[i][0]) for i in first)


def test_train_loader_leaves_the_global_generator_alone(store):
    before = torch.random.get_rng_state()
    epoch_of(train_loader(store))
    list(EvalLoader(store, resolution=16, batch_size=4, mean=MEAN, std=STD))
    torch.testing.assert_close(torch.random.get_rng_state(), before)


def test_crops_are_the_same_regions_at_every_resolution(photographs, open_images):
    # At both resolutions the crop is what the store cuts for the same normalised box, flipped alike.
    records = photographs(13)
    store = open_images(records, resolutions=(16, 48))
    settings = AugmentationSettings(vertical_flip=0.5)
    keys = image_keys([record.image_id for record in records])
    draws = draw(settings, store.sizes, keys_B=keys, seed=0, epoch=4)
    for resolution in (16, 48):
        seen = by_image(epoch_of(train_loader(store, augmentation=settings, resolution=resolution), 4))
        for i in range(13):
            expected = store.crop(i, draws.box(i), resolution)
            expected = expected[:, ::-1] if draws.flip_x[i] else expected
            expected = expected[::-1] if draws.flip_y[i] else expected
            np.testing.assert_array_equal(seen[i][0], expected)
    assert 0 < draws.flip_x.sum() < 13
    assert 0 < draws.flip_y.sum() < 13


def test_center_crops_are_the_evaluation_images(store):
    for batch in whole_epoch_of(store, train_loader(store, augmentation=CENTER)):
        np.testing.assert_array_equal(batch.images, store.squares(16, batch.indices.numpy()))
        assert batch.colour.shape == (3, 4)


@pytest.mark.parametrize(("name", "axis"), [("horizontal_flip", 2), ("vertical_flip", 1)])
def test_flips_of_center_crops(store, name, axis):
    never = {"horizontal_flip": 0.0, "vertical_flip": 0.0}
    still = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    settings = AugmentationSettings(crop="center", **(never | {name: 1.0}), **still)
    for batch in whole_epoch_of(store, train_loader(store, augmentation=settings)):
        np.testing.assert_array_equal(batch.images, np.flip(store.squares(16, batch.indices.numpy()), axis))


def test_train_loader_on_a_center_store_needs_center_crops(photographs, open_images):
    from resomap.errors import ConfigError

    store = open_images(photographs(4), crop="center")
    with pytest.raises(ConfigError, match="holds no crops"):
        epoch_of(train_loader(store))


# To the model


def test_eval_loader_in_a_random_order_has_every_image_once_and_the_same_at_every_pass(store):
    def order(side: int, seed: int | None) -> list[int]:
        loader = EvalLoader(store, resolution=side, batch_size=4, mean=MEAN, std=STD, order_seed=seed)
        passes = [[int(i) for batch in loader for i in batch.indices] for _ in range(2)]
        assert passes[0] == passes[1]
        return passes[0]

    assert order(16, None) == list(range(13))
    shuffled = order(16, 0)
    assert sorted(shuffled) == list(range(13)) != shuffled
    assert order(32, 0) == shuffled
    assert order(16, 1) != shuffled


def test_eval_loader_is_cut_into_the_updates_that_training_has(store):
    """13 images, 6 an update and 4 at once: 3 + 3, then 4 + 3, since a single image is no update of its own."""
    options = {"resolution": 16, "batch_size": 4, "mean": MEAN, "std": STD, "order_seed": 0}
    loader = EvalLoader(store, update_batch=6, **options)
    batches = list(loader)
    assert [len(batch.labels) for batch in batches] == [3, 3, 4, 3]
    assert len(loader) == 4
    assert [batch.share for batch in batches] == pytest.approx([1 / 2, 1 / 2, 4 / 7, 3 / 7])
    assert [batch.ends_update for batch in batches] == [False, True, False, True]
    order = [int(i) for batch in EvalLoader(store, **options) for i in batch.indices]
    assert [int(i) for batch in batches for i in batch.indices] == order


def test_to_model_input_normalises_as_numpy_does(store):
    for loader in (
        EvalLoader(store, resolution=32, batch_size=5, mean=MEAN, std=STD),
        train_loader(store, augmentation=CENTER, resolution=32),
    ):
        for batch in loader:
            images, labels = to_model_input(batch, "cpu")
            x = batch.images.numpy().astype(np.float64) / 255
            expected = ((x - MEAN) / STD).transpose(0, 3, 1, 2)
            np.testing.assert_allclose(images.numpy(), expected, atol=1e-6)
            assert images.dtype == torch.float32
            assert labels is batch.labels or torch.equal(labels, batch.labels)


def numpy_jitter(image: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """(H, W, 3) uint8 -> normalised, step by step."""
    luma = np.array([0.2989, 0.587, 0.114])
    x = image / 255 * brightness
    x = contrast * x + (1 - contrast) * (x @ luma).mean()
    x = saturation * x + (1 - saturation) * (x @ luma)[..., None]
    return (x - MEAN) / STD


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_to_model_input_applies_the_drawn_colours(store, micro_batch):
    keys = image_keys([image.image_id for image in store.images])
    draws = draw(AugmentationSettings(), store.sizes, keys_B=keys, seed=0, epoch=2)
    for batch in whole_epoch_of(store, train_loader(store, micro_batch=micro_batch), 2):
        images, _ = to_model_input(batch, "cpu")
        for i, index in enumerate(batch.indices.tolist()):
            factors = (draws.brightness[index], draws.contrast[index], draws.saturation[index])
            expected = numpy_jitter(batch.images[i].numpy(), *factors).transpose(2, 0, 1)
            np.testing.assert_allclose(images[i].numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("channels_last", [True, False])
def test_to_model_input_gives_the_memory_format_asked_for(store, channels_last):
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    loader = EvalLoader(store, resolution=16, batch_size=5, mean=MEAN, std=STD)
    foreign = as_batches([(torch.rand(5, 3, 16, 16), torch.zeros(5))])
    for batch in (next(iter(train_loader(store))), next(iter(loader)), next(iter(foreign))):
        images, _ = to_model_input(batch, "cpu", channels_last=channels_last)
        assert images.is_contiguous(memory_format=wanted)
        assert images.shape[1:] == (3, 16, 16)


def test_to_model_input_leaves_the_batch_as_it_was(store):
    for batch in (next(iter(train_loader(store))), next(iter(train_loader(store, augmentation=CENTER)))):
        before = batch.images.clone(), batch.colour.clone()
        first, _ = to_model_input(batch, "cpu")
        second, _ = to_model_input(batch, "cpu")
        torch.testing.assert_close((batch.images, batch.colour), before, rtol=0, atol=0)
        torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("augmentation", [AugmentationSettings(), CENTER], ids=["jitter", "center"])
def test_to_model_input_is_exact_under_autocast(store, augmentation):
    # Evaluation normalises inside autocast: pixels must not be rounded to bfloat16 there.
    for batch in whole_epoch_of(store, train_loader(store, augmentation=augmentation)):
        expected, _ = to_model_input(batch, "cpu")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            images, _ = to_model_input(batch, "cpu")
        assert images.dtype == torch.float32
        torch.testing.assert_close(images, expected, rtol=0, atol=0)


@pytest.mark.parametrize("augmentation", [AugmentationSettings(), CENTER], ids=["jitter", "center"])
def test_model_input_of_an_image_does_not_depend_on_the_batch(store, augmentation):
    inputs = defaultdict(list)
    for micro_batch in (1, 2, 4):
        for batch in epoch_of(train_loader(store, augmentation=augmentation, micro_batch=micro_batch)):
            images, _ = to_model_input(batch, "cpu")
            for index, image in zip(batch.indices.tolist(), images, strict=True):
                inputs[index].append(image)
    assert len(inputs) == len(store.images)
    for first, *others in inputs.values():
        assert len(others) == 2
        for other in others:
            torch.testing.assert_close(other, first, rtol=0, atol=1e-5)


# Evaluation


@pytest.mark.parametrize("workers", [0, 2])
def test_eval_loader_keeps_the_order_of_the_store(store, workers):
    loader = EvalLoader(store, resolution=32, batch_size=5, mean=MEAN, std=STD, workers=workers)
    batches = list(loader)
    assert len(loader) == 3
    assert [len(batch.labels) for batch in batches] == [5, 5, 3]
    indices = torch.cat([batch.indices for batch in batches])
    assert indices.tolist() == list(range(13))
    np.testing.assert_array_equal(torch.cat([batch.labels for batch in batches]), store.labels)
    pixels = torch.cat([batch.images for batch in batches])
    for i, record in enumerate(store.images):
        np.testing.assert_array_equal(pixels[i], to_square(decode_rgb(record.path), 32, kernel="bilinear"))


def test_eval_loader_gives_each_rank_every_nth_image(store):
    loaders = [
        EvalLoader(store, resolution=16, batch_size=2, mean=MEAN, std=STD, rank=r, world_size=3) for r in range(3)
    ]
    seen = [torch.cat([batch.indices for batch in loader]).tolist() for loader in loaders]
    assert seen == [[0, 3, 6, 9, 12], [1, 4, 7, 10], [2, 5, 8, 11]]
    assert [len(loader) for loader in loaders] == [3, 2, 2]


def test_eval_loader_of_a_rank_without_images_is_empty(photographs, open_images):
    store = open_images(photographs(2))
    loader = EvalLoader(store, resolution=16, batch_size=2, mean=MEAN, std=STD, rank=2, world_size=3)
    assert list(loader) == []
    assert len(loader) == 0


# Foreign loaders


def test_as_batches_counts_the_leftover_update_by_its_own_images():
    # 11 images in batches of 2, three to an update: 2 + 2 + 2, then 2 + 2 + 1.
    images, labels = torch.rand(11, 3, 4, 4), torch.arange(11)
    loader = DataLoader(TensorDataset(images, labels), batch_size=2)
    batches = list(as_batches(loader, accumulation_steps=3))
    assert [batch.share for batch in batches] == [2 / 6, 2 / 6, 2 / 6, 2 / 5, 2 / 5, 1 / 5]
    assert [batch.ends_update for batch in batches] == [False, False, True, False, False, True]
    torch.testing.assert_close(torch.cat([batch.images for batch in batches]), images)
    torch.testing.assert_close(torch.cat([batch.labels for batch in batches]), labels)
    assert all((batch.indices == -1).all() and batch.colour is None for batch in batches)


def test_as_batches_ends_the_last_update_wherever_it_falls():
    loader = [(torch.rand(2, 3, 4, 4), torch.zeros(2)) for _ in range(4)]
    ends = [batch.ends_update for batch in as_batches(loader, accumulation_steps=3)]
    assert ends == [False, False, True, True]
    assert [batch.share for batch in as_batches(loader)] == [1.0] * 4
    assert list(as_batches([])) == []


def test_as_batches_takes_labels_of_any_integer_kind_and_ignores_what_follows():
    loader = [(torch.rand(2, 3, 4, 4), [1, 0], "path"), (torch.rand(1, 3, 4, 4), np.array([1], dtype=np.int32))]
    labels = [batch.labels for batch in as_batches(loader)]
    assert [label.tolist() for label in labels] == [[1, 0], [1]]
    assert {label.dtype for label in labels} == {torch.int64}
