"""What numbers from settings and callers are."""

from __future__ import annotations

from numbers import Integral, Real


def is_whole(value: object) -> bool:
    """Whether it is a whole number, numpy's too; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether it is a real number, numpy's too; True and False are none, NaN is one."""
    return isinstance(value, Real) and not isinstance(value, bool)
