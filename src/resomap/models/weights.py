"""Reading weights files without running code from them, and fitting them to a model.

Files are safetensors, or torch files read with weights_only. Their tensors are matched by name; where no
name fits (another library's names for the same network) by order, if every shape and role agrees.
"""

from __future__ import annotations

import inspect
import logging
import pickle
import pickletools
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from resomap.errors import CheckpointError, UnsafeCheckpointError
from resomap.models.checksum import check_seal
from resomap.printable import listed, printable
from resomap.serialize import DAMAGE

_LOG = logging.getLogger(__name__)

OTHER_NAMES = (
    "names are another library's, so that tensors were matched by order and shape; epsilons and padding are in no file "
    "and may differ too: compare one answer with the other library's"
)
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights", "module")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_COUNTER = "num_batches_tracked"
_AVERAGED = "n_averaged"
_REFUSED = re.compile(
    r"Unsupported (global|class)|unsupported GLOBAL|unrecognized function|Can only (build|create)|getattr"
)
_CALLS = {"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"}
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)|function ([\w.]+)")
_READING: dict[str, str] = (
    {"backend": "pread"} if "backend" in inspect.signature(safetensors.torch.load_file).parameters else {}
)
"""Of safetensors.torch.load_file: its other way, mapping the file, never frees two integers a tensor (0.8.0)."""
_DAMAGE: tuple[type[Exception], ...] = (*DAMAGE, pickle.UnpicklingError, safetensors.SafetensorError)


@dataclass(frozen=True, slots=True)
class Fit:
    """How a file's tensors go into a model."""

    tensors: Mapping[str, Tensor]
    """Model's name -> tensor of the file."""
    by_order: bool
    """Matched by order, since the names are another library's."""
    left_as_initialised: tuple[str, ...]
    """The classifier's tensors, where the file has another number of classes, or no classifier."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, on the CPU, by name; a wrapper such as {'state_dict': ...} is opened.

    Raises:
        UnsafeCheckpointError: loading would run code from the file; nothing of it was run.
        CheckpointError: missing, unreadable, damaged, or without tensors.
    """
    content = _read(Path(path))
    if isinstance(content, Mapping):
        for wrapper in _WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
                break
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if tensors:
            return tensors
    raise CheckpointError(f"{printable(path)} holds no weights (expected a state dict: name -> tensor)")


def load_weights(model: nn.Module, path: Path, *, name: str = "the model") -> Fit:
    """Copy a file's weights into `model`; a classifier that the file lacks, or has for another number of
    classes, stays as initialised.

    Args:
        name: what the model is called in messages.
    Raises:
        UnsafeCheckpointError: loading would run code from the file.
        CheckpointError: damaged, weights of another model, or not finite; the model is unchanged.
    Side effects: logs a warning where names did not fit.
    """
    fit = fit_state_dict(model, read_state_dict(path), path=path, name=name)
    apply_fit(model, fit)
    if fit.by_order:
        _LOG.warning("%s: %s", printable(path), OTHER_NAMES)
    if fit.left_as_initialised:
        _LOG.info(
            "%s: no classifier for this number of classes; left as initialised: %s",
            printable(path),
            ", ".join(fit.left_as_initialised),
        )
    return fit


def apply_fit(model: nn.Module, fit: Fit) -> None:
    """Copy the fitted tensors into the model, converted to its precision."""
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in fit.tensors.items():
            state[name].copy_(tensor)


def fit_state_dict(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    path: Path,
    name: str = "the model",
    exact: bool = False,
) -> Fit:
    """Match a file's tensors with a model's (which may be on the meta device) without copying.

    Args:
        exact: every tensor by its name and shape; no other classifier, no matching by order.
    Raises:
        CheckpointError: they do not fit, naming the first differences; or a value is NaN or infinite.
    """
    wanted = model.state_dict()
    heads = () if exact else classifier_names(model)
    tensors = _without_prefixes(tensors, wanted)
    differences = _differences(wanted, tensors, heads)
    by_order = False
    if differences and not exact:
        renamed = _renamed_by_order(wanted, tensors)
        if renamed is not None and not _differences(wanted, renamed, heads):
            tensors, differences, by_order = renamed, [], True
    if differences:
        raise CheckpointError(
            f"{printable(path)} does not hold weights of {name}: {listed(differences, most=3, separator='; ')}"
        )
    fitting = {k: v for k, v in tensors.items() if v.shape == wanted[k].shape}
    infinite = next((k for k, v in fitting.items() if v.is_floating_point() and not v.isfinite().all()), None)
    if infinite:
        raise CheckpointError(f"{printable(path)}: {printable(infinite)} holds NaN or infinite values")
    left = tuple(k for k in wanted if k not in fitting and not k.endswith(_COUNTER))
    return Fit(tensors=fitting, by_order=by_order, left_as_initialised=left)


