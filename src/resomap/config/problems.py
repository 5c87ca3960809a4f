"""The configuration while it is put together: values, where each came from, and all that is wrong with them."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from resomap.config.expected import Where, dotted, fragment_at, in_words, is_section, kinds, places, remedy
from resomap.config.schema import FILES, ResoMapConfig
from resomap.config.unknown_keys import unknown
from resomap.config.yaml_text import is_unicode, show
from resomap.errors import ConfigError
from resomap.printable import printable, without_secrets

_MOST_PROBLEMS = 50


class Draft:
    """Starts as the defaults; layers are put over it, later ones win; finish() validates the whole."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = ResoMapConfig().model_dump(mode="json")
        self._sources: dict[Where, str] = {}
        self._problems: dict[str, None] = {}
        self._more = 0
        self._named: set[Where] = set()

    def problem(self, source: str, text: str) -> None:
        """Note one line about `source` (a file, or '--set')."""
        self._problems[without_secrets(f"{printable(source)}: {printable(text)}")] = None

    def merge(self, content: object, source: str, where: Where = ()) -> None:
        """Put a mapping over the section at `where`, key by key; None (an empty file or section) changes nothing."""
        if content is None:
            return
        if not isinstance(content, Mapping):
            place = f"{dotted(where)}: " if where else ""
            self.problem(source, f"{place}expected 'key: value' lines, got {show(content)}")
            return
        for key, value in content.items():
            self.set((*where, str(key)), value, source)

    def set(self, where: Where, value: object, source: str) -> None:
        """Put `value` at `where`: over a section key by key, otherwise as it is."""
        if is_section(where):
            self.merge(value, source, where)
        elif fragment_at(where) is None:
            if len(self._problems) < _MOST_PROBLEMS:
                self.problem(source, unknown(where))
            else:  # looking for the nearest names takes time
                self._more += 1
        else:
            self._put(where, value, source)

    def withdraw(self, where: Where, default: object) -> str | None:
        """Put `default` back at `where`; the file that had set something else, if one had."""
        if where not in self._sources or self._value(where) is default:
            return None
        source = self._sources[where]
        self._put(where, default, FILES[str(where[0])])
        return source

    def _put(self, where: Where, value: object, source: str) -> None:
        container: Any = self._values
        for part in where[:-1]:
            container = container[part]
            if not isinstance(container, dict):
                return  # something else than a mapping was given there, which finish() names
        container[where[-1]] = _plain(value)
        self._sources[where] = source

    def finish(self) -> ResoMapConfig:
        """The validated configuration.

        Raises:
            ConfigError: everything that is wrong.
        """
        values = self._representable(self._values)
        self._check_choices()
        config = None
        try:
            # As JSON and strict: lists may become tuples and whole numbers floats, nothing else is converted.
            config = ResoMapConfig.model_validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                self._explain(item)
        self._check_floats()
        if self._problems or config is None:
            raise ConfigError(self._shown())
        return config

    def _shown(self) -> list[str]:
        lines = list(self._problems)
        more = len(lines[_MOST_PROBLEMS:]) + self._more
        return [*lines[:_MOST_PROBLEMS], f"... and {more} more"] if more else lines

    def _representable(self, value: Any, where: Where = ()) -> Any:
        """`value` with what JSON cannot say (NaN, lone surrogates, objects) named and replaced by null."""
        if isinstance(value, dict):
            return {key: self._representable(inner, (*where, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._representable(inner, (*where, i)) for i, inner in enumerate(value)]
        reason = _unrepresentable(value)
        if reason is None:
            return value
        self._named.add(where)
        self.problem(self._source(where), f"{dotted(where)}: {reason}")
        return None

    def _check_choices(self) -> None:
        """Choices among numbers are exact; pydantic would take 3.0 and even true for one of 1, 3, 5."""
        for where, fragment in places():
            if "enum" not in fragment:
                continue
            value = self._value(where)
            if not any(type(value) is type(choice) and value == choice for choice in fragment["enum"]):
                self._misfit(where)

    def _check_floats(self) -> None:
        """A whole number beyond 2^53 may have no float, and would become its neighbour without a word."""
        for where, fragment in places():
            value = self._value(where)
            if where in self._named or type(value) is not int or "number" not in kinds(fragment):
                continue
            if float(value) != value:
                text = f"{dotted(where)}: expected a number that a float holds exactly, got {show(value)}"
                self.problem(self._source(where), text)

    def _explain(self, item: Any) -> None:
        where = self._deepest_known(item["loc"])
        if item["type"] == "value_error":
            text = str(item["ctx"]["error"])
            self.problem(self._sources_of_clash(where, text), f"{dotted(where)}: {text}")
        else:
            self._misfit(where)

    def _misfit(self, where: Where) -> None:
        """Name the value at `where` (once) with what was expected instead."""
        if where in self._named:
            return
        self._named.add(where)
        fragment, value = fragment_at(where) or {}, self._value(where)
        text = f"{dotted(where)}: expected {in_words(fragment)}, got {show(value)}{remedy(fragment, value)}"
        self.problem(self._source(where), text)

    def _deepest_known(self, location: tuple[str | int, ...]) -> Where:
        """The part of pydantic's location that is a place and has a value (it appends the names of types)."""
        for length in range(len(location), 0, -1):
            where = location[:length]
            if fragment_at(where) is not None and self._value(where) is not _NOTHING:
                return where
        return ()

    def _value(self, where: Where) -> Any:
        value: Any = self._values
        for part in where:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return _NOTHING
        return value

    def _source(self, where: Where) -> str:
        """The file or flag that set the value, or the list that it stands in."""
        for length in range(len(where), 0, -1):
            if where[:length] in self._sources:
                return self._sources[where[:length]]
        return FILES[str(where[0])] if where else "configuration"

    def _sources_of_clash(self, where: Where, text: str) -> str:
        """Where the keys come from that `text` says do not fit together."""
        words = set(re.findall(r"\w+", text))
        below = {place: s for place, s in self._sources.items() if place[: len(where)] == where}
        named = [source for place, source in below.items() if place[len(where)] in words]
        return ", ".join(dict.fromkeys(named or below.values())) or self._source(where)


_NOTHING = object()


def _plain(value: object) -> Any:
    """`value` with tuples as lists, paths as text and text keys, in containers of its own."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _unrepresentable(value: object) -> str | None:
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        return None if is_unicode(value) else f"expected Unicode text, got {show(value)}; rename the file or folder"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"expected a finite number, got {show(value)}"
    if isinstance(value, int):
        return None if abs(value) < 2**63 else f"expected a number below 2^63, got {show(value)}"
    return f"expected text, a number, true or false, or a list, got {type(value).__name__}"
