from __future__ import annotations

import copy
import math

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from resomap.errors import ConfigError, TrainingDivergedError
from resomap.evaluation.predict import predict
from resomap.training.callbacks import Callback, EarlyStopping, ModelCheckpoint
from resomap.training.last_state import read_state


class Recorder(Callback):
    """Learning rate and position at each update."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, float]] = []
        self.images: list[int] = []

    def on_update_end(self, trainer) -> None:
        self.seen.append((trainer.epoch, trainer.update, trainer.get_learning_rate()))
        self.images.append(trainer.images_in_update)


def test_trainer_learns_an_easy_task(trainer):
    result = trainer(epochs=12, learning_rate=0.2).fit()
    assert result.epochs[-1].val["accuracy"] > 0.85
    assert result.epochs[-1].train_loss < 0.8 * result.epochs[0].train_loss
    assert [record.epoch for record in result.epochs] == list(range(1, 13))
    assert result.updates == 12 * 5


def test_trainer_equals_a_plain_loop(trainer, network, loader, weights):
    model = network()
    trainer(
        model,
        loader(shuffle=False),
        epochs=2,
        schedule="constant",
        learning_rate=0.1,
        momentum=0.0,
        weight_decay=0.0,
    ).fit()
    expected = network()
    for _ in range(2):
        for images, labels in loader(shuffle=False):
            expected.zero_grad()
            functional.cross_entropy(expected(images), labels).backward()
            with torch.no_grad():
                for parameter in expected.parameters():
                    parameter -= 0.1 * parameter.grad
    assert len(weights(expected)) > 0
    for name, value in weights(expected).items():
        assert torch.allclose(weights(model)[name], value, atol=1e-6), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulation_equals_the_big_batch(trainer, network, loader, weights, optimizer):
    # 20 images: a window of 12 and a leftover of 8, as one batch each or as batches of 4.
    results = []
    for batch_size, steps in ((12, 1), (4, 3)):
        model = network()
        made = trainer(
            model,
            loader(batch_size=batch_size, shuffle=False),
            optimizer=optimizer,
            accumulation_steps=steps,
            clip_grad_norm=0.5,
            label_smoothing=0.1,
            class_weights=[1.0, 2.0, 0.5],
            learning_rate=0.01,
        )
        results.append((made.fit(), weights(model)))
    (one, big), (other, small) = results
    assert one.updates == other.updates == 3 * 2
    for name in big:
        assert torch.allclose(big[name], small[name], atol=1e-6), name
    for ours, theirs in zip(one.epochs, other.epochs, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, abs=1e-6)


def test_leftover_window_is_stepped_and_leaves_no_gradient(trainer, network, loader, weights):
    # 5 batches of 4, 4 to a window: the last batch is a window of its own.
    model = network()
    recorder = Recorder()
    made = trainer(model, loader(), accumulation_steps=4, epochs=2, callbacks=[recorder])
    made.train_epoch()
    assert recorder.images == [16, 4]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert made.update == 2


def test_uneven_last_batch_counts_by_samples(trainer, loader, network):
    # 10 images in batches of 4, 4, 2; a model without training: loss is the mean over 10 samples.
    model = network()
    images, labels = loader(10, batch_size=10, shuffle=False).dataset.tensors
    expected = functional.cross_entropy(model(images), labels).item()
    record = trainer(model, loader(10), learning_rate=1e-30, schedule="constant").train_epoch()
    assert record.train_loss == pytest.approx(expected, rel=1e-5)
    hits = (model(images).argmax(1) == labels).float().mean().item()
    assert record.train_accuracy == pytest.approx(hits)


def test_learning_rates_follow_the_schedule(trainer):
    recorder = Recorder()
    made = trainer(epochs=2, learning_rate=0.1, warmup_epochs=0.4, callbacks=[recorder])
    assert made.get_learning_rate() == pytest.approx(0.05)  # what the first update will use
    made.fit()
    # 10 updates, 2 of warm-up, then half a cosine over 8.
    cosine = [0.1 * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]
    assert [rate for _, _, rate in recorder.seen] == pytest.approx([0.05, 0.1, *cosine])
    assert [(epoch, update) for epoch, update, _ in recorder.seen] == [(1 + (n > 5), n) for n in range(1, 11)]
    assert made.history[0].learning_rate == pytest.approx(cosine[2])
    assert made.get_learning_rate() == pytest.approx(cosine[7])


def test_plateau_schedule_drops_the_rate_for_the_next_epoch(trainer):
    # Validation loss cannot get better at a learning rate of nothing: dropped after each epoch but the first.
    recorder = Recorder()
    trainer(schedule="plateau", plateau_patience=1, gamma=0.5, learning_rate=1e-30, callbacks=[recorder]).fit()
    rates = [rate for _, _, rate in recorder.seen]
    assert rates == pytest.approx([1e-30] * 10 + [0.5e-30] * 5, rel=1e-9, abs=0)


def test_step_scheduler_tells_plateau_and_returns_the_rate(trainer):
    made = trainer(schedule="plateau", plateau_patience=1, gamma=0.1, learning_rate=1.0)
    assert made.step_scheduler(2.0) == 1.0
    assert made.step_scheduler(2.0) == pytest.approx(0.1)
    assert made.get_learning_rate() == pytest.approx(0.1)


def test_plateau_without_validation_is_refused(trainer):
    with pytest.raises(ConfigError, match="plateau follows the validation loss; give a val_loader"):
        trainer(schedule="plateau", val=None)


def test_trainer_without_validation_follows_the_training_loss(trainer):
    result = trainer(val=None).fit()
    assert result.monitor == "train_loss"
    assert result.best_value == min(record.train_loss for record in result.epochs)
    assert result.epochs[0].val == {}


def test_validate_without_loader_says_so(trainer):
    with pytest.raises(ConfigError, match=r"validate\(\) needs a val_loader"):
        trainer(val=None).validate()


def test_fit_names_the_best_epoch_by_the_monitor(trainer):
    made = trainer(monitor="accuracy", monitor_mode="max")
    values = iter([0.5, 0.9, 0.9])
    made.validate = lambda: {"accuracy": next(values), "loss": 1.0}
    result = made.fit()
    assert (result.best_epoch, result.best_value) == (2, 0.9)  # the earlier of two equal ones


def test_a_monitor_other_than_the_loss_needs_a_mode(trainer):
    with pytest.raises(ConfigError, match=r"^monitor_mode: expected min or max with the monitor 'accuracy', got none$"):
        trainer(monitor="accuracy")
    made = trainer()
    made.validate = iter([{"loss": value} for value in (2.0, 1.0, 3.0)]).__next__
    assert made.fit().best_epoch == 2
    with pytest.raises(ConfigError, match=r"^monitor_mode: expected min or max, got ''"):
        trainer(monitor_mode="")


def test_unknown_monitor_lists_the_metrics(trainer):
    with pytest.raises(ConfigError, match=r"no metric 'f2'; available: .*accuracy"):
        trainer(monitor="f2", monitor_mode="max").fit()


@pytest.mark.parametrize("monitor", ["val_loss", 3])
def test_a_monitor_that_is_no_metric_is_refused_before_anything_is_trained(trainer, tmp_path, monitor):
    makers = (
        lambda: trainer(monitor=monitor),
        lambda: trainer(callbacks=[EarlyStopping(monitor=monitor, mode="min", patience=1)]),
        lambda: trainer(callbacks=[ModelCheckpoint(tmp_path, monitor=monitor, mode="min")]),
    )
    for make in makers:
        with pytest.raises(ConfigError, match=f"^monitor: there is no metric {monitor!r}; available: .*loss"):
            make()


def test_the_metrics_of_a_trainer_are_what_validation_gives(trainer):
    made = trainer()
    assert set(made.metrics) == set(made.validate())
    assert trainer(val=None).metrics == ()


def test_a_monitor_is_named_as_the_argument_that_it_is(trainer, loader, tmp_path):
    with pytest.raises(ConfigError, match=r"^monitor: there is no metric 'f2'; available: .*accuracy.*train_loss"):
        trainer(monitor="f2", monitor_mode="max").fit()
    keep = ModelCheckpoint(tmp_path, monitor="loss", mode="min")
    only = r"^monitor: there is no metric 'loss'; available: train_accuracy, train_loss; .* need a val_loader"
    with pytest.raises(ConfigError, match=only):
        trainer(val=None, callbacks=[keep], epochs=1).fit()
    with pytest.raises(ConfigError, match=r"^monitor_mode: expected min or max, got 'best'"):
        trainer(monitor_mode="best")
    with pytest.raises(ConfigError, match=r"^mode: expected min or max, got 'best'"):
        ModelCheckpoint(tmp_path, monitor="loss", mode="best")


IMAGES, LABELS = torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"image": IMAGES, "label": LABELS}, r"got a dict of 'image', 'label'; give the DataLoader a collate_fn"),
        (IMAGES[:0], r"batches of \(images, labels\), got Tensor"),
        ((IMAGES.byte(), LABELS), r"images \(B, 3, H, W\) torch.float32, .* got \(4, 3, 8, 8\) torch.uint8; .* by 255"),
        ((IMAGES[0], LABELS), r"got \(3, 8, 8\) torch.float32"),
        ((IMAGES.numpy(), LABELS), r"got ndarray"),
        ((IMAGES, functional.one_hot(LABELS)), r"labels \(4,\) torch.int64, got \(4, 3\) torch.int64; .* argmax\(1\)"),
        ((IMAGES, LABELS[:3]), r"labels \(4,\) torch.int64, got \(3,\)"),
        ((IMAGES, ["a", "b", "c", "a"]), r"labels as class ids, torch.int64, got list"),
        ((IMAGES, LABELS + 0.5), r"labels as class ids, torch.int64, got torch.float32 with fractions"),
        ((IMAGES, LABELS * float("nan")), r"labels as class ids, torch.int64, got torch.float32 with fractions"),
        ((IMAGES, LABELS + 1), r"labels from 0 to 2, the model's 3 classes, got some from 1 to 3; .* num_classes"),
        ((IMAGES, LABELS - 1), r"labels from 0 to 2, .* got some from -1 to 1"),
    ],
)
def test_batches_that_cannot_be_trained_on_say_what_was_expected(trainer, batch, message):
    with pytest.raises(ConfigError, match=rf"^loader: expected .*{message}"):
        trainer(train=[batch], val=None).fit()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_images_in_another_precision_are_float32s(trainer, network, loader, weights, assert_identical, dtype):
    ends = []
    for kind in (torch.float32, dtype):
        batches = [(images.to(dtype).to(kind), labels.double()) for images, labels in loader(shuffle=False)]
        model = network()
        result = trainer(model, batches, batches).fit()
        ends.append((weights(model), result.epochs[-1].val, predict(model, batches, device="cpu").probabilities))
    (one, validated, answers), (other, *others) = ends
    assert_identical(one, other)
    assert others[0] == validated
    assert (others[1] == answers).all()


def test_labels_are_looked_at_in_every_batch(trainer):
    with pytest.raises(ConfigError, match="got some from 0 to 7"):
        trainer(train=[(IMAGES, LABELS), (IMAGES, torch.tensor([0, 1, 2, 7]))], val=None).fit()


def test_validation_fits_the_classes_too(trainer):
    with pytest.raises(ConfigError, match=r"^val_loader: expected labels from 0 to 2, .* got some from 1 to 3"):
        trainer(val=[(IMAGES, LABELS + 1)]).fit()
    with pytest.raises(ConfigError, match=r"^class_names: expected one for each of the model's 3 classes, got 2"):
        trainer(class_names=("a", "b")).fit()


def test_class_weights_and_logits_fit_the_classes(trainer, network):
    with pytest.raises(ConfigError, match=r"^class_weights: expected one for each of the model's 3 classes, got 2"):
        trainer(class_weights=[1.0, 2.0]).fit()

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, images):
            return {"logits": self.network(images)}

    with pytest.raises(ConfigError, match=r"^model: expected logits \(B, K\), here \(4, K\), got dict"):
        trainer(Named()).fit()


@pytest.mark.parametrize(
    ("values", "still_improving"),
    [
        # 20 epochs: the last tenth is two.
        ([1.0] * 17 + [9.0, 1.0, 1.0], False),
        ([1.0] * 18 + [9.0, 1.0], True),
        ([1.0] * 19 + [9.0], True),
    ],
)
def test_still_improving_means_best_in_the_last_tenth(trainer, loader, values, still_improving):
    made = trainer(train=loader(4), epochs=20, monitor="accuracy", monitor_mode="max")
    remaining = iter(values)
    made.validate = lambda: {"accuracy": next(remaining), "loss": 1.0}
    assert made.fit().still_improving is still_improving


def test_performance_stats_are_of_the_latest_epoch(trainer):
    made = trainer()
    assert made.get_performance_stats()["epoch_seconds"] is None
    made.fit()
    stats = made.get_performance_stats()
    assert stats["epoch_seconds"] == made.history[-1].seconds > 0
    assert stats["images_per_s"] > 20 / made.history[-1].seconds  # without validation it is faster
    assert stats["peak_memory_mib"] is None
    assert stats["skipped_updates"] == 0


def test_performance_stats_follow_an_own_loop(trainer):
    made = trainer()
    record = made.train_epoch()
    assert made.get_performance_stats()["images_per_s"] == record.images_per_s


def test_class_weights_and_smoothing_reach_the_loss(trainer, network, loader):
    # Zero weights: p = 1/3 each, so every -log p is log 3, whatever the label. With weights w the plain part
    # is the mean weight of the labels, the smoothed part the mean weight of the classes.
    model = network()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    images = loader(6, batch_size=6)  # two of each class
    made = trainer(model, images, learning_rate=1e-30, class_weights=[1.0, 2.0, 6.0], label_smoothing=0.5)
    assert made.train_epoch().train_loss == pytest.approx(3.0 * math.log(3), rel=1e-5)


def test_nan_loss_stops_with_epoch_and_learning_rate(trainer, network, tmp_path):
    model = network()

    class Poison(Callback):
        def on_update_end(self, made) -> None:
            if made.update == 7:
                with torch.no_grad():
                    model[0].weight.fill_(float("nan"))

    path = tmp_path / "last.pt"
    made = trainer(
        model,
        schedule="constant",
        learning_rate=0.01,
        state_path=path,
        save_every_s=0.0,
        callbacks=[Poison()],
    )
    with pytest.raises(TrainingDivergedError, match=r"epoch 2, .* learning rate 0\.01") as caught:
        made.fit()
    assert (caught.value.epoch, caught.value.learning_rate) == (2, 0.01)
    assert math.isnan(caught.value.loss)
    # The state was due after update 7, whose loss was still finite: its weights were not saved.
    state = read_state(path)
    assert state["loop"]["progress"]["update"] == 1
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_infinite_learning_rate_diverges(trainer):
    with pytest.raises(TrainingDivergedError, match=r"lower training\.learning_rate"):
        trainer(learning_rate=1e30, clip_grad_norm=None).fit()


def test_not_finite_predictions_stop_the_run(trainer, network):
    model = network(norm=True)

    class Poison(Callback):
        def on_update_end(self, made) -> None:
            model[2].running_var.fill_(float("nan"))  # unseen while training: BatchNorm uses the batch's own

    with pytest.raises(TrainingDivergedError, match="epoch 1"):
        trainer(model, callbacks=[Poison()]).fit()


def test_train_epoch_restores_modes_hooks_and_generators(trainer, network):
    model = network(dropout=0.5, norm=True)
    model.eval()
    model[2].train()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    trainer(model).fit()
    assert torch.equal(torch.rand(2), expected)
    assert [module.training for module in model] == [False, False, True, False, False, False, False]
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


def test_train_epoch_restores_modes_after_an_error(trainer, network):
    class Break(Callback):
        def on_update_end(self, made) -> None:
            raise ZeroDivisionError

    model = network(dropout=0.5).eval()
    before = torch.backends.cudnn.benchmark
    with pytest.raises(ZeroDivisionError):
        trainer(model, callbacks=[Break()], cudnn_benchmark=not before).fit()
    assert not any(module.training for module in model.modules())
    assert torch.backends.cudnn.benchmark is before


def test_validation_does_not_change_the_weights(trainer, network, weights, assert_identical):
    model = network(norm=True, dropout=0.5)
    made = trainer(model)
    before = weights(model)
    made.validate()
    assert_identical(before, weights(model))


def test_own_loop_over_epochs_equals_fit(trainer, network, weights, assert_identical):
    fitted, own = network(dropout=0.5), network(dropout=0.5)
    trainer(fitted).fit()
    made = trainer(own)
    for _ in range(3):
        made.train_epoch()
        made.validate()
    assert_identical(weights(fitted), weights(own))


def test_fit_goes_on_after_an_own_loop(trainer, network, loader, weights, assert_identical):
    fitted, own, resumed = (network(dropout=0.5) for _ in range(3))
    whole = trainer(fitted, loader(shuffle=False)).fit()
    made = trainer(own, loader(shuffle=False))
    first = made.train_epoch()
    state = copy.deepcopy(made.state_dict())
    again = trainer(resumed, loader(shuffle=False))
    again.load_state_dict(state)
    for each in (made, again):
        result = each.fit()
        assert [record.epoch for record in result.epochs] == [1, 2, 3]
        assert result.epochs[0] == first
        assert [record.val for record in result.epochs[1:]] == [record.val for record in whole.epochs[1:]]
        assert result.best_epoch == min((2, 3), key=lambda epoch: whole.epochs[epoch - 1].val["loss"])
        assert each.seconds >= first.seconds
    assert_identical(weights(fitted), weights(own))
    assert_identical(weights(fitted), weights(resumed))


def test_fit_with_nothing_left_says_so(trainer):
    made = trainer(epochs=2)
    for _ in range(2):
        made.train_epoch()
    with pytest.raises(ConfigError, match=r"^fit\(\): no epoch was left to train, and none has loss; validate\(\)"):
        made.fit()
    made = trainer(val=None, epochs=2)
    losses = [made.train_epoch().train_loss for _ in range(2)]
    assert made.fit().best_value == min(losses)


def test_same_seed_gives_the_same_weights_and_another_does_not(trainer, network, weights, assert_identical):
    runs = []
    for seed in (1, 1, 2):
        model = network(dropout=0.5)
        trainer(model, seed=seed).fit()
        runs.append(weights(model))
        torch.rand(7)  # what others draw does not matter
    assert_identical(runs[0], runs[1])
    assert not torch.equal(runs[0]["0.weight"], runs[2]["0.weight"])


def test_bf16_and_float32_trainers_alternate_in_one_process(trainer, network, weights, assert_identical):
    alone = network()
    trainer(alone).fit()
    models = [network(), network()]
    pair = [trainer(models[0]), trainer(models[1], mixed_precision="bf16")]
    for _ in range(3):
        for made in pair:
            made.train_epoch()
    assert_identical(weights(alone), weights(models[0]))
    difference = (weights(models[0])["0.weight"] - weights(models[1])["0.weight"]).abs().max().item()
    assert 0 < difference < 0.05


def test_fp16_overflow_is_counted_and_the_plan_goes_on(trainer, network, monkeypatch):
    # The CPU in the place of an accelerator: torch's scaler and autocast work there too.
    def make(device, precision) -> Accelerator:
        accelerator = Accelerator(cpu=True, mixed_precision="fp16")
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)  # overflows fp16 at first
        return accelerator

    monkeypatch.setattr("resomap.training.engine.make_accelerator", make)
    monkeypatch.setattr("resomap.training.trainer.resolve_precision", lambda requested, device: "fp16")
    recorder = Recorder()
    model = network()
    made = trainer(model, epochs=30, learning_rate=0.2, callbacks=[recorder])
    result = made.fit()
    # Halved until products with the gradients fit into fp16: about 2 ** 16.
    skipped = made.get_performance_stats()["skipped_updates"]
    assert 90 <= skipped <= 115
    assert result.updates == 150
    assert len({rate for _, _, rate in recorder.seen}) == 150  # the schedule does not wait
    assert result.epochs[-1].train_loss < result.epochs[0].train_loss


def test_trainer_fuses_its_optimizer_unless_told_not_to(trainer):
    assert trainer()._engine.optimizer.param_groups[0]["fused"] is True
    assert not trainer(fused=False)._engine.optimizer.param_groups[0]["fused"]


def test_empty_loader_is_refused(trainer, loader):
    with pytest.raises(ConfigError, match="the training loader is empty"):
        trainer(train=DataLoader(loader().dataset, batch_size=64, drop_last=True))


def test_loader_without_length_is_refused(trainer):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield torch.zeros(3, 8, 8), 0

    with pytest.raises(ConfigError, match="no length; schedules need one"):
        trainer(train=DataLoader(Endless(), batch_size=2))


def test_loader_that_gives_fewer_batches_than_promised_is_named(trainer, loader):
    class Short:
        def __len__(self) -> int:
            return 6

        def __iter__(self):
            return iter(loader())

    with pytest.raises(ConfigError, match="promised 6 updates an epoch and gave 5"):
        trainer(train=Short()).fit()


def test_callbacks_on_main_return_and_raise(trainer):
    made = trainer()
    assert made.on_main(lambda: 4) == 4
    with pytest.raises(ConfigError, match="no"):
        made.on_main(lambda: (_ for _ in ()).throw(ConfigError("no")))


def test_a_last_batch_of_one_image_is_refused_before_the_first_update(trainer, loader, weights, assert_identical):
    def make():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3)]  # maps of 1 x 1
        return nn.Sequential(*layers)

    model = make()
    before = weights(model)
    with pytest.raises(ConfigError, match=r"a batch of one image, .* at 8 px .* drop_last=True, or with"):
        trainer(model, loader(21, batch_size=4)).fit()
    assert_identical(weights(model), before)
    # A loader that does not say how it ends is refused at its single image.
    batches = list(loader(21, batch_size=4))
    with pytest.raises(ConfigError, match="drop_last=True"):
        trainer(make(), batches).fit()
    assert trainer(make(), loader(22, batch_size=4), epochs=1).fit().best_epoch == 1


def test_a_last_batch_of_one_image_is_trained_on_where_it_can_be_normalised(trainer, network, loader):
    assert trainer(network(norm=True), loader(21, batch_size=4), epochs=1).fit().best_epoch == 1
