"""Keys that the schema does not know, and the right one that is nearest."""

from __future__ import annotations

import difflib

from resomap.config.expected import Where, dotted, fragment_at, in_words, is_section, places
from resomap.config.schema import FILES


def unknown(where: Where) -> str:
    """Why nothing is known at `where`, and what comes nearest."""
    known = next(where[:length] for length in range(len(where) - 1, -1, -1) if fragment_at(where[:length]) is not None)
    where = where[: len(known) + 1]
    if not is_section(known):
        return f"{dotted(where)}: {dotted(known)} is one setting; give it {in_words(fragment_at(known) or {})}"
    if len(where) == 2 and where[0] == where[1]:
        return f"{dotted(where)}: unknown key; in {FILES[str(where[0])]} keys stand at the top, without '{where[0]}:'"
    kind = "key" if known else "section"
    return f"{dotted(where)}: unknown {kind}; {_hint(known, str(where[-1]))}"


def _hint(section: Where, name: str) -> str:
    """The nearest name: the same elsewhere, else a similar one here, else a similar one elsewhere."""
    name = name.lower().replace("-", "_").strip()
    here = [str(where[-1]) for where, _ in places(section) if len(where) == len(section) + 1]
    elsewhere = {dotted(where): str(where[-1]) for where, _ in places()}
    same = [key for key, last in elsewhere.items() if last == name]
    near = difflib.get_close_matches(name, here, n=1, cutoff=0.6)
    if name not in here and same:
        return f"nearest: {same[0]}"
    if near:
        return f"nearest: {near[0]}"
    far = difflib.get_close_matches(name, elsewhere.values(), n=1, cutoff=0.8)
    if far:
        return f"nearest: {next(key for key, last in elsewhere.items() if last == far[0])}"
    return f"known: {', '.join(here)}"
