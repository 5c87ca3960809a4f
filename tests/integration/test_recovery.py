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
from resomap.errors import StudyError
from resomap.layout import StudyLayout
from resomap.study import best_weights, out_of_memory
from resomap.study.load import load_study
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
    """At 48 px two images fit, at 32 px four: both are trained with two."""
    data = make_images(tmp_path / "data")
    grid = ["--resolutions", "32,48"]
    assert cli(*small_run(data, *grid, "--set", "training.micro_batch=2", output="reference")).status == 0
    memory_for(2 * 48 * 48)
    outcome = cli(*small_run(data, *grid))
    assert outcome.status == 0, outcome.err
    assert "out of memory with 8 images at once; once more with 4, at the same effective batch of 8" in caplog.text
    assert "out of memory with 4 images at once; once more with 2" in caplog.text
    assert "tiny_cnn @48 seed 0: 2 images at once fit" in caplog.text
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
    alone = cli(*small_run(data, "--resolutions", "48"))
    assert alone.status == 0
    study = load_study(tmp_path / "study")  # 32 px with eight images at once must not stand beside 48 px with two
    assert [r.cell.resolution for r in study.runs] == [48]
    assert set(study.results["resolution"]) == {48}
    (note,) = [note for note in study.about["notes"] if note.startswith("left out")]
    assert "tiny_cnn @32 seed 0" in note
    assert note in alone.err
    outcome = cli(*small_run(data, "--resolutions", "32,48"))
    assert outcome.status == 0, outcome.err
    assert "tiny_cnn @32 seed 0 was made with more images at once" in caplog.text
    assert micro_batches(tmp_path / "study") == {32: 2, 48: 2}
    assert set(load_study(tmp_path / "study").results["resolution"]) == {32, 48}


def limit_file(study: Path) -> Path:
    return StudyLayout(study).micro_batch_path("tiny_cnn")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [None, "{", "[]", '{"micro_batch": "2"}', '{"micro_batch": 0}'])
def test_a_limit_that_is_lost_or_damaged_is_made_anew_from_the_runs(
    damage: str | None,
    tmp_path: Path,
    make_images: Make,
    small_run: Args,
    cli: Cli,
    memory_for: Callable[[int], None],
) -> None:
    data = make_images(tmp_path / "data")
    memory_for(2 * 32 * 32)
    assert cli(*small_run(data)).status == 0
    if damage is None:
        limit_file(tmp_path / "study").unlink()
    else:
        limit_file(tmp_path / "study").write_text(damage)
        with pytest.raises(StudyError, match=r"is damaged \(.+\); run the study's `resomap run` again"):
            load_study(tmp_path / "study")
    before = weights(tmp_path / "study")
    outcome = cli(*small_run(data, "--seeds", "0,1"))
    assert outcome.status == 0, outcome.err
    assert "2 runs, 1 finished before" in outcome.err
    assert weights(tmp_path / "study")[:1] == before
    assert json.loads(limit_file(tmp_path / "study").read_text())["micro_batch"] == 2


@pytest.mark.slow
def test_what_is_only_tried_touches_no_other_run_also_where_the_process_is_killed(
    tmp_path: Path,
    make_images: Make,
    small_run: Args,
    cli: Cli,
    memory_for: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At 48 px nothing fits; the process ends while two images are tried, after one update was saved."""
    data = make_images(tmp_path / "data")
    assert cli(*small_run(data)).status == 0
    before = weights(tmp_path / "study")
    memory_for(2 * 48 * 48)
    step = Engine.step

    def deadly(self: Engine, **options: object) -> None:
        if made.append(1) or len(made) == 2:  # in its second update
            raise SystemExit(137)
        step(self, **options)

    made: list[int] = []
    monkeypatch.setattr(Engine, "step", deadly)
    command = small_run(data, "--resolutions", "48", "--set", "training.save_every_s=0")
    assert cli(*command).status == 137
    assert micro_batches(tmp_path / "study") == {32: 8, 48: 2}
    assert list((tmp_path / "study").rglob("last.pt"))
    assert not limit_file(tmp_path / "study").exists()
    monkeypatch.setattr(Engine, "step", step)
    memory_for(8 * 48 * 48)  # now all fit: the saved state, of two images at once, is not gone on with
    outcome = cli(*command)
    assert outcome.status == 0, outcome.err
    assert "going on after update" not in outcome.err
    assert micro_batches(tmp_path / "study") == {32: 8, 48: 8}
    assert weights(tmp_path / "study")[:1] == before


@pytest.mark.slow
def test_memory_that_runs_out_after_training_costs_neither_the_training_nor_the_micro_batch(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_images(tmp_path / "data")
    write = best_weights.write_predictions

    def full(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(best_weights, "write_predictions", full)
    assert cli(*small_run(data)).status == 1
    assert not limit_file(tmp_path / "study").exists()
    assert list((tmp_path / "study").rglob("last.pt"))
    monkeypatch.setattr(best_weights, "write_predictions", write)
    outcome = cli(*small_run(data))
    assert outcome.status == 0, outcome.err
    assert "going on after update 6/6" in outcome.err
    assert micro_batches(tmp_path / "study") == {32: 8}


@pytest.mark.slow
def test_a_need_that_cannot_be_predicted_costs_only_its_run(
    tmp_path: Path,
    make_images: Make,
    small_run: Args,
    cli: Cli,
    memory_for: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unpredictable(*arguments: object, **options: object) -> None:
        raise RuntimeError("no meta kernel")

    monkeypatch.setattr(out_of_memory, "predict_memory", unpredictable)
    memory_for(2 * 32 * 32)
    data = make_images(tmp_path / "data")
    outcome = cli(*small_run(data, "--resolutions", "48,32", "--batch-size", "1", "--set", "training.micro_batch=1"))
    assert outcome.status == 1
    records = {r.cell.resolution: r for r in stored_runs(StudyLayout(tmp_path / "study"))}
    assert records[32].status == "finished"
    assert (records[48].error or "").startswith("tiny_cnn @48 seed 0 does not fit: not even one image at a time")


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
    trained = (tmp_path / "study" / "checkpoints/cnn/tiny_cnn/32/seed0/run.json").read_bytes()
    again = cli(*small_run(data, "--resolutions", "32,48", "--batch-size", "2"))
    assert again.status == 1, again.err  # tried anew, not refused: nobody changed a setting
    assert (tmp_path / "study" / "checkpoints/cnn/tiny_cnn/32/seed0/run.json").read_bytes() == trained
    records = {r.cell.resolution: r for r in stored_runs(StudyLayout(tmp_path / "study"))}
    assert records[48].status == "failed"
    error = records[48].error or ""
    assert error.startswith("tiny_cnn @48 seed 0 does not fit: even one image at a time needs about ")
    assert 0 < float(error.split("about ")[1].split(" MiB")[0]) < 100
    assert records[32].status == "finished"
    assert micro_batches(tmp_path / "study") == {32: 2, 48: 2}  # what was tried in vain is no setting of the run
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
