"""Tables on standard output."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from resomap.cli.live import PlainProgress
from resomap.cli.tables import print_table, results_text, table_text
from resomap.layout import StudyLayout
from resomap.records import Cell


def test_a_table_in_a_file_keeps_each_row_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [f"cell {k} is of 30 characters".ljust(30, ".") for k in range(6)]
    print_table("wide", ["name", *"abcde"], [cells])
    lines = capsys.readouterr().out.splitlines()
    assert any(all(cell in line for cell in cells) for line in lines)


def test_accuracy_that_is_the_studys_metric_has_one_column() -> None:
    row = {"status": "finished", "split": "test", "model": "m", "resolution": 32, "stopped": None, "accuracy": 0.75,
           "macro_f1": 0.5, "log_loss": 1.0, "train_seconds": 1.0, "train_images_per_s": 1.0}  # fmt: skip
    result = SimpleNamespace(frame=pd.DataFrame([row]), failed=(), elsewhere=(), layout=StudyLayout(Path("s")))
    for metric, shown in (("accuracy", ["accuracy"]), ("macro_f1", ["macro_f1", "accuracy"])):
        text = results_text(result, (), metric=metric)  # type: ignore[arg-type]
        printed = [line for line in text.splitlines() if line.strip() and "─" not in line]
        assert printed[1].split() == ["model", "side", "seeds", *shown, "log", "loss", "train", "s", "img/s"]
        assert printed[2].split() == ["m", "32", "1", *(f"{row[name]:.3f}" for name in shown), "1.000", "1.0", "1"]


@pytest.mark.parametrize(
    ("runs", "epochs", "said"), [(1, 1, ("1 run, ", "1 epoch\n")), (2, 3, ("2 runs, ", "3 epochs\n"))]
)
def test_one_of_a_thing_is_not_called_many(
    runs: int, epochs: int, said: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [Cell("tiny_cnn", 32, seed) for seed in range(runs)]
    progress = PlainProgress()
    progress.study_started(cells, finished=0)
    progress.run_started(cells[0], epochs=epochs, updates=1, resumed_update=0)
    told = capsys.readouterr().err
    assert all(words in told for words in said)


def test_what_is_kept_for_later_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    cells = ["a" * 30, "b" * 30]
    shown, kept = (table_text("wide", ["name", "value"], [cells], wide=wide) for wide in (False, True))
    assert "a" * 30 not in shown
    assert " ".join(cells) in " ".join(kept.split())
    assert "\x1b" not in kept
