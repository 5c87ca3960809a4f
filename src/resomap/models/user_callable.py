"""Networks of the user's own: `package.module:callable`, imported, called, and what it is written in."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch import nn

from resomap.errors import ResoMapError, UnknownModelError
from resomap.printable import printable


def call_user_callable(target: str, *, num_classes: int) -> nn.Module:
    """Call the user's `package.module:callable` with num_classes=."""
    factory = _import(target)
    try:
        inspect.signature(factory).bind(num_classes=num_classes)
    except (TypeError, ValueError) as error:
        raise UnknownModelError(f"{target} cannot be called with num_classes=...: {printable(error)}") from error
    try:
        model = factory(num_classes=num_classes)
    except ResoMapError:
        raise
    except Exception as error:
        raise users_error(target, "when it was called with num_classes=", error) from error
    if not isinstance(model, nn.Module):
        raise UnknownModelError(f"{target} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def users_error(target: str, when: str, error: BaseException) -> UnknownModelError:
    """The one line that is said of an error in code of the user's."""
    return UnknownModelError(
        f"{target} raised {type(error).__name__} {when}: {printable(error) or 'no message'}; mend that code, or "
        "leave the model out"
    )


def source_of(name: str) -> str | None:
    """Text of the file that a `package.module:callable` is written in; None where there is none (a notebook)."""
    module = inspect.getmodule(_import(name))
    try:
        return None if module is None else inspect.getsource(module)
    except (OSError, TypeError):
        return None


@lru_cache(maxsize=64)
def code_of(name: str) -> str | None:
    """What that file's code does, as text without comments, docstrings and layout; the same for a whole process.

    None where there is no file, and for `__main__`, which is another file in each process of a study.
    """
    text = None if name.startswith("__main__:") else source_of(name)
    if text is None:
        return None
    tree = ast.parse(text)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _import(target: str) -> Callable[..., object]:
    module_name, _, attributes = target.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except (ImportError, SyntaxError, AttributeError) as error:
        raise UnknownModelError(
            f"cannot import {target}: {printable(error)}; check the name, and put its folder on PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:
        raise users_error(target, "when it was imported", error) from error
    if not callable(found):
        raise UnknownModelError(f"{target} is {type(found).__name__}, which cannot be called")
    return found
