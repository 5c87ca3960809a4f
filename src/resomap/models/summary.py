"""What a model looks like at a resolution: every layer's output shape and parameters.

Computed on shapes alone, so VGG16 at 512 costs milliseconds and no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from resomap.models.modules import SIZE_ERRORS, count_parameters, dry_forward, run_here
from resomap.printable import printable
from resomap.serialize import write_json, write_text


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """One layer (a module without submodules, or with parameters of its own), in the order they end in."""

    name: str
    kind: str
    output_shape: tuple[int, ...] | None
    """Without the batch dimension: C H W for a feature map; None where the output is no tensor."""
    parameters: int
    """Its own, without those of submodules: the layers' add up to the model's."""
    calls: int
    """How often it runs in one forward pass."""


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """All layers of a model for one input resolution."""

    model: str
    resolution: int
    layers: tuple[LayerSummary, ...]
    parameters: int
    trainable_parameters: int
    output_shape: tuple[int, ...] | None

    def text(self) -> str:
        """A plain table of at most 80 columns."""
        rows = [(_shorten(f"{layer.name} ({layer.kind})", 48), layer) for layer in self.layers]
        lines = [
            f"{_shorten(self.model, 48)}, input 3 x {self.resolution} x {self.resolution}",
            "",
            f"{'layer':<48} {'output':>17} {'parameters':>13}",
        ]
        for label, layer in rows:
            lines.append(f"{label:<48} {_shape(layer.output_shape):>17} {layer.parameters:>13,}")
        lines += [
            "",
            f"{'parameters':<48} {self.parameters:>31,}",
            f"{'of these trainable':<48} {self.trainable_parameters:>31,}",
        ]
        return "\n".join(lines) + "\n"


def summarize(model: nn.Module, *, resolution: int, name: str | None = None) -> ModelSummary:
    """Run the model once on shapes and list its layers.

    Args:
        resolution: side of the square input in pixels.
        name: what the model is called; the class's name else.
    Side effects: none. Mode, weights and hooks are as before, also after an error.
    """
    seen: dict[str, LayerSummary] = {}
    with _recording(model, seen):
        output = _forward(model, resolution, seen)
    return ModelSummary(
        model=name or type(model).__name__,
        resolution=resolution,
        layers=tuple(seen.values()),
        parameters=count_parameters(model),
        trainable_parameters=count_parameters(model, trainable_only=True),
        output_shape=_tensor_shape(output),
    )


def write_summary(folder: Path, model: nn.Module, *, resolution: int, name: str | None = None) -> ModelSummary:
    """Write summary.txt and summary.json into `folder`.

    Raises:
        StorageError: it cannot be written.
    """
    summary = summarize(model, resolution=resolution, name=name)
    write_text(folder / "summary.txt", summary.text())
    write_json(folder / "summary.json", summary)
    return summary


def _forward(model: nn.Module, resolution: int, seen: dict[str, LayerSummary]) -> object:
    try:
        return dry_forward(model, resolution, batch=1)
    except SIZE_ERRORS:
        # A model of the user's that needs values: run it, in evaluation mode, on one blank image.
        seen.clear()
        return run_here(model, resolution)


@contextmanager
def _recording(model: nn.Module, seen: dict[str, LayerSummary]) -> Iterator[None]:
    """Note each layer's output while inside."""

    def note(name: str, module: nn.Module, output: object) -> None:
        calls = seen[name].calls + 1 if name in seen else 1
        own = sum(p.numel() for p in module.parameters(recurse=False))
        seen[name] = LayerSummary(name, type(module).__name__, _tensor_shape(output), own, calls)

    handles = [
        module.register_forward_hook(lambda m, _, output, name=name: note(name, m, output))
        for name, module in model.named_modules()
        if next(module.children(), None) is None or next(module.parameters(recurse=False), None) is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensor_shape(output: object) -> tuple[int, ...] | None:
    return tuple(output.shape[1:]) if isinstance(output, Tensor) else None


def _shape(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else " x ".join(map(str, shape)) or "1"


def _shorten(text: str, width: int) -> str:
    text = printable(text)
    return text if len(text) <= width else f"...{text[3 - width :]}"
