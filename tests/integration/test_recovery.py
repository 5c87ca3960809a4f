"""Too little memory, and data-loading processes that die: what a study does about it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from resomap.data.loaders import _TrainImages
from resomap.layout import StudyLayout
from resomap.study.runs import stored_runs
from resomap.training.engine import Engine

Make = Callable[..., Path]
Args = Callable[..., list[str]]
Cli = Callable[..., object]


@pytest.fixture
def memory_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let training run out of memory with more than so many pixels at once."""
    forward = Engine.forward

    def limit(pixels: int) -> None:
        def limited(self: Engine, images_BCHW: torch.Tensor) -> torch.Tensor:
            if images_BCHW.shape[0] * images_BCHW.shape[2] ** 2 > pixels:
                raise torch.OutOfMemoryError("Allocation on device: out of memory. Tried to allocate 2.00 GiB")
            return forward(self, images_BCHW)

        monkeypatch.setattr(Engine, "forward", limited)

    return limit


def weights(study: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(study.rglob("best_model.safetensors"))]


def micro_batches(study: Path) -> dict[int, int]:
    """resolution -> micro-batch that its run record names."""
    records = list(stored_runs(StudyLayout(study)))
    return {r.cell.resolution: r.determinants["protocol"]["training"]["micro_batch"] for r in records}


@pytest.mark.slow
def test_out_of_memory_halves_the_micro_batch_of_all_resolutions_alike(
    tmp_path: Path,
    make_images: Make,
    small_run: Args,
    cli: Cli,
    memory_for: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At 48 px two images fit, at 32 px four: 32 px is trained with four at first, and made again with two."""
    data = make_images(tmp_path / "data")
    grid = ["--resolutions", "32,48"]
    assert cli(*small_run(data, *grid, "--set", "training.micro_batch=2", output="reference")).status == 0
    memory_for(2 * 48 * 48)
    outcome = cli(*small_run(data, *grid))
    assert outcome.status == 0, outcome.err
    assert "out of memory with 8 images at once; 4 from now on, for all resolutions of tiny_cnn" in caplog.text
    assert "out of memory with 4 images at once; 2 from now on" in caplog.text
    assert micro_batches(tmp_path / "study") == {32: 2, 48: 2}
    assert weights(tmp_path / "study") == weights(tmp_path / "reference")
    assert json.loads((tmp_path / "study" / "micro_batches" / "tiny_cnn.json").read_text())["micro_batch"] == 2
    again = cli(*small_run(data, *grid))  # nothing was changed by the user: nothing is refused or made again
    assert again.status == 0
    assert "2 runs, 2 finished before" in again.err


@pytest.mark.slow
def test_a_run_that_was_made_with_more_is_made_again_at_the_next_start(
    tmp_path: Path,
    make_images: Make,
    small_run: Args,
    cli: Cli,
    memory_for: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = make_images(tmp_path / "data")
    assert cli(*small_run(data)).status == 0
    memory_for(2 * 48 * 48)
    assert cli(*small_run(data, "--resolutions", "48")).status == 0
    outcome = cli(*small_run(data, "--resolutions", "32,48"))
    assert outcome.status == 0, outcome.err
    assert "tiny_cnn @32 seed 0 was made with more images at once" in caplog.text
    assert micro_batches(tmp_path / "study") == {32: 2, 48: 2}


@pytest.mark.slow
def test_where_not_one_image_fits_the_run_fails_with_its_need_and_the_others_keep_their_micro_batch(
    tmp_path: Path,
    make_images: Make,
    small_run: Args,
    cli: Cli,
    memory_for: Callable[[int], None],
) -> None:
    data = make_images(tmp_path / "data")
    memory_for(8 * 32 * 32 // 4)  # two at 32 px, none at 48 px
    outcome = cli(*small_run(data, "--resolutions", "32,48", "--batch-size", "2"))
    assert outcome.status == 1
    records = {r.cell.resolution: r for r in stored_runs(StudyLayout(tmp_path / "study"))}
    assert records[48].status == "failed"
    error = records[48].error or ""
    assert error.startswith("tiny_cnn @48 seed 0 does not fit: even one image at a time needs about ")
    assert 0 < float(error.split("about ")[1].split(" MiB")[0]) < 100
    assert records[32].status == "finished"
    assert micro_batches(tmp_path / "study")[32] == 2
    assert not (tmp_path / "study" / "micro_batches" / "tiny_cnn.json").exists()


@pytest.fixture
def killed_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the first `times` data-loading processes that are asked for a batch be killed."""
    load = _TrainImages.__getitems__

    def install(times: int) -> None:
        def deadly(self: _TrainImages, items: list[tuple[int, int]]) -> object:
            for i in range(times if torch.utils.data.get_worker_info() else 0):
                try:
                    os.close(os.open(tmp_path / f"killed{i}", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
            return load(self, items)

        monkeypatch.setattr(_TrainImages, "__getitems__", deadly)

    return install


@pytest.mark.slow
def test_a_killed_data_loading_process_is_named_and_the_run_goes_on_once(
    tmp_path: Path,
    make_images: Make,
    small_run: Args,
    cli: Cli,
    killed_workers: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = make_images(tmp_path / "data")
    assert cli(*small_run(data, output="reference")).status == 0
    killed_workers(1)
    outcome = cli(*small_run(data, "--set", "data.workers=1"))
    assert outcome.status == 0, outcome.err
    assert "data-loading process" in caplog.text
    assert "once more from the last saved state" in caplog.text
    assert weights(tmp_path / "study") == weights(tmp_path / "reference")  # nor do workers change anything


@pytest.mark.slow
def test_data_loading_processes_that_die_again_fail_the_run_with_advice(
    tmp_path: Path,
    make_images: Make,
    small_run: Args,
    cli: Cli,
    killed_workers: Callable[[int], None],
) -> None:
    data = make_images(tmp_path / "data")
    killed_workers(2)
    outcome = cli(*small_run(data, "--set", "data.workers=1"))
    assert outcome.status == 1
    (record,) = stored_runs(StudyLayout(tmp_path / "study"))
    assert record.status == "failed"
    assert "for the second time" in (record.error or "")
    assert "lower data.workers" in (record.error or "")
