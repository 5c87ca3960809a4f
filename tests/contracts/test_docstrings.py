"""Who reads a name of the public API, or of a module, is told what it is."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import resomap

SOURCE = Path(__file__).parents[2] / "src" / "resomap"
MODULES = sorted(SOURCE.rglob("*.py"))
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_module_and_its_public_functions_and_classes_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree) or not tree.body, "the module"
    assert [node.name for node in _public(tree.body) if not ast.get_docstring(node)] == []


def _public(body: list[ast.stmt]) -> Iterator[Documented]:
    return (node for node in body if isinstance(node, Documented) and not node.name.startswith("_"))


@pytest.mark.parametrize("name", [name for name in resomap.__all__ if not name.startswith("_")])
def test_public_methods_have_docstrings(name: str) -> None:
    exported = getattr(resomap, name)
    assert inspect.getdoc(exported)
    methods = vars(exported) if inspect.isclass(exported) else {}
    assert [
        key
        for key, value in methods.items()
        if inspect.isfunction(value) and key[0] != "_" and not inspect.getdoc(value)
    ] == []
