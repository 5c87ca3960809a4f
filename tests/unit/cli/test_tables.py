"""Tables on standard output."""

from __future__ import annotations

import pytest

from resomap.cli.live import PlainProgress
from resomap.cli.tables import print_table
from resomap.records import Cell


def test_a_table_in_a_file_keeps_each_row_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [f"cell {k} is of 30 characters".ljust(30, ".") for k in range(6)]
    print_table("wide", ["name", *"abcde"], [cells])
    lines = capsys.readouterr().out.splitlines()
    assert any(all(cell in line for cell in cells) for line in lines)


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
