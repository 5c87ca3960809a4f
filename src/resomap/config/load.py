"""load_config: find the files, merge them, override, validate; and the way back to YAML and to flat keys.

Precedence, later wins: defaults, files, overrides ('training.learning_rate=3e-4'), flags of the command line.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from resomap.config.expected import Fragment, Where, choices, fragment_at, is_section, kinds
from resomap.config.problems import Draft
from resomap.config.schema import FILES, ResoMapConfig
from resomap.config.unknown_keys import unknown
from resomap.config.yaml_text import LARGEST_BYTES, YamlTextError, is_unicode, parse, show, to_yaml
from resomap.errors import ConfigError
from resomap.layout import StudyLayout
from resomap.printable import printable

log = logging.getLogger(__name__)

_SECTIONS = {name: section for section, name in FILES.items()}


def load_config(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    flags: Mapping[str, object] | None = None,
) -> ResoMapConfig:
    """The resolved configuration.

    Args:
        path: a folder with the YAML files of configs/ (missing ones: defaults; config.yaml is stronger than the
            others); one YAML file with sections by name (what `resomap config` prints, or a study.yaml); None:
            ./configs if it holds config.yaml, else the defaults.
        overrides: 'section.key=value'. Lists as [64, 96] or 64,96; text as it stands; everything else in YAML.
        flags: dotted key -> value, stronger than everything else.
    Raises:
        ConfigError: everything that is wrong, one line each, with file, dotted key and what to do.
    """
    _check_kinds(path, overrides, flags)
    draft = Draft()
    _add_files(draft, path)
    _withhold_code(draft)
    for text in [overrides] if isinstance(overrides, str) else overrides:
        _add_override(draft, text)
    for key, value in (flags or {}).items():
        _add_flag(draft, key, value)
    return draft.finish()


def _check_kinds(path: object, overrides: object, flags: object) -> None:
    """What a notebook gives in the wrong place.

    Raises:
        ConfigError: one of them is of another kind than load_config takes.
    """
    wanted: tuple[tuple[str, object, Any, str], ...] = (
        ("path", path, (str, os.PathLike, type(None)), "a folder or file of YAML, or None"),
        ("overrides", overrides, Sequence, "a list of 'section.key=value'"),
        ("flags", flags, (Mapping, type(None)), "a dict of 'section.key' -> value, or None"),
    )
    for name, given, kinds_taken, expected in wanted:
        if not isinstance(given, kinds_taken):
            hint = "; settings in a dict are flags={'section.key': value}" if isinstance(given, Mapping) else ""
            raise ConfigError(f"{name}: expected {expected}, got {type(given).__name__}{hint}")


def _add_files(draft: Draft, path: str | Path | None) -> None:
    if path is None:
        path = Path("configs")
        if not (path / FILES["study"]).is_file():
            return
    path = Path(path)
    try:
        names = sorted(os.listdir(path))
    except NotADirectoryError:
        _add_file(draft, path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        draft.problem(str(path), f"cannot be read ({reason}); give a folder of YAML files, or one YAML file")
    else:
        _add_folder(draft, path, names)


def _withhold_code(draft: Draft) -> None:
    """A file may come from anybody: that models may run code is said by hand or not at all."""
    source = draft.withdraw(("models", "allow_callables"), False)
    if source is not None:
        log.warning(
            "%s: models.allow_callables is not taken from a file; "
            "if you trust the code that its models name, give --set models.allow_callables=true",
            printable(source),
        )


def _add_folder(draft: Draft, folder: Path, names: Sequence[str]) -> None:
    for name in names:
        meant = _misspelt(name)
        if meant is not None:
            draft.problem(name, f"is not read; if it is meant to be, rename it to {meant}")
    study_file = StudyLayout(folder).config_path.name
    found = _SECTIONS.keys() & set(names)
    if not found and study_file in names:
        draft.problem(str(folder), f"is a study; to run with its settings give the file {study_file} in it")
    elif not found:
        log.warning("%s holds none of %s: the defaults apply", printable(folder), ", ".join(_SECTIONS))
    for name, section in _SECTIONS.items():
        if name in names and section != "study":
            draft.merge(_read(draft, folder / name, name), name, (section,))
    # Last, because what it says about any section is stronger than the section's own file.
    if FILES["study"] in names:
        _add_file(draft, folder / FILES["study"])


def _misspelt(name: str) -> str | None:
    """The file that `name` was probably meant to be. Names with digits or dashes (sweep-2.yaml) are variants."""
    stem, extension = os.path.splitext(name)
    if name in _SECTIONS or extension.lower() not in (".yaml", ".yml") or not stem.isalpha():
        return None
    near = difflib.get_close_matches(stem.lower(), [Path(known).stem for known in _SECTIONS], n=1, cutoff=0.8)
    return f"{near[0]}.yaml" if near else None


def _add_file(draft: Draft, path: Path) -> None:
    """A file with sections by name. 'provenance' says where a study.yaml came from and sets nothing.

    A study.yaml in its study means the study that it lies in, which may have been moved since it was written.
    """
    content = _read(draft, path, path.name)
    if isinstance(content, dict):
        content.pop("provenance", None)
        study, settings = StudyLayout(path.parent), content.setdefault("study", {})
        if path.name == study.config_path.name and study.checkpoints_dir.is_dir() and isinstance(settings, dict):
            settings["output"] = str(study.root)
    draft.merge(content, path.name)


def _read(draft: Draft, path: Path, name: str) -> Any:
    """What stands in the file; None (and a problem) where it cannot be read."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(LARGEST_BYTES + 1)
        if len(data) > LARGEST_BYTES:
            draft.problem(name, f"is larger than {LARGEST_BYTES:,} bytes; that is no configuration")
            return None
        return parse(data.decode("utf-8"))
    except OSError as error:
        draft.problem(str(path), f"cannot be read ({error.strerror})")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        draft.problem(name, f"line {line}: is not UTF-8; save the file as UTF-8")
    except YamlTextError as error:
        draft.problem(name, str(error))
    return None


