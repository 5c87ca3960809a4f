"""No dead settings: study/build or the command line reads every field, and nobody else reads any.

A field is read where an attribute chain that starts at a configuration ends at it: config.training.epochs, or
training.epochs after training = config.training. A configuration is a name annotated ResoMapConfig (or with a
section's class), what a function annotated to return one gave, or an object's attribute `config`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from pydantic import BaseModel

from resomap.config.schema import ResoMapConfig

SOURCE = Path(__file__).parents[2] / "src" / "resomap"
READERS = [*sorted((SOURCE / "study" / "build").glob("*.py")), *sorted((SOURCE / "cli").glob("*.py"))]
Places = frozenset[str]
"""Dotted places of the configuration that a name may stand for; '' is the whole."""


def walk_schema(
    model: type[BaseModel] = ResoMapConfig, place: str = ""
) -> Iterator[tuple[str, type[BaseModel] | None]]:
    """(dotted place, class of the section or None for a setting), the whole configuration first."""
    yield place, model
    for name, field in model.model_fields.items():
        below = f"{place}.{name}".lstrip(".")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from walk_schema(field.annotation, below)
        else:
            yield below, None


SCHEMA = dict(walk_schema())
SETTINGS = sorted(place for place, section in SCHEMA.items() if section is None)
CLASSES: dict[str, Places] = {
    section.__name__: frozenset(place for place, other in SCHEMA.items() if other is section)
    for section in SCHEMA.values()
    if section is not None
}


class _Reads(ast.NodeVisitor):
    """Collects the settings that a module reads; a name stands for what it was last given in its function."""

    def __init__(self, functions: Mapping[str, Places]) -> None:
        self.found: set[str] = set()
        self._functions = functions
        self._names: dict[str, Places] = {}

    def places(self, node: ast.expr | None) -> Places:
        """What the expression stands for; empty where it is no part of a configuration."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id, frozenset())
        if isinstance(node, ast.Attribute):
            if node.attr == "config":  # context.config: what an object holds under that name
                return CLASSES["ResoMapConfig"]
            below = {f"{place}.{node.attr}".lstrip(".") for place in self.places(node.value)}
            return frozenset(below & SCHEMA.keys())
        if isinstance(node, ast.Call):
            return self._functions.get(ast.unparse(node.func).rpartition(".")[2], frozenset())
        return frozenset()

    def bind(self, target: ast.expr, value: ast.expr | None) -> None:
        """Let the target's names stand for the value."""
        if isinstance(target, ast.Name):
            self._names[target.id] = self.places(value)
        elif isinstance(target, (ast.Tuple, ast.List)):
            values = value.elts if isinstance(value, (ast.Tuple, ast.List)) else [None] * len(target.elts)
            for inner, part in zip(target.elts, values, strict=False):
                self.bind(inner, part)

    def bind_each(self, target: ast.expr, iterable: ast.expr) -> None:
        """As bind(), for a loop: over a written-out list the names stand for all its parts together."""
        together: dict[str, Places] = {}
        for value in iterable.elts if isinstance(iterable, (ast.Tuple, ast.List)) else [None]:
            self.bind(target, value)
            for name in ast.walk(target):
                if isinstance(name, ast.Name):
                    together[name.id] = together.get(name.id, frozenset()) | self._names.get(name.id, frozenset())
        self._names.update(together)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outside = dict(self._names)
        for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
            self._names[argument.arg] = annotated(argument.annotation)
        self.generic_visit(node)
        self._names = outside

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.bind(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        if isinstance(node.target, ast.Name):
            self._names[node.target.id] = annotated(node.annotation)

    def visit_For(self, node: ast.For) -> None:
        self.bind_each(node.target, node.iter)
        self.generic_visit(node)

    def visit_comprehension_scope(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        outside = dict(self._names)
        for generator in node.generators:
            self.bind_each(generator.target, generator.iter)
        self.generic_visit(node)
        self._names = outside

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = visit_comprehension_scope

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute) and node.func.attr == "model_copy":
            self.found |= {f"{place}.model_copy".lstrip(".") for place in self.places(node.func.value)}
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load):
            self.found |= {place for place in self.places(node) if SCHEMA[place] is None}
        self.generic_visit(node)


def annotated(annotation: ast.expr | None) -> Places:
    """What an annotation makes of a name: ResoMapConfig the whole, DataConfig 'data' ..."""
    return CLASSES.get(ast.unparse(annotation).strip("'\""), frozenset()) if annotation else frozenset()


