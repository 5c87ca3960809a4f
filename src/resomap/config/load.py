"""Find, merge, override and validate the configuration; all problems are reported together.

Precedence, later wins: defaults, files, overrides ('training.learning_rate=3e-4'), flags of the command line.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from resomap.config.schema import FILES, ResoMapConfig
from resomap.errors import ConfigError, printable

_LARGEST_BYTES = 2**20
_FLOAT = re.compile(r"[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+|[-+]?\.\d+([eE][-+]?\d+)?")
Path_ = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """Safe YAML without repeated keys and without aliases, and in which 3e-4 is a number as in YAML 1.2."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not supported", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (dict, list)):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a name", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands here twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


class _Problems:
    """What is wrong so far, and where each value came from."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.sources: dict[Path_, str] = {}

    def add(self, source: str, text: str) -> None:
        self.lines.append(f"{printable(source)}: {printable(text)}")

    def source_of(self, where: Path_) -> str:
        """The file or flag that set the value (or the nearest container of it)."""
        for length in range(len(where), 0, -1):
            if where[:length] in self.sources:
                return self.sources[where[:length]]
        return FILES.get(str(where[0]), "configuration") if where else "configuration"


def load_config(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    flags: Mapping[str, object] | None = None,
) -> ResoMapConfig:
    """The resolved configuration.

    Args:
        path: a folder with the YAML files of configs/ (missing ones: defaults); one YAML file with sections by
            name (what `resomap config` prints, or a study.yaml); None: ./configs if it holds config.yaml, else the
            defaults.
        overrides: 'section.key=value', the value in YAML; a comma-separated text becomes a list where one is due.
        flags: dotted key -> value, stronger than everything else.
    Raises:
        ConfigError: everything that is wrong, one line each, with file, dotted key and what to do.
    """
    problems = _Problems()
    merged: dict[str, Any] = {}
    for source, section, content in _files(path, problems):
        _merge(merged, {section: content} if section else content, source, problems)
    for text in overrides:
        _override(merged, text, problems)
    for key, value in (flags or {}).items():
        _set(merged, key, value, f"--{key.rpartition('.')[2].replace('_', '-')}", problems)
    return _validated(merged, problems)


def _files(path: str | Path | None, problems: _Problems) -> Iterator[tuple[str, str | None, Any]]:
    """(file name, section or None for all, content), weakest first."""
    if path is None:
        path = Path("configs")
        if not (path / FILES["study"]).is_file():
            return
    path = Path(path)
    if path.is_dir():
        yield from _folder(path, problems)
    else:
        content = _read(path, problems)
        if isinstance(content, dict):
            content.pop("provenance", None)
            yield path.name, None, content


def _folder(path: Path, problems: _Problems) -> Iterator[tuple[str, str | None, Any]]:
    known = {name: section for section, name in FILES.items()}
    for file in sorted(path.glob("*.y*ml")):
        near = difflib.get_close_matches(file.name, known, n=1, cutoff=0.8)
        if file.name not in known and near and not (path / near[0]).exists():
            problems.add(file.name, f"is not read; rename it to {near[0]}")
    for section, name in FILES.items():
        if section != "study" and (path / name).is_file():
            content = _read(path / name, problems)
            if content is not None:
                yield name, section, content
    # config.yaml last: what it says about any section is stronger than that section's own file.
    if (path / FILES["study"]).is_file():
        content = _read(path / FILES["study"], problems)
        if content is not None:
            yield FILES["study"], None, content


def _read(path: Path, problems: _Problems) -> dict[Any, Any] | None:
    """The file's mapping; None (and a problem) where there is none."""
    try:
        data = path.read_bytes()
        if len(data) > _LARGEST_BYTES:
            problems.add(str(path), f"is {len(data)} bytes; a configuration has at most {_LARGEST_BYTES}")
            return None
        content = yaml.load(data.decode("utf-8"), _Loader)
    except OSError as error:
        problems.add(str(path), f"cannot be read ({error.strerror}); give a folder of YAML files, or one file")
    except UnicodeDecodeError as error:
        problems.add(str(path), f"is not UTF-8 (byte {error.start})")
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problems.add(str(path), _yaml_problem(error))
    else:
        if content is None or isinstance(content, dict):
            return content or {}
        problems.add(path.name, f"expected 'key: value' lines, got {_say(content)}")
    return None


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}, column {mark.column + 1}: {what}" if mark else f"is not YAML: {what}"


def _merge(merged: dict[str, Any], content: Any, source: str, problems: _Problems, prefix: Path_ = ()) -> None:
    """Put `content` over `merged`, mapping by mapping, and note where each value came from."""
    if not isinstance(content, dict):
        problems.add(source, f"{_dotted(prefix)}: expected 'key: value' lines, got {_say(content)}")
        return
    for key, value in content.items():
        where = (*prefix, key if isinstance(key, int) else str(key))
        is_section = isinstance(value, dict) and _field_type(where) is not None
        if is_section:
            _merge(merged.setdefault(str(key), {}), value, source, problems, where)
        elif value is None and not prefix:
            continue  # an empty section
        else:
            merged[str(key)] = value
            problems.sources[where] = source


def _field_type(where: Path_) -> type[BaseModel] | None:
    """The section's model at `where`; None where there is a plain value or nothing."""
    model: type[BaseModel] = ResoMapConfig
    for part in where:
        field = model.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        model = field.annotation
    return model


