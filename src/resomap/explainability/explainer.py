"""ModelExplainer: explanations of one or several models in a notebook, without a study."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from resomap.checks import is_whole
from resomap.data.colour import normalised
from resomap.data.decode import upright_rgb
from resomap.data.resize import to_square
from resomap.errors import ConfigError
from resomap.explainability.attribution import Attribution, Targets, as_targets
from resomap.explainability.methods import METHODS, explain
from resomap.explainability.overlay import colour_map, overlay, resized_map, top_value
from resomap.models.devices import present_device
from resomap.models.modules import check_module
from resomap.models.pretrained import IMAGENET_MEAN, IMAGENET_STD
from resomap.printable import printable
from resomap.records import Preprocessing
from resomap.serialize import DAMAGE, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, eq=False)
class Explained:
    """One image's explanation at one resolution."""

    resolution: int
    map_hw: np.ndarray
    """float32, >= 0, on the method's own grid, not rescaled."""
    target: int
    predicted: int
    confidence: float
    """Probability of the predicted class."""


class ModelExplainer:
    """Explains a classifier's answers.

    Args:
        model: any classifier of images; handed back unchanged after every call.
        device: where it runs.
        target_layer: of Grad-CAM; None: the last feature map.
        class_names: one for each class, whose number is checked at the first explanation; None: '0', '1', ...
        preprocessing: how pictures become inputs; None: ImageNet's mean and standard deviation, bilinear, and the
            resolution that each call names.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: str | torch.device = "cpu",
        target_layer: str | None = None,
        class_names: Sequence[str] | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        check_module(model)
        self.device = present_device(device)
        self.model = model.to(self.device)
        self.target_layer = target_layer
        self.class_names = tuple(class_names) if class_names is not None else None
        self.preprocessing = preprocessing

    def explain_batch(
        self, images_BCHW: Tensor, targets_B: Targets = None, *, method: str = "gradcam", **options: Any
    ) -> Attribution:
        """Maps of a batch.

        Args:
            images_BCHW: float32, normalised.
            targets_B: int64 class ids, or one for all; None: the predicted classes.
            method: see explainability.methods.METHODS.
            options: of the method.
        Raises:
            ConfigError: no such method, or inputs or class_names that do not fit.
        """
        if method == "gradcam":
            options.setdefault("target_layer", self.target_layer)
        targets = as_targets(targets_B, len(images_BCHW))
        placed = None if targets is None else targets.to(self.device)
        found = explain(self.model, images_BCHW.to(self.device), method=method, targets_B=placed, **options)
        self._check_names(found)
        return found

    def explain_image(
        self,
        picture: Image.Image,
        *,
        resolution: int | None = None,
        target: int | str | None = None,
        method: str = "gradcam",
        **options: Any,
    ) -> Explained:
        """One picture, turned upright, put on white, resized and cut as evaluation does it.

        Args:
            picture: opened by PIL.Image.open(path), not yet converted: its EXIF orientation and transparency count.
            target: the class explained, its id or its name in class_names; None: the predicted one.
        Raises:
            ConfigError: no such class or method, no picture, or class_names that do not fit.
        """
        recipe = self._recipe(resolution)
        square = to_square(
            _upright(picture), recipe.resolution, kernel=recipe.kernel, information=recipe.information_resolution
        )
        images_1CHW = normalised(square[None], mean=recipe.mean, std=recipe.std)
        found = self.explain_batch(images_1CHW, self._class_id(target), method=method, **options)
        probabilities = found.logits_BK.float().softmax(dim=1)[0].cpu()
        return Explained(
            resolution=recipe.resolution,
            map_hw=found.maps_Bhw[0].float().cpu().numpy(),
            target=int(found.targets_B[0]),
            predicted=int(probabilities.argmax()),
            confidence=float(probabilities.max()),
        )

    def visualize_explanation(
        self,
        picture: Image.Image,
        *,
        resolution: int | None = None,
        target: int | str | None = None,
        method: str = "gradcam",
        save_path: str | Path | None = None,
        **options: Any,
    ) -> Figure:
        """The picture, its heat map and the overlay beside each other; saved where a path is given."""
        found = self.explain_image(picture, resolution=resolution, target=target, method=method, **options)
        return _figure([found], picture, self._name, method=method, save_path=save_path)

    def compare_resolutions(
        self,
        models: Mapping[int, nn.Module],
        picture: Image.Image,
        *,
        target: int | str | None = None,
        method: str = "gradcam",
        save_path: str | Path | None = None,
        **options: Any,
    ) -> tuple[list[Explained], Figure]:
        """The same picture and class at several resolutions, each by the model that was trained there.

        Args:
            models: resolution -> its own model. One model for all resolutions would show what a foreign input size
                does to it, not what training at that resolution does.
            target: class explained everywhere; None: what the model of the largest resolution predicts.
        """
        if not isinstance(models, Mapping):
            raise ConfigError(
                "models: expected resolution -> its own model, as compare_resolutions({224: a, 448: b}, picture); got "
                f"{type(models).__name__}"
            )
        if not models:
            raise ConfigError("models: expected one model for each resolution, got none")
        explainers = {side: self._for(model) for side, model in sorted(models.items())}
        if target is None:
            largest = max(explainers)
            target = explainers[largest].explain_image(picture, resolution=largest, method="saliency").predicted
        found = [
            explainer.explain_image(picture, resolution=side, target=target, method=method, **options)
            for side, explainer in explainers.items()
        ]
        return found, _figure(found, picture, self._name, method=method, save_path=save_path)

    def generate(
        self,
        pictures: Iterable[tuple[str, Image.Image, int | str | None]],
        output: str | Path,
        *,
        resolution: int | None = None,
        methods: Sequence[str] = ("gradcam",),
        **options: Any,
    ) -> list[Path]:
        """Explain many pictures to disk: {output}/{method}/{name}.npz (raw map and answer) and {name}.png (overlay).

        Args:
            pictures: (name without suffix, picture, class or None for the predicted one).
        """
        unknown = [method for method in methods if method not in METHODS]
        if unknown:
            raise ConfigError(f"methods: expected some of {', '.join(METHODS)}, got {', '.join(unknown)}")
        return list(self._generate(pictures, Path(output), resolution, methods, options))

    def _generate(
        self,
        pictures: Iterable[tuple[str, Image.Image, int | str | None]],
        output: Path,
        resolution: int | None,
        methods: Sequence[str],
        options: Mapping[str, Any],
    ) -> Iterator[Path]:
        recipe = self._recipe(resolution)
        for name, picture, target in pictures:
            square = to_square(
                _upright(picture), recipe.resolution, kernel=recipe.kernel, information=recipe.information_resolution
            )
            for method in methods:
                found = self.explain_image(picture, resolution=resolution, target=target, method=method, **options)
                raw, image = (output / method / f"{name}{suffix}" for suffix in (".npz", ".png"))
                fields = {"target": found.target, "predicted": found.predicted, "confidence": found.confidence}
                write_atomic(raw, lambda f, m=found.map_hw, v=fields: np.savez_compressed(f, map=m, **v))  # type: ignore[misc]
                drawn = Image.fromarray(overlay(square, found.map_hw))
                write_atomic(image, lambda f, d=drawn: d.save(f, format="png"))  # type: ignore[misc]
                yield from (raw, image)

    def _for(self, model: nn.Module) -> ModelExplainer:
        return ModelExplainer(
            model, device=self.device, target_layer=self.target_layer, class_names=self.class_names,
            preprocessing=self.preprocessing,
        )  # fmt: skip

    def _recipe(self, resolution: int | None) -> Preprocessing:
        known = self.preprocessing
        if known is None and resolution is None:
            raise ConfigError("resolution: expected a side in pixels, since no preprocessing was given; got none")
        if resolution is not None and (not is_whole(resolution) or resolution < 1):
            raise ConfigError(f"resolution: expected a side in pixels, a whole number from 1, got {resolution!r}")
        side = int(resolution or (known.resolution if known else 0))
        if known is None:
            return Preprocessing(side, "bilinear", IMAGENET_MEAN, IMAGENET_STD)
        return replace(known, resolution=side)

    def _class_id(self, target: int | str | None) -> int | None:
        if not isinstance(target, str):
            return target
        names = self.class_names or ()
        if target not in names:
            known = f"one of {', '.join(names[:20])}" if names else "a class id, since no class_names were given"
            raise ConfigError(f"target: expected {known}; got {printable(repr(target))}")
        return names.index(target)

    def _check_names(self, found: Attribution) -> None:
        if self.class_names is None:
            return
        classes = found.logits_BK.shape[1]
        if len(self.class_names) != classes:
            raise ConfigError(
                f"class_names: expected one for each of the {classes} classes of the model, got "
                f"{len(self.class_names)}: {', '.join(map(printable, self.class_names[:20]))}"
            )

    def _name(self, label: int) -> str:
        return self.class_names[label] if self.class_names else str(label)


def _upright(picture: Image.Image) -> Image.Image:
    """The picture as evaluation sees it, whether it is an opened file or made in memory."""
    if not isinstance(picture, Image.Image):
        raise ConfigError(f"picture: expected a PIL image (PIL.Image.open(path)), got {type(picture).__name__}")
    try:
        return upright_rgb(picture)
    except DAMAGE as error:
        raise ConfigError(f"picture: expected one that can be decoded, got {printable(error)}") from error


def _figure(
    found: Sequence[Explained], picture: Image.Image, name: Any, *, method: str, save_path: str | Path | None
) -> Figure:
    """One row: the picture, then heat map and overlay at each resolution."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as NewFigure

    side = 224
    square = to_square(_upright(picture), side, kernel="bilinear")
    columns = 1 + 2 * len(found)
    figure = NewFigure(figsize=(1.7 * columns, 2.3), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    axes[0].imshow(square)
    axes[0].set_title(f"class explained: {name(found[0].target)}", fontsize=8, parse_math=False)
    for position, one in enumerate(found):
        heat, over = axes[1 + 2 * position], axes[2 + 2 * position]
        top = top_value(one.map_hw) or 1.0
        heat.imshow(colour_map(resized_map(one.map_hw, side, side) / top))
        heat.set_title(f"{method.replace('_', ' ')}, {one.resolution} px", fontsize=8)
        over.imshow(overlay(square, one.map_hw))
        over.set_title(f"{name(one.predicted)} {one.confidence:.2f}", fontsize=8, parse_math=False)
    for panel in axes:
        panel.axis("off")
    if save_path is not None:
        target = Path(save_path)
        write_atomic(target, lambda f: figure.savefig(f, format=target.suffix.lstrip(".") or "png"))
    return figure
