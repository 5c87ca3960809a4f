"""layout.py alone spells where outputs lie: a file renamed there is renamed everywhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "resomap"
ROOMS = ("cli", "study", "training", "tracking", "report", "analysis", "evaluation", "explainability", "profiling")
FILES = (
    *("study.yaml", "results.csv", "results.json", "tuning.json", "budget.json", "finished.json", "mlflow.db"),
    *("run.json", "last.pt", "metadata.json", "best_model.safetensors", "plan.json", "explanations.json"),
    *("verdict.json", "images.csv", "index.html", "table.tex", "summary.txt", "model.onnx", "preprocessing.json"),
)
FOLDERS = ("checkpoints", "predictions", "profiles", "explanations", "analysis", "report", "model_summaries", "figures")
_FILE = re.compile(
    rf"(\S*/)?({'|'.join(map(re.escape, FILES))}|[^\s/]*\.parquet)|/({'|'.join(map(re.escape, FILES))})\s.*", re.S
)


def spelled_paths(source: str) -> Iterator[str]:
    """Strings that are a path of an output, or end a path in an f-string; folders where they are joined to one."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _FILE.fullmatch(node.value):
            yield node.value
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            joined = node.right
            if isinstance(joined, ast.Constant) and joined.value in FOLDERS:
                yield joined.value


def test_output_paths_are_spelled_in_the_layout_alone() -> None:
    found = {
        str(path.relative_to(SOURCE)): spelled
        for room in ROOMS
        for path in sorted((SOURCE / room).rglob("*.py"))
        if (spelled := sorted(set(spelled_paths(path.read_text("utf-8")))))
    }
    assert found == {}


def test_the_layout_spells_them() -> None:
    assert {*spelled_paths((SOURCE / "layout.py").read_text("utf-8"))} >= {*FILES, *FOLDERS}


@pytest.mark.parametrize(
    ("source", "spelled"),
    [
        ('study / "study.yaml"', ["study.yaml"]),
        ('study / "report" / "index.html"', ["index.html", "report"]),
        ('f"{root}/study.yaml   # train"', ["/study.yaml   # train"]),
        ('folder / f"{name}.parquet"', [".parquet"]),
        ('folder.glob("*.parquet")', ["*.parquet"]),
        ('print("it has no study.yaml; give the folder")', []),  # words, not a path
        ('app.command("report")', []),
        ('print("report/index.html is written")', []),
    ],
)
def test_spelled_paths_finds_paths_and_no_words(source: str, spelled: list[str]) -> None:
    assert sorted(spelled_paths(source)) == sorted(spelled)