def _override(merged: dict[str, Any], text: str, problems: _Problems) -> None:
    key, equals, value_text = text.partition("=")
    if not equals or not key.strip():
        problems.add("--set", f"expected section.key=value, got {text!r}")
        return
    try:
        value = yaml.load(value_text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problems.add("--set", f"{key.strip()}: {_yaml_problem(error)}")
        return
    _set(merged, key.strip(), value, "--set", problems)


def _set(merged: dict[str, Any], key: str, value: Any, source: str, problems: _Problems) -> None:
    parts = tuple(key.split("."))
    target = merged
    for depth, part in enumerate(parts[:-1]):
        if _field_type(parts[: depth + 1]) is None and part != "families":
            problems.add(source, _unknown(parts[: depth + 1]))
            return
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            problems.add(source, f"{key}: {part} was given as {_say(target)}, not as a section")
            return
    if len(parts) == 1:
        problems.add(source, f"{key}: name a section and a key, such as training.epochs=10")
        return
    if isinstance(value, str) and _takes_list(parts):
        value = [_as_scalar(item.strip()) for item in value.split(",")]
    elif not isinstance(value, (list, dict)) and _takes_list(parts) and value is not None:
        value = [value]
    target[parts[-1]] = value
    problems.sources[parts] = source


def _takes_list(parts: Path_) -> bool:
    model = _field_type(parts[:-1])
    field = model.model_fields.get(str(parts[-1])) if model else None
    return field is not None and (get_origin(field.annotation) or field.annotation) is list


def _as_scalar(text: str) -> Any:
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else text


def _validated(merged: dict[str, Any], problems: _Problems) -> ResoMapConfig:
    for where, value in list(_leaves(merged)):
        if isinstance(value, float) and not math.isfinite(value):
            problems.add(problems.source_of(where), f"{_dotted(where)}: expected a finite number, got {value}")
    config = None
    try:
        # As JSON and strict: lists may become tuples and whole numbers floats, but no value changes its kind.
        config = ResoMapConfig.model_validate_json(json.dumps(merged, default=str), strict=True)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            _add_validation(item, problems)
    if problems.lines:
        raise ConfigError(list(dict.fromkeys(problems.lines)))
    assert config is not None
    return config


def _add_validation(item: Any, problems: _Problems) -> None:
    where = tuple(part for part in item["loc"] if not (isinstance(part, str) and "[" in part))
    where = _without_union_tags(where)
    source = problems.source_of(where)
    if item["type"] == "extra_forbidden":
        problems.add(source, _unknown(where))
    elif item["type"] == "finite_number":
        return  # named already
    else:
        problems.add(source, f"{_dotted(where)}: {_explain(item)}")


def _without_union_tags(where: Path_) -> Path_:
    """pydantic appends the type it tried ('bool', 'int') for unions; those are no keys."""
    return where[:-1] if len(where) > 2 and where[-1] in ("bool", "int", "str", "float") else where


def _explain(item: Any) -> str:
    got, context = _say(item["input"]), item.get("ctx", {})
    words = {
        "int_parsing": "expected a whole number",
        "int_type": "expected a whole number",
        "int_from_float": "expected a whole number",
        "float_parsing": "expected a number",
        "float_type": "expected a number",
        "string_type": "expected text",
        "bool_parsing": "expected true or false",
        "bool_type": "expected true or false",
        "list_type": "expected a list such as [a, b]",
        "tuple_type": "expected a list such as [a, b]",
        "dict_type": "expected 'key: value' lines",
        "model_type": "expected 'key: value' lines",
        "missing": "is missing",
    }
    kind = item["type"]
    if kind in words:
        return f"{words[kind]}, got {got}"
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        relation = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
        bound = next((f"{word} {context[key]}" for key, word in relation.items() if key in context), "in range")
        return f"expected a number {bound}, got {got}"
    if kind == "literal_error":
        return f"expected one of {context['expected']}, got {got}"
    if kind in ("too_short", "too_long"):
        return f"expected another number of values ({item['msg'].lower()})"
    return str(context.get("error") or f"{item['msg']}, got {got}")


def _leaves(value: Any, prefix: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*prefix, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*prefix, index))
    else:
        yield prefix, value


def _unknown(where: Path_) -> str:
    model = _field_type(where[:-1])
    names = list(model.model_fields) if model is not None else []
    near = difflib.get_close_matches(str(where[-1]), names, n=1, cutoff=0.5)
    kind = "section" if len(where) == 1 else "key"
    if near:
        return f"{_dotted(where)}: unknown {kind}; nearest: {near[0]}"
    elsewhere = [f"{s}.{where[-1]}" for s in FILES if (m := _field_type((s,))) and str(where[-1]) in m.model_fields]
    known = elsewhere[0] if elsewhere else ", ".join(names) or "no keys here"
    return f"{_dotted(where)}: unknown {kind}; known: {known}"


def _dotted(where: Path_) -> str:
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".") or "file"


def _say(value: Any) -> str:
    """A value as the user wrote it, shortened."""
    text = f'"{value}"' if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=1000)
    text = text.removesuffix("\n...\n").strip()
    return text if len(text) <= 60 else f"{text[:57]}..."


def dump_config(config: ResoMapConfig) -> str:
    """YAML text that load_config takes back to an equal configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def flatten(value: ResoMapConfig | Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Dotted keys -> values; lists stay whole."""
    mapping = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    flat: dict[str, object] = {}
    for key, inner in mapping.items():
        if isinstance(inner, Mapping) and inner:
            flat |= flatten(inner, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = inner
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two nested mappings: 'training.learning_rate: 0.001 -> 0.003'."""
    before, after = flatten(old), flatten(new)
    missing = object()
    lines = []
    for key in dict.fromkeys([*before, *after]):
        was, now = before.get(key, missing), after.get(key, missing)
        if was != now:
            shown = ["(not set)" if v is missing else _say(v) for v in (was, now)]
            lines.append(f"{key}: {shown[0]} -> {shown[1]}")
    return lines
