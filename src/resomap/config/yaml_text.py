"""YAML without surprises: what is read is what was written, and what is written is read back.

The plain scalars of YAML 1.2, so 3e-4 is a number, and no, 1:30, 010 and 2024-01-31 are text (YAML 1.1 makes them
false, 90, 8 and a date). Refused: repeated keys, aliases (a few of them can stand for gigabytes), tags (they name
types), and deep nesting.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from resomap.printable import printable

LARGEST_BYTES = 2**20
_DEEPEST = 16
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_NULL = re.compile(r"~|null|Null|NULL|")
_TAG = "tag:yaml.org,2002:"


class YamlTextError(ValueError):
    """The text is not YAML as it is taken here; the message says where and why, on one line."""


class _Loader(yaml.SafeLoader):
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refusal("an alias (*name); write the value out", event)
        if getattr(event, "tag", None) is not None:
            raise _refusal("a tag (!name); leave it out", event)
        if self._depth >= _DEEPEST:
            raise _refusal("deeper nesting than any setting has", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refusal("a key that is not a name", key_node)
            if key_node.value in mapping:
                raise _refusal(f"{show(key_node.value)} a second time; keep one", key_node)
            mapping[_text(self, key_node)] = self.construct_object(value_node, deep=True)
        return mapping


def _refusal(what: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=f"found {what}", problem_mark=place.start_mark)


def _text(_: _Loader, node: yaml.ScalarNode) -> str:
    if not is_unicode(node.value):
        raise _refusal("half of a character (a lone surrogate)", node)
    return node.value


def _float(_: _Loader, node: yaml.ScalarNode) -> float:
    word = node.value.lower()
    return float(word.replace(".", "")) if word.endswith(("inf", "nan")) else float(word)


def _resolve(tag: str, pattern: re.Pattern[str], first: list[str]) -> None:
    _Loader.add_implicit_resolver(_TAG + tag, re.compile(rf"(?:{pattern.pattern})\Z"), first)


# Nothing of YAML 1.1's is inherited: it would bring back dates, octal numbers and tags.
_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {}
_resolve("null", _NULL, ["~", "n", "N", ""])
_resolve("bool", _BOOL, list("tTfF"))
_resolve("int", _INT, list("-+0123456789"))
_resolve("float", _FLOAT, list("-+.0123456789"))
for _tag, _construct in {
    "null": lambda loader, node: None,
    "bool": lambda loader, node: node.value.lower() == "true",
    "int": lambda loader, node: int(node.value),
    "float": _float,
    "str": _text,
    "seq": yaml.SafeLoader.construct_yaml_seq,
    "map": yaml.SafeLoader.construct_yaml_map,
}.items():
    _Loader.add_constructor(_TAG + _tag, _construct)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or 1.2 would take for something else than text; lists of scalars on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver(_TAG + "float", re.compile(rf"(?:{_FLOAT.pattern})\Z"), list("-+.0123456789"))


def _list_node(dumper: _Dumper, items: list[Any]) -> yaml.Node:
    nested = any(isinstance(item, (list, dict)) for item in items)
    return dumper.represent_sequence(f"{_TAG}seq", items, flow_style=not nested)


def _text_node(dumper: _Dumper, text: str) -> yaml.Node:
    plain = text.isascii() and text.isprintable()
    return dumper.represent_scalar(f"{_TAG}str", text, style=None if plain else '"')


_Dumper.add_representer(list, _list_node)
_Dumper.add_representer(str, _text_node)


def parse(text: str) -> Any:
    """The one document in `text`: dict with text keys, list, str, int, float, bool or None.

    Raises:
        YamlTextError: it is not YAML, or holds something that is refused (see the module).
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        raise YamlTextError(printable(_marked(error))) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlTextError(f"line {line}: the character U+{ord(text[error.position]):04X} is not allowed") from error
    except (ValueError, OverflowError) as error:  # the latter: a "\U" of very many digits
        raise YamlTextError("a number has too many digits") from error


def _marked(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    problem = error.problem or error.context or "not YAML"
    if "'\\t'" in problem:
        problem = "found a tab; indent with spaces"
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def to_yaml(value: object) -> str:
    """`value` (dicts, lists, scalars) as YAML that parse() takes back to an equal value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def show(value: object, *, width: int = 60) -> str:
    """A value as a user would write it, text in quotes, on one line of at most `width` characters."""
    if isinstance(value, str):
        text = f'"{value}"'
    else:
        text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=10**6)
        text = text.removesuffix("\n").removesuffix("\n...")
    return text if len(text) <= width else f"{text[: width - 3]}..."


def is_unicode(text: str) -> bool:
    """Whether every character of `text` is one (no lone surrogates, as in file names that are not UTF-8)."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
