"""What is printed of names that may be many."""

from __future__ import annotations

from resomap.printable import listed


def test_the_first_names_are_listed_and_the_rest_counted() -> None:
    assert listed([]) == ""
    assert listed("abc") == "a, b, c"
    assert listed(iter("abcdef")) == "a, b, c, d, e and 1 more"
    assert listed(range(1206), most=2) == "0, 1 and 1,204 more"
    assert listed(["a: 1, 2", "b: 3", "c: 4"], most=2, separator="; ") == "a: 1, 2; b: 3; and 1 more"
    assert listed(["a\nb", "c"]) == "a\\nb, c"
