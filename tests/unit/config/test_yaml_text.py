"""YAML as it is read and written: nothing is converted that was not meant to be."""

from __future__ import annotations

import math
import string
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from resomap.config.yaml_text import YamlTextError, parse, show, to_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),  # text in YAML 1.1
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("+2.5e+3", 2500.0),
        ("12", 12),
        ("-3", -3),
        ("0", 0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),  # false in YAML 1.1
        ("on", "on"),  # true
        ("1:30", "1:30"),  # 90
        ("010", "010"),  # 8
        ("0x10", "0x10"),  # 16
        ("1_000", "1_000"),  # 1000
        ("2024-01-31", "2024-01-31"),  # a date
        ("3e", "3e"),
        ("v1.2", "v1.2"),
        ("=", "="),
        ('"12"', "12"),
    ],
)
def test_parse_scalars_as_yaml_1_2_has_them(text: str, value: object) -> None:
    result = parse(text)
    assert result == value
    assert type(result) is type(value)


def test_parse_infinite_and_not_a_number() -> None:
    assert parse("[.inf, -.inf, 1e999]") == [math.inf, -math.inf, math.inf]
    assert math.isnan(parse(".nan"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", 'line 3, column 1: found "a" a second time'),
        ("a: {b: 1, b: 2}", 'line 1, column 11: found "b" a second time'),
        ("a: &x [1]\nb: *x", r"line 2, column 4: found an alias \(\*name\)"),
        ("<<: *x", "found an alias"),
        ("a: !!python/object/apply:os.system [id]", "line 1, column 4: found a tag"),
        ("a: !!bool maybe", "found a tag"),
        ("a:\n\tb: 1", "line 2, column 1: found a tab; indent with spaces"),
        ("{[1]: 2}", "a key that is not a name"),
        ("a: [1, 2", "line 1, column 9: "),
        ("a: 1\n--- \nb: 2", "line 2, column 1: but found another document"),
        ("x\0", r"line 1: the character U\+0000 is not allowed"),
        ("a: 1\nb: \x1b[31m", r"line 2: the character U\+001B is not allowed"),
        ('a: "\\ud800"', "line 1, column 4: found half of a character"),
        ("[" * 100_000, "column 17: found deeper nesting"),
        ("{a: " * 20, "found deeper nesting"),
        ("9" * 5000, "too many digits"),
    ],
)
def test_parse_refuses_with_the_place(text: str, message: str) -> None:
    with pytest.raises(YamlTextError, match=message):
        parse(text)


def test_parse_alias_bomb_takes_no_time() -> None:
    # Nine levels of nine aliases each: 9^9 values if it were expanded.
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    started = time.monotonic()
    with pytest.raises(YamlTextError, match="alias"):
        parse("\n".join(["a0: &a0 [x]", *levels]))
    assert time.monotonic() - started < 1


def test_parse_keys_are_text() -> None:
    assert parse("{1: a, no: b, null: c}") == {"1": "a", "no": "b", "null": "c"}


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)))
    | st.text("0123456789.eE+-_:x ~#'\"")
    | st.sampled_from(
        ["no", "on", "null", "true", "3e-4", "1:30", "2024-01-01", "<<", "=", "*a", "&b", "!t", "%x", "@"]
    )
)
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(string.printable, max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def is_same(a: object, b: object) -> bool:
    """Equal, and of the same types all the way down."""
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(is_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(is_same, a, b))
    return type(a) is type(b) and a == b


@settings(deadline=None)
@given(documents)
def test_to_yaml_is_read_back_to_the_same_value(value: object) -> None:
    assert is_same(parse(to_yaml(value)), value)


@settings(deadline=None)
@given(documents)
def test_to_yaml_is_read_by_other_readers_too(value: object) -> None:
    # PyYAML's own loader is YAML 1.1: what it takes for text must be quoted as well.
    assert is_same(yaml.safe_load(to_yaml(value)), value)


def test_to_yaml_writes_lists_on_one_line_and_no_aliases() -> None:
    shared = [1, 2]
    assert to_yaml({"a": shared, "b": shared}) == "a: [1, 2]\nb: [1, 2]\n"


@settings(deadline=None)
@given(st.text())
def test_parse_gives_a_value_or_one_line(text: str) -> None:
    try:
        parse(text)
    except YamlTextError as error:
        lines = str(error).splitlines()
    else:
        lines = [""]
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("big", '"big"'),
        (3, "3"),
        (True, "true"),
        (None, "null"),
        (0.1, "0.1"),
        ([1, "a"], "[1, a]"),
        ({"a": 1}, "{a: 1}"),
    ],
)
def test_show_writes_values_as_users_do(value: object, text: str) -> None:
    assert show(value) == text


def test_show_is_short() -> None:
    assert show("x" * 100, width=20) == '"' + "x" * 16 + "..."
    assert len(show(list(range(10_000)))) == 60
