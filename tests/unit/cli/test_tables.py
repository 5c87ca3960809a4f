"""Tables on standard output."""

from __future__ import annotations

import pytest

from resomap.cli.tables import print_table


def test_a_table_in_a_file_keeps_each_row_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [f"cell {k} is of 30 characters".ljust(30, ".") for k in range(6)]
    print_table("wide", ["name", *"abcde"], [cells])
    lines = capsys.readouterr().out.splitlines()
    assert any(all(cell in line for cell in cells) for line in lines)
