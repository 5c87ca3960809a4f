"""Whatever fails in whatever stage: one clear line, nothing half-written, and the same results once it is mended."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from resomap.layout import StudyLayout
from resomap.report.saving import save_figure
from resomap.study.load import load_study

Make = Callable[..., Path]
Args = Callable[..., list[str]]

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

EVERYTHING = [
    "--set", "system.profiling.enabled=true", "--set", "system.profiling.blocks=5", "--set",
    "system.profiling.max_batch=1", "--set", "system.profiling.warmup=1", "--set",
    "system.profiling.end_to_end_images=0", "--set", "explainability.enabled=true", "--set", "explainability.images=4",
    "--set", "explainability.bootstrap_draws=200", "--set", "explainability.sanity=false", "--set",
    "explainability.spectral=false", "--set", "explainability.gallery=0", "--set", "analysis.matrix=true",
    "--resolutions", "32,48",
]  # fmt: skip
"""Every stage of a study, as small as it can be."""

STAGES = {
    "decoding": "/pyramid/",
    "plan": "study.yaml",
    "summary": "/model_summaries/",
    "record": "/run.json",
    "training state": "/last.pt",
    "weights": "/epoch",
    "metadata": "/metadata.json",
    "evaluation": "/predictions/",
    "tables": "/results.csv",
    "profile": "/profiles/",
    "maps": "/explanations/",
    "comparison": "/analysis/explanations.json",
    "matrix": "/32/seed0/test-in48-info48",
    "verdict": "/analysis/verdict.json",
    "figures": "/report/figures/",
    "report": "/report/index.html",
}
"""Stage -> part of the names of the files that it writes."""


class Disk:
    """Writing files whose name holds `part` fails with `number`; the others can be written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.part, self.number, self.failures = "", 0, 0
        self._fsync, self._reserve = os.fsync, os.posix_fallocate
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "posix_fallocate", self.reserve)

    def fsync(self, descriptor: int) -> None:
        self._check(descriptor)
        self._fsync(descriptor)

    def reserve(self, descriptor: int, offset: int, length: int) -> None:
        self._check(descriptor)
        self._reserve(descriptor, offset, length)

    def _check(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        name = path.replace("/.", "/")  # a temporary file has its file's name, behind a dot
        if self.part and self.part in name:
            self.failures += 1
            raise OSError(self.number, os.strerror(self.number))


def one_figure(*arguments: object, layout: StudyLayout, **options: object) -> None:
    """Stands for draw_figures, whose drawing takes most of a small study's time: one figure, written as all are."""
    save_figure(Figure(figsize=(1, 1)), layout.figures_dir / "one")


def weights(study: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(study.rglob("best_model.safetensors"))]


def unfinished_files(folder: Path) -> Iterator[Path]:
    """What a write that failed must not leave."""
    yield from folder.rglob("*.tmp")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "no space left"), (errno.EROFS, "read-only")])
def test_a_failing_disk_in_each_stage_stops_with_one_line_and_goes_on_once_it_is_mended(
    number: int,
    words: str,
    tmp_path: Path,
    make_images: Make,
    small_run: Args,
    cli: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One study that meets the fault in its first stage, once that is mended in its second, and so on."""
    data = make_images(tmp_path / "data")
    monkeypatch.setattr("resomap.study.reporting.paper_figures.draw_figures", one_figure)
    disk, told = Disk(monkeypatch), {}
    for stage, part in STAGES.items():
        disk.part, disk.number, disk.failures = part, number, 0
        outcome = cli(*small_run(data, *EVERYTHING))
        assert disk.failures, f"{stage}: nothing was written"
        told[stage] = (outcome.status, outcome.error_lines)
        assert "Traceback" not in outcome.err, (stage, outcome.err)
        assert not list(unfinished_files(tmp_path / "study")), stage
        assert not list(unfinished_files(tmp_path / "cache")), stage
    assert {stage: status for stage, (status, _) in told.items()} == dict.fromkeys(STAGES, 2), told
    assert all(len(lines) == 1 and words in lines[0] for _, lines in told.values()), told
    disk.part = ""
    assert cli(*small_run(data, *EVERYTHING)).status == 0
    assert cli(*small_run(data, "--resolutions", "32,48", output="reference")).status == 0
    assert weights(tmp_path / "study") == weights(tmp_path / "reference")
    assert len(load_study(tmp_path / "study").runs) == 2
    assert (tmp_path / "study" / "report" / "index.html").stat().st_size > 1000


@pytest.mark.slow
def test_killed_or_stopped_in_each_stage_a_study_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """The short form of benchmarks/faults.py, which compares everything that is not a measured time."""
    stages = "pyramid,training,checkpoint write,evaluation,profile,explanation,matrix,report"
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "faults.py", "--kills", "8", "--stages", stages, "--signals", "KILL,TERM,INT",
         "--work", tmp_path],
        capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8/8 kills recovered" in done.stdout or "7/7 kills recovered" in done.stdout, done.stdout
