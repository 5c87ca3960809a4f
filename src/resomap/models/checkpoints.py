"""Checkpoints that say what they are: model, resolution, classes, preprocessing and seed travel along.

The weights are safetensors; the metadata lies beside them in metadata.json and, where this module wrote
the weights, in their header too, so a lone best_model.safetensors can still be loaded. Both may come from
strangers: everything is validated, and nothing is built before the file's shapes have been compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors
import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from resomap.errors import CheckpointError, ResoMapError, UnsafeCheckpointError
from resomap.layout import BEST_WEIGHTS, METADATA
from resomap.models.architectures import Specs, construct, construct_on_meta
from resomap.models.checksum import sealed
from resomap.models.modules import count_parameters
from resomap.models.names import canonical_name
from resomap.models.weights import apply_fit, differences, fit_state_dict, read_state_dict
from resomap.printable import counted, printable
from resomap.records import Preprocessing
from resomap.serialize import package_version, plain, read_json, write_atomic, write_json

FORMAT = 1
_HEADER_KEY = "resomap"
_LARGEST_METADATA_BYTES = 64 * 2**20
_VERSIONED = ("resomap", "torch", "torchvision", "timm")

_NOT_BUILT = (ResoMapError, TypeError, ValueError)
"""What building a model by metadata raises."""

Channel = Annotated[float, Field(ge=-1e3, le=1e3)]
Deviation = Annotated[float, Field(gt=0.0, le=1e3)]
Side = Annotated[int, Field(ge=1, le=16384)]


class _Strict(BaseModel):
    # Unknown keys are ignored: a later version may add some without changing the format.
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class StoredPreprocessing(_Strict):
    """records.Preprocessing, validated."""

    resolution: Side
    kernel: Literal["bilinear", "bicubic", "lanczos", "box"]
    mean: tuple[Channel, Channel, Channel]
    std: tuple[Deviation, Deviation, Deviation]
    information_resolution: Side | None = None

    def record(self) -> Preprocessing:
        return Preprocessing(self.resolution, self.kernel, self.mean, self.std, self.information_resolution)


class CheckpointMetadata(_Strict):
    """What metadata.json holds."""

    format: Annotated[int, Field(ge=1)] = FORMAT
    model: Annotated[str, Field(min_length=1, max_length=300)]
    family: str
    resolution: Side
    class_names: Annotated[tuple[str, ...], Field(min_length=1, max_length=1_000_000)]
    num_classes: int
    preprocessing: StoredPreprocessing
    seed: int
    epoch: int | None = None
    """Epoch whose weights these are, from 1."""
    monitor: str | None = None
    mode: Literal["min", "max"] | None = None
    """Whether a smaller or a larger value of `monitor` is better."""
    metrics: dict[str, Any] = {}
    """Validation metrics of that epoch."""
    parameters: int | None = None
    key: str | None = None
    """The run's key: hash of what determines its weights."""
    model_spec: dict[str, Any] | None = None
    """Description of simple_cnn or tiny_cnn."""
    versions: dict[str, str | None] = {}
    """Packages that built the model."""

    @model_validator(mode="after")
    def _consistent(self) -> CheckpointMetadata:
        if self.num_classes != len(self.class_names):
            raise ValueError(f"num_classes is {self.num_classes}, but {len(self.class_names)} are named")
        return self


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model ready for evaluation, and what is known about it."""

    model: nn.Module
    """In evaluation mode, on the CPU."""
    metadata: CheckpointMetadata
    path: Path
    """The weights file."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes this model's input."""
        return self.metadata.preprocessing.record()


def load_checkpoint(path: str | Path, *, allow_callables: bool = False) -> Checkpoint:
    """The trained model of a run.

    Args:
        path: a run's folder, a weights file, or a metadata.json.
        allow_callables: build models named `package.module:callable`, which runs that code.
    Raises:
        UnsafeCheckpointError: loading would run code.
        CheckpointError: missing, damaged, or weights and metadata do not belong together.
    """
    weights_path, metadata_path = _locate(Path(path))
    tensors = read_state_dict(weights_path)  # first: it looks at the checksum, which covers the metadata too
    metadata = embedded_metadata(weights_path)
    if metadata is None and not metadata_path.exists():
        raise CheckpointError(_nameless(weights_path, metadata_path))
    metadata = metadata or read_metadata(metadata_path)
    model = _build(metadata, tensors, weights_path, allow_callables=allow_callables)
    return Checkpoint(model=model.eval(), metadata=metadata, path=weights_path)


