"""Rules that every setting of the schema keeps."""

from __future__ import annotations

import pytest

from resomap.config.expected import dotted, fragment_at, in_words, is_section, places

SETTINGS = [where for where, _ in places() if not is_section(where)]
SECTIONS = [where for where, _ in places() if is_section(where)]


@pytest.mark.parametrize("where", SETTINGS, ids=dotted)
def test_setting_has_a_docstring_and_a_description_in_words(where: tuple[str, ...]) -> None:
    fragment = fragment_at(where)
    assert fragment is not None
    assert fragment["description"].rstrip().endswith((".", "..."))
    assert in_words(fragment)


@pytest.mark.parametrize("where", SECTIONS, ids=dotted)
def test_section_has_a_docstring_and_refuses_unknown_keys(where: tuple[str, ...]) -> None:
    fragment = fragment_at(where)
    assert fragment is not None
    assert fragment["description"]
    assert fragment["additionalProperties"] is False
