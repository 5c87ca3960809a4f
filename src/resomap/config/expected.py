"""What the schema expects at each place, in words: error messages and configs/README.md say the same."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from resomap.config.schema import ResoMapConfig
from resomap.config.yaml_text import show

Where = tuple[str | int, ...]
"""Path of a setting: ('sweep', 'resolutions', 1)."""
Fragment = Mapping[str, Any]
"""Part of a JSON schema that describes one value."""

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


@cache
def _schema() -> dict[str, Any]:
    return ResoMapConfig.model_json_schema()


def fragment_at(where: Where) -> Fragment | None:
    """What stands in the schema at `where`; None where it knows no such place."""
    found: Fragment = _schema()
    for part in where:
        inner = next((inner for choice in choices(found) if (inner := _inside(choice, part)) is not None), None)
        if inner is None:
            return None
        found = inner
    return _resolved(found)


def choices(fragment: Fragment) -> list[Fragment]:
    """The kinds of value that a place takes: one, or several ('true or false, or text')."""
    return [_resolved(choice) for choice in fragment.get("anyOf", [fragment])]


def _resolved(fragment: Fragment) -> Fragment:
    reference = fragment.get("$ref")
    return fragment if reference is None else _schema()["$defs"][reference.rpartition("/")[2]]


def _inside(fragment: Fragment, part: str | int) -> Fragment | None:
    if isinstance(part, int):
        row = fragment.get("prefixItems")
        return (row[part] if 0 <= part < len(row) else None) if row else fragment.get("items")
    if part in fragment.get("properties", {}):
        return fragment["properties"][part]
    others = fragment.get("additionalProperties")
    return others if isinstance(others, dict) else None


def is_section(where: Where) -> bool:
    """Whether keys of the schema's own stand under `where`."""
    fragment = fragment_at(where)
    return fragment is not None and "properties" in fragment


def kinds(fragment: Fragment) -> set[str]:
    """JSON's names of the kinds of value: 'string', 'integer', 'number', 'boolean', 'array', 'object', 'null'."""
    return {choice["type"] for choice in choices(fragment)}


def in_words(fragment: Fragment, *, plural: bool = False) -> str:
    """'a whole number >= 16 and <= 4096', 'a list of 2 numbers > 0', 'true or false, or text', ..."""
    options = choices(fragment)
    words = [_one_kind(option, plural=plural) for option in options if option["type"] != "null"]
    text = ", or ".join(words)
    return f"{text}, or null" if len(words) < len(options) else text


def _one_kind(fragment: Fragment, *, plural: bool) -> str:
    kind = fragment["type"]
    if "enum" in fragment:
        return "one of " + ", ".join(map(str, fragment["enum"]))
    if kind == "array":
        return ("lists" if plural else "a list") + _row(fragment)
    if kind == "object":
        others = fragment.get("additionalProperties")
        return "'key: value' lines" + (f" (values: {in_words(others, plural=True)})" if others else "")
    one, many = {
        "boolean": ("true or false", "true or false"),
        "string": ("text", "texts"),
        "integer": ("a whole number", "whole numbers"),
        "number": ("a number", "numbers"),
    }[kind]
    return (many if plural else one) + _bounds(fragment)


def _row(fragment: Fragment) -> str:
    if "prefixItems" in fragment:
        return f" of {len(fragment['prefixItems'])} {in_words(fragment['prefixItems'][0], plural=True)}"
    least, most = fragment.get("minItems", 0), fragment.get("maxItems")
    count = f"{least} to {most} " if most is not None else f"{least} or more " if least else ""
    return f" of {count}{in_words(fragment['items'], plural=True)}"


def _bounds(fragment: Fragment) -> str:
    bounds = [f"{sign} {fragment[name]:.12g}" for name, sign in _BOUNDS.items() if name in fragment]
    return " " + " and ".join(bounds) if bounds else ""


def places(where: Where = ()) -> Iterator[tuple[Where, Fragment]]:
    """Every section below `where` and every setting, in the order of the schema."""
    for name, fragment in (fragment_at(where) or {}).get("properties", {}).items():
        yield (*where, name), fragment
        yield from places((*where, name))


def dotted(where: Where) -> str:
    """'sweep.resolutions[1]'"""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part[:60]}"
    return text.removeprefix(".")


def remedy(fragment: Fragment, value: object) -> str:
    """'; nearest: adamw', or how to write a number or null that was meant as text; '' where nothing suggests itself."""
    words = [str(word) for choice in choices(fragment) for word in choice.get("enum", ())]
    if isinstance(value, str):
        near = difflib.get_close_matches(value.lower(), words, n=1)
        return f"; nearest: {near[0]}" if near else ""
    text = show(value)
    takes_any_text = "string" in kinds(fragment) and not words and isinstance(value, (int, float))
    return f'; as text it is written "{text}"' if takes_any_text or text in words else ""