def read_metadata(path: str | Path) -> CheckpointMetadata:
    """Read and validate a metadata.json (or the one in a run's folder).

    Raises:
        CheckpointError: missing, damaged, written by a newer version, or with values out of range.
    """
    path = Path(path)
    path = path / METADATA if path.is_dir() else path
    if path.is_file() and path.stat().st_size > _LARGEST_METADATA_BYTES:
        raise CheckpointError(f"{printable(path)} is too large for metadata; it is not one of ResoMap's")
    return _validated(read_json(path, error=CheckpointError), path)


def embedded_metadata(path: Path) -> CheckpointMetadata | None:
    """The metadata in the header of weights that ResoMap wrote; None where there is none.

    It wins over the file beside it: a kill between writing the two leaves a metadata.json of an earlier epoch.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            text = (opened.metadata() or {}).get(_HEADER_KEY)
    except (safetensors.SafetensorError, OSError):
        return None  # A torch file, or a damaged one: reading its tensors will say which.
    if text is None:
        return None
    try:
        return _validated(json.loads(text), path)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{printable(path)}: the metadata in its header is damaged") from error


def write_metadata(path: str | Path, **fields: Any) -> CheckpointMetadata:
    """Write a metadata.json (a folder: in it) atomically; see CheckpointMetadata for the fields.

    num_classes, format and versions are filled in; records and numpy values are converted, NaN becomes null.

    Raises:
        CheckpointError: a field is unknown, missing or out of range; nothing is written.
        StorageError: it cannot be written.
    """
    path = Path(path)
    path = path / METADATA if path.is_dir() else path
    metadata = make_metadata(path=path, **fields)
    write_json(path, metadata.model_dump(mode="json"))
    return metadata


def make_metadata(*, path: Path = Path(METADATA), **fields: Any) -> CheckpointMetadata:
    """Metadata from its fields, completed and validated.

    Raises:
        CheckpointError: a field is unknown, missing or out of range.
    """
    unknown = sorted(set(fields) - set(CheckpointMetadata.model_fields))
    if unknown:
        raise CheckpointError(f"{printable(path)}: unknown metadata fields: {', '.join(unknown)}")
    completed = {
        "num_classes": len(fields.get("class_names", ())),
        "versions": {name: package_version(name) for name in _VERSIONED},
        **fields,
    }
    return _validated(plain(completed), path)


def check_describes(metadata: CheckpointMetadata, model: nn.Module) -> None:
    """Refuse metadata from which load_checkpoint could not build this model. Code of the user's is not run for that.

    Raises:
        CheckpointError: it names no model, or one of other layers or another number of classes.
    """
    if ":" in metadata.model:
        return
    try:
        wrong = differences(_outline(metadata), model.state_dict())
    except _NOT_BUILT as error:
        raise CheckpointError(f"metadata: its model cannot be built: {printable(error)}") from error
    if wrong:
        raise CheckpointError(
            f"metadata: expected that of the network, got {printable(metadata.model)} with "
            f"{counted(metadata.num_classes, 'class name')}, by which: {wrong[0]}"
            + (f"; and {len(wrong) - 1} more" if len(wrong) > 1 else "")
        )


def save_weights(
    path: Path, state: nn.Module | Mapping[str, Tensor], *, metadata: CheckpointMetadata | None = None
) -> Path:
    """Write weights as safetensors atomically, with the metadata and a checksum of all in the header.

    Raises:
        StorageError: no room, no permission, read-only.
    """
    tensors = state.state_dict() if isinstance(state, nn.Module) else state
    header = {_HEADER_KEY: metadata.model_dump_json()} if metadata else None
    head, data = sealed(safetensors.torch.save(_unshared(tensors), metadata=header))
    return write_atomic(path, lambda stream: stream.writelines((head, data)))


def weights_digest(path: str | Path) -> str:
    """Hash of a weights file's bytes: it names the weights where no run's key does.

    Args:
        path: a run's folder, a weights file, or a metadata.json.
    Raises:
        CheckpointError: missing or unreadable.
    """
    weights = _locate(Path(path))[0]
    try:
        with open(weights, "rb") as stream:
            return hashlib.file_digest(stream, "blake2b").hexdigest()[:32]
    except OSError as error:
        raise CheckpointError(f"cannot read {printable(weights)}: {error.strerror}") from error


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU copies where needed: safetensors stores neither shared memory nor strides."""
    seen: set[int] = set()
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain_tensor = tensor.detach().cpu().contiguous()
        address = plain_tensor.untyped_storage().data_ptr()
        result[name] = plain_tensor.clone() if address in seen else plain_tensor
        seen.add(address)
    return result