def differences(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """What keeps tensors from being all of a model's, by name and shape, one phrase each."""
    wanted = model.state_dict()
    return _differences(wanted, _without_prefixes(tensors, wanted), ())


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the final layers, whose size is the number of classes."""
    config = getattr(model, "pretrained_cfg", None) or {}
    classifier = config.get("classifier") if hasattr(config, "get") else None
    if classifier:
        return (classifier,) if isinstance(classifier, str) else tuple(classifier)
    layers = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    return tuple(layers[-1:])


def _read(path: Path) -> object:
    try:
        if not path.is_file():
            reason = "is a folder or device, not a weights file" if path.exists() else "is missing"
            raise CheckpointError(f"{printable(path)} {reason}; give the path of a weights file")
        if _is_safetensors(path):
            check_seal(path)
            return safetensors.torch.load_file(path, **_READING)
        # Opened here, since torch goes by the name's ending otherwise.
        with warnings.catch_warnings(), open(path, "rb") as stream:
            warnings.simplefilter("ignore")  # About other pickle protocols; what matters ends in an error.
            return torch.load(stream, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        if isinstance(error, PermissionError):
            raise CheckpointError(f"cannot read {printable(path)}: permission denied") from error
        if isinstance(error, pickle.UnpicklingError) and (_REFUSED.search(str(error)) or _calls(path)):
            found = _GLOBAL.search(str(error))
            what = f" ({printable(found.group(1) or found.group(2))})" if found else ""
            raise UnsafeCheckpointError(
                f"{printable(path)} was refused: loading it would run code from the file{what}; "
                "use a file that holds tensors only, such as safetensors"
            ) from error
        if isinstance(error, RuntimeError) and "TorchScript" in str(error):
            raise CheckpointError(
                f"{printable(path)} is a TorchScript archive, a program with its weights; save those alone: "
                "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
            ) from error
        raise CheckpointError(
            f"{printable(path)} is damaged or no weights file ({type(error).__name__}); get it again"
        ) from error


def _calls(path: Path) -> bool:
    """Whether a bare pickle calls functions; its operations are listed, not run.

    torch stops at the first operation it does not know, which may come before the call.
    """
    with open(path, "rb") as stream:
        if stream.read(1) != b"\x80":
            return False
        stream.seek(0)
        try:
            return any(operation.name in _CALLS for operation, _, _ in pickletools.genops(stream))
        except (ValueError, KeyError, IndexError, OverflowError, MemoryError):
            return False


def _is_safetensors(path: Path) -> bool:
    """By content: 8 bytes of header length, then JSON. Names may lie."""
    with open(path, "rb") as stream:
        return stream.read(9)[8:] == b"{"


def _without_prefixes(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Names without what DataParallel, torch.compile or a wrapping module put before them, also where entries of its
    own (a loss's weights) stand beside them; as they were where that leads to none of the model's.

    The counter of torch's AveragedModel is left out.
    """
    found = {name: tensor for name, tensor in tensors.items() if name != _AVERAGED or name in wanted}
    while not any(name in wanted for name in found):
        prefix = max(_PREFIXES, key=lambda p: sum(name.startswith(p) for name in found))
        shorter = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
        if len(shorter) < len(found) or shorter.keys() == found.keys():
            return tensors
        found = shorter
    return found


def _renamed_by_order(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The file's tensors under the model's names, in order; None where count or roles differ.

    The role is the last part of a name (weight, bias, running_mean): equal shapes alone would let a batch
    norm's bias take its weight's place.
    """
    model_names = [name for name in wanted if not name.endswith(_COUNTER)]
    file_names = [name for name in tensors if not name.endswith(_COUNTER)]
    if [n.rpartition(".")[2] for n in model_names] != [n.rpartition(".")[2] for n in file_names]:
        return None
    return {ours: tensors[theirs] for ours, theirs in zip(model_names, file_names, strict=True)}


def _differences(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], heads: tuple[str, ...]) -> list[str]:
    """What keeps the tensors from fitting, one phrase each."""
    found: list[str] = []
    for name, ours in wanted.items():
        theirs = tensors.get(name)
        if theirs is None:
            if not name.endswith(_COUNTER) and name.rpartition(".")[0] not in heads:
                found.append(f"{name} is missing")
        elif ours.is_floating_point() != theirs.is_floating_point():
            found.append(f"{name} is {theirs.dtype}, expected {ours.dtype}")
        elif ours.shape != theirs.shape and not _other_class_count(name, ours, theirs, heads):
            found.append(f"{name} is {tuple(theirs.shape)}, expected {tuple(ours.shape)}")
    return found + [f"{printable(name)} is unknown" for name in tensors if name not in wanted]


def _other_class_count(name: str, ours: Tensor, theirs: Tensor, heads: tuple[str, ...]) -> bool:
    """Whether a tensor differs only in the number of classes of the final layer."""
    return (
        name.rpartition(".")[0] in heads
        and ours.ndim == theirs.ndim > 0
        and ours.shape[1:] == theirs.shape[1:]
        and theirs.shape[0] > 0
    )
