"""Imports run downward only (DESIGN.md, section 3), wherever they stand: at the top, in functions, for types."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "resomap"
LEVELS = (
    ("printable", "checks", "errors", "allocator", "records", "serialize", "lease", "layout", "config"),
    ("models", "data", "metrics"),
    ("evaluation", "explainability", "profiling"),
    ("report", "analysis", "training", "tracking"),
    ("study",),
    ("cli",),
)
"""Lowest first. Rooms of one level do not know each other; on the lowest, each knows those to its left."""
READ_CONFIG = {"config", "study", "cli"}
WITHOUT_TORCH = {
    "printable", "checks", "errors", "allocator", "records", "serialize", "lease", "layout", "config", "metrics",
    "report", "analysis",
}  # fmt: skip
TORCH = {"torch", "torchvision", "timm", "accelerate", "captum", "torchmetrics"}

LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
MODULES = sorted(SOURCE.rglob("*.py"))


def module_name(path: Path, source: Path = SOURCE) -> str:
    """'resomap.data.loaders' of src/resomap/data/loaders.py, 'resomap.data' of its __init__.py."""
    parts = ["resomap", *path.relative_to(source).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """'data' of 'resomap.data.loaders'; '' of the package itself."""
    return module.split(".")[1] if "." in module else ""


def imports(path: Path, source: Path = SOURCE, *, at_start_only: bool = False) -> Iterator[str]:
    """Dotted names that the module imports; `from a import b` gives 'a.b'."""
    tree = ast.parse(path.read_text("utf-8"))
    package = module_name(path, source).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in _run_at_start(tree) if at_start_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, node.module] if node.module else base
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def _run_at_start(tree: ast.Module) -> Iterator[ast.AST]:
    """What importing the module runs: no bodies of functions, nothing for type checkers."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            waiting.extend(ast.iter_child_nodes(node))


def is_allowed(module: str, imported: str) -> bool:
    """Whether `module` may import a name of resomap."""
    room, target = room_of(module), room_of(imported)
    if module == "resomap":
        return False  # the public names are loaded at first use
    if imported == "resomap.__version__" or room == target:
        return True
    if module == "resomap.__main__":
        return target == "cli"
    if room not in LEVEL or target not in LEVEL or (target == "config" and room not in READ_CONFIG):
        return False
    if LEVEL[room] == LEVEL[target] == 0:
        return LEVELS[0].index(target) < LEVELS[0].index(room)
    return LEVEL[target] < LEVEL[room]


def forbidden(source: Path) -> list[str]:
    """'module imports name' for everything that the levels forbid."""
    return [
        f"{module_name(path, source)} imports {imported}"
        for path in sorted(source.rglob("*.py"))
        for imported in imports(path, source)
        if imported.partition(".")[0] == "resomap" and not is_allowed(module_name(path, source), imported)
    ]


def test_imports_run_downward_only() -> None:
    assert forbidden(SOURCE) == []


def test_every_module_that_is_imported_is_there() -> None:
    """mypy lets a missing one pass, and an import in a function is found by whoever calls it."""
    known = {module_name(path) for path in MODULES} | {"resomap"}
    missing = {
        f"{module_name(path)} imports {imported}"
        for path in MODULES
        for imported in imports(path)
        if imported.partition(".")[0] == "resomap" and not {imported, imported.rpartition(".")[0]} & known
    }
    assert missing == set()


def test_every_module_lies_in_a_room_of_the_house() -> None:
    rooms = {room_of(module_name(path)) for path in MODULES}
    assert rooms - LEVEL.keys() == {"", "__main__"}


@pytest.mark.parametrize("path", [p for p in MODULES if room_of(module_name(p)) in WITHOUT_TORCH], ids=module_name)
def test_rooms_without_torch_do_not_import_it(path: Path) -> None:
    assert [name for name in imports(path) if name.partition(".")[0] in TORCH] == []


def test_importing_the_rooms_without_torch_does_not_load_it() -> None:
    modules = [module_name(path) for path in MODULES if room_of(module_name(path)) in WITHOUT_TORCH]
    code = f"import sys, {', '.join(modules)}; print(*sorted({TORCH} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_no_two_modules_wait_for_each_other() -> None:
    names = {module_name(path) for path in MODULES}
    graph = {
        module_name(path): {
            target
            for imported in imports(path, at_start_only=True)
            for target in (imported, imported.rpartition(".")[0])
            if target in names
        }
        - {module_name(path)}
        for path in MODULES
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError and names the cycle


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("data/a.py", "from resomap.training.loop import x", "resomap.data.a imports resomap.training.loop.x"),
        ("data/a.py", "from resomap.models import x", "resomap.data.a imports resomap.models.x"),
        ("data/a.py", "from resomap import study", "resomap.data.a imports resomap.study"),
        ("data/a.py", "from resomap import Trainer", "resomap.data.a imports resomap.Trainer"),
        ("data/a.py", "from ..models import x", "resomap.data.a imports resomap.models.x"),
        ("data/a.py", "def f():\n    import resomap.cli.main", "resomap.data.a imports resomap.cli.main"),
        ("data/a.py", "import importlib\nimportlib.import_module('resomap.study')",
         "resomap.data.a imports resomap.study"),
        ("training/a.py", "from resomap.config import x", "resomap.training.a imports resomap.config.x"),
        ("errors.py", "import resomap.records", "resomap.errors imports resomap.records"),
        ("__init__.py", "from resomap.errors import x", "resomap imports resomap.errors.x"),
        ("attic/a.py", "import resomap.errors", "resomap.attic.a imports resomap.errors"),
    ],
)  # fmt: skip
def test_forbidden_import_is_found(file: str, line: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(f"{line}\n")
    assert forbidden(tmp_path) == [fault]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("study/a.py", "from resomap.training.loop import x"),
        ("study/a.py", "from . import b"),
        ("cli/a.py", "from resomap import __version__"),
        ("data/a.py", "import numpy, resomap.errors"),
        ("config/a.py", "from resomap.serialize import x"),
        ("__main__.py", "from resomap.cli.main import main"),
    ],
)
def test_allowed_import_is_allowed(file: str, line: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(f"{line}\n")
    assert forbidden(tmp_path) == []