def _locate(path: Path) -> tuple[Path, Path]:
    """The weights file and the metadata.json that belong to `path`."""
    if path.is_dir() or path.name == METADATA:
        folder = path if path.is_dir() else path.parent
        candidates = [folder / BEST_WEIGHTS, (folder / BEST_WEIGHTS).with_suffix(".pt")]
        weights = next((c for c in candidates if c.is_file()), None)
        if weights is None:
            raise CheckpointError(f"{printable(folder)} holds no {BEST_WEIGHTS}; give a run's folder or a weights file")
        return weights, folder / METADATA
    if not path.is_file():
        raise CheckpointError(f"{printable(path)} is missing or no file; give a run's folder or a weights file")
    return path, path.with_name(METADATA)


def _nameless(weights: Path, metadata: Path) -> str:
    """What to do with weights that do not say whose they are."""
    return (
        f"{printable(metadata)} is missing, so {weights.name} does not say which model's weights it holds; train with "
        "ModelCheckpoint(..., metadata=FIELDS), or write it with resomap.models.checkpoints.write_metadata(folder, "
        "**FIELDS), where FIELDS = dict(model='resnet18', family='resnet', resolution=224, seed=0, class_names=[...], "
        "preprocessing=dict(resolution=224, kernel='bilinear', mean=[...], std=[...])); the bare network is "
        "resomap.build_model(NAME, num_classes=K, pretrained=FILE)"
    )


def _validated(content: object, path: Path) -> CheckpointMetadata:
    written = content.get("format", FORMAT) if isinstance(content, dict) else None
    if isinstance(written, int) and written > FORMAT:
        raise CheckpointError(f"{printable(path)} has format {written}, this version reads {FORMAT}; update resomap")
    try:
        return CheckpointMetadata.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "metadata"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise CheckpointError(
            f"{printable(path)} is no valid checkpoint metadata: {printable(where)}: {printable(first['msg'])}{more}"
        ) from error


def _build(
    metadata: CheckpointMetadata, tensors: Mapping[str, Tensor], path: Path, *, allow_callables: bool
) -> nn.Module:
    """The model of the metadata with the file's tensors."""
    if ":" in metadata.model and not allow_callables:
        raise UnsafeCheckpointError(
            f"{printable(path)} was refused: its model {printable(metadata.model)!r} would run code; "
            "if you trust it, allow it with --set models.allow_callables=true (in Python: allow_callables=True)"
        )
    try:
        name, specs = _model_of(metadata)
        # Shapes first: metadata that asks for a giant must not allocate one.
        fit = fit_state_dict(_outline(metadata), tensors, path=path, name=name, exact=True)
        model = construct(name, num_classes=metadata.num_classes, specs=specs, seed=0)
    except CheckpointError:
        raise
    except _NOT_BUILT as error:
        raise CheckpointError(f"{printable(path)}: its model cannot be built: {printable(error)}") from error
    apply_fit(model, fit)
    count = count_parameters(model)
    if metadata.parameters not in (None, count):
        raise CheckpointError(
            f"{printable(path)}: {name} has {count} parameters, the metadata says {metadata.parameters}"
        )
    return model


def _model_of(metadata: CheckpointMetadata) -> tuple[str, Specs | None]:
    """Canonical name, and the description of one of our own networks."""
    name = canonical_name(metadata.model)
    return name, {name: metadata.model_spec} if metadata.model_spec else None


def _outline(metadata: CheckpointMetadata) -> nn.Module:
    """The model without weights."""
    name, specs = _model_of(metadata)
    return construct_on_meta(name, num_classes=metadata.num_classes, specs=specs)
