"""What is printed: names from strangers made harmless, secrets left out, numbers in words."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SECRETS = "password|passwd|pwd|token|secret|api[_-]?key|access[_-]?key|credential|signature|authorization"


def printable(text: object) -> str:
    """`text` on one line: control characters (newline, escape, ...) shown as \\n, \\x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in str(text))


def counted(count: int, noun: str) -> str:
    """'1 run', '2 runs'."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def precision_name(precision: str) -> str:
    """'float32' of what settings call 'no'; 'bf16' and 'fp16' as they are."""
    return "float32" if precision == "no" else precision


def listed(names: Iterable[object], *, most: int = 5, separator: str = ", ") -> str:
    """'ants, bees'; 'a, b, c, d, e and 3 more'; with semicolons 'a: 1, 2; b: 3; and 1,200 more'."""
    every = list(names)
    shown = separator.join(printable(name) for name in every[:most])
    if len(every) <= most:
        return shown
    return f"{shown}{' ' if separator == ', ' else separator}and {len(every) - most:,} more"


def without_secrets(text: str) -> str:
    """`text` without the user and password of its URIs and without what is named a secret (`token=`, `Bearer `)."""
    # Bounded repetition: `text` may come from a server, and must not cost more than its length.
    text = re.sub(r"\b(\w{1,40}://)(?<!sqlite://)(?<!file://)\S*@", r"\1***@", text)
    text = re.sub(r"(?i)\b(bearer|basic) +[\w.+/=~-]{8,}", r"\1 ***", text)
    return re.sub(rf"(?i)((?:{_SECRETS})[\w.-]{{0,20}}[\"']?[=:] ?[\"']?)(?!basic |bearer )[^&\s\"']+", r"\1***", text)


def apart(value: float, limit: float | None, *, digits: int, sign: str = "-") -> str:
    """With so many digits, or up to six, as it takes not to read as a limit that it is not.

    Args:
        limit: None: there is none.
        sign: '+' shows that of positive numbers too.
    """
    shown = [f"{value:{sign}z.{n}f}" for n in range(digits, 7)]
    return next((text for text in shown if limit is None or value == limit or float(text) != limit), shown[0])


def share(value: float, *, digits: int = 3) -> str:
    """With three digits, or up to six, so as not to show as 0 or 1 what is not."""
    enough = (n for n in range(digits, 7) if round(value, n) not in (0, 1))
    return f"{value:.{digits if value in (0, 1) else next(enough, digits)}f}"