def giving_functions(sources: Iterable[str]) -> dict[str, Places]:
    """Functions of these modules that are annotated to return a configuration or a section."""
    return {
        node.name: places
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and (places := annotated(node.returns))
    }


def settings_read(sources: Iterable[str], functions: Mapping[str, Places] | None = None) -> set[str]:
    """Dotted settings that these modules read; a section that is copied with changes counts as 'section.model_copy'.

    Args:
        functions: what gives a configuration; None: those of these modules.
    """
    sources = list(sources)
    functions = giving_functions(sources) if functions is None else functions
    trees = [ast.parse(source) for source in sources]
    found: set[str] = set()
    for tree in trees:
        reads = _Reads({"load_config": CLASSES["ResoMapConfig"], **functions})
        reads.visit(tree)
        found |= reads.found
    return found


READ = settings_read(path.read_text("utf-8") for path in READERS)


@pytest.mark.parametrize("setting", SETTINGS)
def test_setting_is_read(setting: str) -> None:
    assert setting in READ, f"nothing in study/build or cli/ reads {setting}: use it or remove it"


def test_settings_are_read_in_build_and_cli_only() -> None:
    functions = giving_functions(path.read_text("utf-8") for path in SOURCE.rglob("*.py"))
    elsewhere = {
        str(path.relative_to(SOURCE)): found
        for path in sorted(SOURCE.rglob("*.py"))
        if path not in READERS and path.parent.name != "config"
        if (found := settings_read([path.read_text("utf-8")], functions))
    }
    assert elsewhere == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(config: ResoMapConfig): return config.training.epochs", {"training.epochs"}),
        ("def f(config: 'ResoMapConfig'): g(x=config.data.acuity.size)", {"data.acuity.size"}),
        ("def f(c: ResoMapConfig):\n t = c.training\n return t.epochs", {"training.epochs"}),
        ("def f(c: ResoMapConfig):\n t, s = c.training, c.system\n return t.epochs, s.device",
         {"training.epochs", "system.device"}),
        ("def f(a: AugmentationConfig): return a.hue", {"data.augmentation.hue"}),
        ("def f(c: ResoMapConfig): return [n.dropout for n in (c.models.simple_cnn, c.models.tiny_cnn)]",
         {"models.simple_cnn.dropout", "models.tiny_cnn.dropout"}),
        ("def f(c: ResoMapConfig): return {k: n.dropout for k, n in (('a', c.models.tiny_cnn),)}",
         {"models.tiny_cnn.dropout"}),
        ("def f(c: ResoMapConfig):\n for n in (c.models.simple_cnn,):\n  g(n.dropout)", {"models.simple_cnn.dropout"}),
        ("c = load_config()\nprint(c.sweep.seeds)", {"sweep.seeds"}),
        ("def f() -> ResoMapConfig: ...\ndef g():\n c = f()\n return c.sweep.seeds", {"sweep.seeds"}),
        ("def f(c: ResoMapConfig): return (lambda: c.sweep.seeds)", {"sweep.seeds"}),
        ("def f(c: ResoMapConfig): return f'{c.study.name}'", {"study.name"}),
        ("def f(context): return self.own.context.config.sweep.seeds", {"sweep.seeds"}),
        ("def f(context):\n c = context.config\n return c.sweep.seeds", {"sweep.seeds"}),
        ("def f(context): return context.config.system.model_copy(update={})", {"system.model_copy"}),
        ("def f(c: ResoMapConfig): return c.model_copy(update={})", {"model_copy"}),
        # What is no read of a setting:
        ("def f(config): return config.training.epochs", set()),  # anything may be called config
        ("def f(c: ResoMapConfig): return c.training", set()),  # a section is not its settings
        ("def f(c: ResoMapConfig):\n t = c.training\n t = other\n return t.epochs", set()),
        ("def f(c: ResoMapConfig):\n t = c.training\ndef g(t): return t.epochs", set()),
        ("def f(c: ResoMapConfig): return c.epochs, c.data.epochs", set()),  # not through its section
        ("def f(c: ResoMapConfig): c.training.epochs = 3", set()),
        ("def f(c: ResoMapConfig): return 'c.training.epochs'", set()),
        ("def f(c: ResoMapConfig): return flatten(c)", set()),
    ],
)  # fmt: skip
def test_settings_read_finds_reads_and_nothing_else(source: str, found: set[str]) -> None:
    assert settings_read([source]) == found
