"""What a study was made from and with: the table of the report."""

from __future__ import annotations

import shlex

from resomap.printable import precision_name, printable
from resomap.report.html import Table
from resomap.study.load import Study


def provenance_table(study: Study) -> Table:
    """What was run, and where."""
    about = study.about
    rows = [
        ["data", about["data"]],
        ["images", ", ".join(f"{split} {count}" for split, count in about["images"].items())],
        ["classes", len(about["class_names"])],
        ["runs", len(study.runs)],
    ]
    stored = dict(study.runs[0].provenance) | {"precision": _precision(study)}
    rows += [
        [k.replace("_", " "), printable(_words(v))] for k, v in stored.items() if k not in ("metric_options", "tuned")
    ]
    return Table("What was run, and where", ["", "value"], rows)


def _words(value: object) -> str:
    """A command as it is typed, versions as 'torch 2.9.1, numpy 2.3.4'."""
    if isinstance(value, list):
        return shlex.join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return str(value)


def _precision(study: Study) -> str:
    """The precision of training: tuned for each model, so named by model where they differ."""
    models: dict[str, list[str]] = {}
    for run in study.runs:
        name = str(run.provenance.get("precision", "not stored"))
        models.setdefault(precision_name(name), []).append(run.cell.model)
    if len(models) == 1:
        return next(iter(models))
    return "; ".join(f"{precision}: {', '.join(dict.fromkeys(names))}" for precision, names in models.items())