def _add_override(draft: Draft, text: str) -> None:
    key, equals, value_text = text.partition("=")
    where = _where(key)
    fragment = fragment_at(where)
    if not equals or not key.strip() or not is_unicode(text):
        draft.problem("--set", f"expected section.key=value, got {show(text)}")
    elif fragment is None:
        draft.problem("--set", unknown(where))
    else:
        try:
            value = _from_text(value_text.strip(), fragment)
        except YamlTextError as error:
            draft.problem("--set", f"{key.strip()}: {error}")
            return
        if is_section(where) and not isinstance(value, dict):
            draft.problem("--set", f"{key.strip()}: is a section; name a key of it, such as training.epochs=10")
        else:
            draft.set(where, value, "--set")


def _add_flag(draft: Draft, key: str, value: object) -> None:
    where = _where(key)
    fragment = fragment_at(where)
    if isinstance(value, str) and fragment is not None and "array" in kinds(fragment):
        value = _listed(value, fragment)
    draft.set(where, value, "command line")


def _where(key: str) -> Where:
    return tuple(part.strip() for part in key.split("."))


def _from_text(text: str, fragment: Fragment) -> Any:
    """The value that `text` stands for in this place.

    Raises:
        YamlTextError: it is not YAML where YAML is due.
    """
    expected = kinds(fragment)
    if "string" in expected:
        return _text_value(text, expected)
    if "array" in expected and not text.startswith("["):
        if text in ("", "null", "~"):
            return None
        return _listed(text, fragment)
    return parse(text)


def _listed(text: str, fragment: Fragment) -> list[Any]:
    """'64, 96' as a list; an item that is not YAML stays text, for validation to name it with its place."""
    array = next(choice for choice in choices(fragment) if choice["type"] == "array")
    kind = array["items"] if "items" in array else array["prefixItems"][0]
    items: list[Any] = []
    for item in filter(None, map(str.strip, text.split(","))):
        try:
            items.append(_from_text(item, kind))
        except YamlTextError:
            items.append(item)
    return items


def _text_value(text: str, expected: set[str]) -> Any:
    """Text as it stands (a folder may be named 2024, [new] or {data}), except in quotes; null or true if due."""
    if text.startswith(('"', "'")):
        return parse(text)
    if text == "" or (text in ("null", "~") and "null" in expected):
        return None
    if text in ("true", "false") and "boolean" in expected:
        return text == "true"
    return text


def dump_config(config: ResoMapConfig) -> str:
    """YAML text that load_config takes back to an equal configuration."""
    return to_yaml(config.model_dump(mode="json"))


def flatten(value: ResoMapConfig | Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Dotted keys -> values; lists (and tuples, as lists) stay whole, and so does an empty mapping."""
    mapping = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    flat: dict[str, object] = {}
    for key, inner in mapping.items():
        if isinstance(inner, Mapping) and inner:
            flat |= flatten(inner, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(inner) if isinstance(inner, tuple) else inner
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two mappings, nested or flat: 'training.learning_rate: 0.001 -> 0.003'."""
    before, after = flatten(old), flatten(new)
    absent = object()
    lines = []
    for key in dict.fromkeys([*before, *after]):
        was, now = before.get(key, absent), after.get(key, absent)
        if was != now:
            pair = [
                ["(not set)" if v is absent else show(v, width=width) for v in (was, now)] for width in (60, 10_000)
            ]
            # Long lists that begin alike are shown whole.
            first, second = pair[0] if pair[0][0] != pair[0][1] else pair[1]
            lines.append(f"{key}: {first} -> {second}")
    return lines
