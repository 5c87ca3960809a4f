"""Captions, the summary and the table for a paper say of how many images and seeds their figures are."""

from __future__ import annotations

from typing import Any

import pytest

from resomap.metrics.classification import metric_name
from resomap.study.reporting.captions import intervals, on, with_seeds
from resomap.study.reporting.interactive_plots import matrix_label
from resomap.study.reporting.latex import latex
from resomap.study.reporting.terminal_summary import summary
from resomap.study.reporting.verdict_tables import comparisons_table


def _figure(model: str, seeds: int, value: float = 0.9) -> dict[str, Any]:
    return {"model": model, "resolution": 64, "value": value, "low": value - 0.1, "high": 1.0, "images": 300,
            "seeds": seeds}  # fmt: skip


def _verdict(compared: int, **seeds: int) -> dict[str, Any]:
    means = [_figure(model, count) for model, count in seeds.items()]
    options = [{"model": model, "resolution": 64, "latency_ms": 1.0} for model in seeds]
    answer = {"sentence": "Ship it.", "report_split": "test", "options": options, "warnings": [], "seeds": compared}
    return {"recommendation": answer, "metrics": means}


@pytest.mark.parametrize(
    ("seeds", "where", "over"),
    [
        ((1, 1), "on test (300 images, 1 seed)", "95 % intervals over images"),
        ((3, 3), "on test (300 images, 3 seeds)", "95 % intervals over images and seeds"),
        ((3, 5), "on test (300 images, 3 to 5 seeds)", "95 % intervals over images and seeds"),
        (
            (1, 2),
            "on test (300 images, 1 to 2 seeds)",
            "95 % intervals over images and, where there are several, seeds",
        ),
    ],
)
def test_intervals_are_over_seeds_only_where_there_are_several(seeds: tuple[int, ...], where: str, over: str) -> None:
    rows = [_figure("a", count) for count in seeds]
    assert on("test", rows) == where
    assert intervals(rows) == over


def test_the_table_for_a_paper_names_split_images_and_seeds() -> None:
    table = latex(_verdict(1, net=1), "my_photos", metric_name("macro_f1"))
    assert (
        r"\caption{Macro F1 of my\_photos on test (300 images, 1 seed) by input resolution, with 95\,\% intervals over "
        "images.}" in table
    )
    assert "net & 0.900 [0.800, 1.000]" in table
    assert r"big (3 seeds) & 0.900" in latex(_verdict(3, net=5, big=3), "photos", "macro F1")


def test_models_name_their_seeds_where_the_verdict_compares_others() -> None:
    """A model's own figure may be of more seeds than its figure in the verdict."""
    assert with_seeds(_verdict(3, net=3, big=3)["metrics"], 3) == {"net": "net", "big": "big"}
    assert with_seeds(_verdict(2, net=3, big=3)["metrics"], 2) == {"net": "net (3 seeds)", "big": "big (3 seeds)"}
    lines = summary(_verdict(3, net=5, big=3), "macro F1").splitlines()
    assert lines[2] == "macro F1 on test (300 images, 3 to 5 seeds), 95 % intervals over images and seeds; " + (
        "latency of one image"
    )
    assert lines[3] == "the verdict compares the 3 seeds that all its models have"
    assert [line.split("  ")[0] for line in lines[4:6]] == ["net (5 seeds)", "big (3 seeds)"]
    same = summary(_verdict(3, net=3, big=3), "macro F1")
    assert "the verdict compares" not in same
    assert "3 seeds)  " not in same


def test_a_matrix_names_its_metric_and_what_it_is_of() -> None:
    verdict = _verdict(3, net=5, big=3)
    assert matrix_label("matrix-net-bn_reestimated", verdict, "macro F1") == (
        "net, BatchNorm statistics estimated anew at the test size: mean macro F1 on test (300 images, 5 seeds), rows "
        "trained at, columns tested at"
    )
    assert matrix_label("matrix-big", verdict, "macro F1").startswith(
        "big: mean macro F1 on test (300 images, 3 seeds)"
    )


@pytest.mark.parametrize(
    ("seeds", "counts", "column", "about"),
    [
        (1, "13 / 12", "images only the larger / the smaller gets right", "the first is about new images, McNemar's"),
        (3, "12.7 / 11.7", "images only the larger / the smaller gets right, mean over seeds",
         "the first is about new images and a new seed, McNemar's"),
    ],
)  # fmt: skip
def test_discordant_images_are_whole_with_one_seed_and_means_with_several(
    seeds: int, counts: str, column: str, about: str
) -> None:
    """Over three seeds: 38 / 3 and 35 / 3."""
    high, low = (13.0, 12.0) if seeds == 1 else (38 / 3, 35 / 3)
    row = {"model": "net", "low_resolution": 32, "high_resolution": 64, "difference": _figure("net", seeds, 0.1),
           "p_holm": 0.5, "mcnemar": {"only_high": high, "only_low": low, "p": 0.5}, "mcnemar_p_holm": 0.5}  # fmt: skip
    table = comparisons_table(_verdict(seeds, net=seeds) | {"comparisons": [row]}, "macro F1")
    assert table.columns[3] == column
    assert table.rows[0][3]["text"] == counts
    assert f"macro F1 on test (300 images, {seeds} seed" in table.caption
    assert about in table.caption
