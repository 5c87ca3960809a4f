"""What a notebook gives by mistake to the public API is refused in one line, before anything is computed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import resomap
from resomap.errors import ResoMapError
from resomap.explainability.captum_methods import CaptumMethod

NAN = float("nan")
MODEL = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
BATCHES = [(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))]
MAPS, BOXES = np.ones((1, 2, 2)), np.array([[0.0, 0.0, 1.0, 1.0]])
STOPPING = {"monitor": "train_loss", "mode": "min", "patience": 1}


def captum(model: Any = MODEL, method: str = "lime", **options: Any) -> object:
    return CaptumMethod(model, method=method, **options)


def complexity(*shape: Any) -> object:
    return resomap.get_model_complexity(MODEL, *shape)


def explained(resolution: Any) -> object:
    picture = Image.new("RGB", (8, 8))
    return resomap.ModelExplainer(MODEL).explain_image(picture, resolution=resolution, method="saliency")


def integrated(**options: Any) -> object:
    return resomap.IntegratedGradients(MODEL, **options)


def predicted(model: Any = MODEL, batches: Any = BATCHES, **options: Any) -> object:
    return resomap.predict(model, batches, device="cpu", **options)


def trained(model: Any = MODEL, *loaders: Any, **options: Any) -> object:
    return resomap.Trainer(model, *(loaders or (BATCHES,)), device="cpu", **options)


def half() -> nn.Module:
    return copy.deepcopy(MODEL).half()


def tiny(**options: Any) -> object:
    return resomap.build_model("tiny_cnn", num_classes=2, **options)


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "a layer by number": (lambda: resomap.GradCAM(MODEL, 3), "target layer: expected a layer's dotted name, got 3"),
    "a layer to look for": (lambda: resomap.get_target_layer(MODEL, 3), "target layer: expected"),
    "a name for a model": (lambda: resomap.GradCAM("resnet18"), "model: expected a torch.nn.Module, got str"),
    "no images at once": (lambda: resomap.Saliency(MODEL, chunk=0), "chunk: expected a whole number of images"),
    "a name for a model of Captum's": (lambda: captum("resnet18"), "model: expected a torch.nn.Module, got str"),
    "no method of Captum's": (lambda: captum(method="shap"), "method: expected one of smoothgrad, .*, got 'shap'"),
    "a seed of half": (lambda: captum(seed=0.5), "seed: expected a whole number of 64 bits, got 0.5"),
    "a seed of 70 bits": (lambda: captum(seed=2**70), "seed: expected a whole number of 64 bits, got 1"),
    "half a step": (lambda: integrated(steps=24.5), "steps: expected a whole number, got 24.5"),
    "an error of NaN": (lambda: integrated(max_error=NAN), "max_error: expected a share"),
    "a baseline of 0": (lambda: integrated(baseline_CHW=0), "baseline_CHW: expected a tensor"),
    "no device": (lambda: resomap.ModelExplainer(MODEL, device="warp"), "device: 'warp' is no device"),
    "half a cell": (lambda: resomap.to_common_frame(MAPS, BOXES, grid=2.5), "grid: expected a whole number of cells"),
    "a box of NaN": (lambda: resomap.to_common_frame(MAPS, BOXES * NAN, grid=2), "boxes: expected fractions"),
    "a map of no cells": (lambda: resomap.to_common_frame(MAPS[:, :0], BOXES, grid=2), "maps: expected"),
    "pretrained None": (lambda: tiny(pretrained=None), "pretrained: expected True, False or the path"),
    "a seed in words": (lambda: tiny(seed="a"), "seed: expected a whole"),
    "predict by a name": (lambda: predicted("resnet18"), "model: expected a torch.nn"),
    "predict from 3": (lambda: predicted(MODEL, 3), "loader: expected batches"),
    "predict in fp8": (lambda: predicted(mixed_precision="fp8"), "mixed_precision: expected no, bf16 or fp16, got"),
    "one name": (lambda: predicted(class_names=["a"]), "expected one for each of the model's 2 classes, got 1"),
    "no logits": (lambda: predicted(MODEL[0]), r"expected logits \(B, K\), here \(2, K\), got \(2, 2, 6, 6\)"),
    "train a name": (lambda: trained("resnet18"), "model: expected a torch.nn.Module"),
    "train in half": (lambda: trained(half()), "model: expected weights in float32, got float16; give model.float"),
    "half an epoch": (lambda: trained(epochs=1.5), r"training\.epochs: expected a whole number, got 1.5"),
    "a rate in words": (lambda: trained(learning_rate="a"), r"training\.learning_rate: expected a number"),
    "half a batch": (lambda: trained(accumulation_steps=1.5), "accumulation_steps: expected a whole"),
    "weights in words": (lambda: trained(class_weights=["a", "b"]), "class_weights: expected one number"),
    "saved never": (lambda: trained(save_every_s=NAN), "save_every_s: expected seconds"),
    "a callback of 3": (lambda: trained(callbacks=[3]), "callbacks: expected a list of Callback, got int"),
    "a callback alone": (lambda: trained(callbacks=resomap.EarlyStopping(**STOPPING)), "a list of Callback, got Early"),
    "validate on 3": (lambda: trained(MODEL, BATCHES, 3), "val_loader: expected a loader"),
    "half a pixel": (
        lambda: resomap.make_acuity("unmade", size=64.5),
        "acuity size: expected a whole number",
    ),
    "a band in words": (lambda: resomap.make_acuity("unmade", bands="a"), "acuity bands: expected numbers"),
    "a shape of 3": (lambda: complexity(3), "input_shape: expected"),
    "no images": (lambda: complexity((0, 3, 8, 8)), "input_shape: expected"),
    "part of a pixel": (lambda: resomap.profile_gpu_memory(MODEL, (1, 3, 8.5, 8)), "input_shape: expected"),
    "no side": (
        lambda: resomap.profile_model(MODEL, resolution=0),
        "resolution: expected a whole number of pixels from 1",
    ),
    "nothing to train": (
        lambda: resomap.profile_model(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), resolution=8),
        "model: expected a parameter that can be trained.*Sequential has none",
    ),
    "a training step of nothing": (
        lambda: resomap.profile_gpu_memory(nn.Flatten(), (1, 3, 8, 8), device="cpu", training=True),
        "model: expected a parameter that can be trained",
    ),
    "a side in words": (
        lambda: explained("32"),
        "resolution: expected a side in pixels, a whole number .*got '32",
    ),
    "a side of half": (
        lambda: explained(32.0),
        "resolution: expected a side in pixels, a whole number .*got 32.0",
    ),
    "a side of True": (
        lambda: explained(True),
        "resolution: expected a side in pixels, a whole number .*got True",
    ),
    "settings for a path": (
        lambda: resomap.load_config({"data.source": "acuity"}),
        "path: expected a folder or file of YAML, or None, got dict; settings in a dict are flags=",
    ),
    "settings for overrides": (lambda: resomap.load_config(overrides={"a": 1}), "overrides: expected a list .*flags="),
    "overrides of None": (lambda: resomap.load_config(overrides=None), "overrides: expected a list of .*got NoneType"),
    "flags in a list": (lambda: resomap.load_config(flags=["a=1"]), "flags: expected a dict of .*, got list"),
    "a strength of NaN": (lambda: resomap.AugmentationSettings(brightness=NAN), "brightness: expected a number from 0"),
    "a chance of 2": (lambda: resomap.AugmentationSettings(horizontal_flip=2), "horizontal_flip: expected a number"),
    "a turned range": (lambda: resomap.AugmentationSettings(blur_sigma=(1, 0)), "blur_sigma: expected"),
    "sides in words": (lambda: resomap.audit_dataset(None, resolutions="64", cache_dir=None), "resolutions: expected"),
    "a study of a dict": (lambda: resomap.run_study({}), r"config: expected what load_config\(\) returns, got dict"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_what_makes_no_sense_is_refused_in_one_line(name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises(ResoMapError, match=message) as found:
        call()
    assert len(str(found.value).splitlines()) == 1
