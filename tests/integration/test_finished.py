"""Starting a study that is finished: nothing is loaded or done, unless something differs."""

import json
import os
import subprocess
import sys

import pytest

from resomap.lease import Leases

CHILD = """
import sys
from resomap.cli.main import main
try:
    main()
finally:
    print("loaded", *[m for m in ("torch", "torchvision", "timm", "mlflow", "pandas", "scipy") if m in sys.modules])
"""


@pytest.fixture
def arguments(tmp_path, small_run, make_images):
    return small_run(make_images(tmp_path / "data"), "--set", "explainability.enabled=true",
                     "--set", "explainability.images=4", "--set", "explainability.bootstrap_draws=200")  # fmt: skip


def test_second_start_says_the_same_without_torch(tmp_path, cli, arguments):
    first = cli(*arguments)
    assert first.status == 0
    done = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout == first.out + "loaded\n"
    assert "1 run, 1 finished before" in done.stderr
    notes = [line for line in first.err.splitlines() if line.startswith("note: ")]
    assert notes
    assert [line for line in done.stderr.splitlines() if line.startswith("note: ")] == notes


@pytest.fixture
def restarted(cli, arguments, monkeypatch):
    """Run again with more arguments; says whether everything was looked at."""
    from resomap.study import sweep

    assert cli(*arguments).status == 0
    looked = []
    whole = sweep.run_study

    def watched(*args, **kwargs):
        looked.append(True)
        return whole(*args, **kwargs)

    monkeypatch.setattr(sweep, "run_study", watched)

    def again(*extra):
        looked.clear()
        outcome = cli(*arguments, *extra)
        return outcome, bool(looked)

    return again


def test_a_changed_setting_image_or_result_is_seen(tmp_path, restarted):
    outcome, looked = restarted()
    assert (outcome.status, looked) == (0, False)

    # What the tables show is computed anew.
    outcome, looked = restarted("--set", "analysis.confidence=0.9")
    assert (outcome.status, looked) == (0, True)
    assert restarted("--set", "analysis.confidence=0.9")[1] is False

    # Another learning rate is refused as ever.
    outcome, looked = restarted("--set", "training.learning_rate=0.01")
    assert (outcome.status, looked) == (2, True)

    # A result that is gone is made again.
    restarted()
    predictions = next((tmp_path / "study" / "predictions").rglob("test-*.parquet"))
    figure = next((tmp_path / "study" / "report" / "figures").rglob("*.png"))
    figure.unlink()
    assert restarted()[1] is True
    assert figure.exists()
    stored = json.loads((tmp_path / "study" / "finished.json").read_text())
    assert str(predictions.relative_to(tmp_path / "study")) in stored["files"]

    # So is study.yaml, without which `resomap status` and `profile` know nothing.
    assert restarted()[1] is False
    (tmp_path / "study" / "study.yaml").unlink()
    assert restarted()[1] is True
    assert (tmp_path / "study" / "study.yaml").exists()

    # Another picture under the same name: other images.
    image = next((tmp_path / "data" / "train").rglob("*.png"))
    other = next((tmp_path / "data" / "val").rglob("*.png"))
    image.write_bytes(other.read_bytes())
    outcome, looked = restarted()
    assert (outcome.status, looked) == (2, True)
    assert "images" in outcome.error_lines[0]


def test_another_machine_or_a_damaged_note_is_looked_at(tmp_path, restarted, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0" if os.environ.get("CUDA_VISIBLE_DEVICES") != "0" else "1")
    assert restarted()[1] is True
    assert restarted()[1] is False
    for text in ("", "[]", '{"files": 3}', '{"key": "x"}'):
        (tmp_path / "study" / "finished.json").write_text(text)
        outcome, looked = restarted()
        assert (outcome.status, looked) == (0, True)


def test_a_study_with_a_failed_run_is_never_taken_as_finished(tmp_path, cli, arguments, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no")

    monkeypatch.setattr("resomap.study.failed_runs.run_cell", broken)
    assert cli(*arguments).status == 1
    assert not (tmp_path / "study" / "finished.json").exists()


def test_stages_that_another_process_was_left_with_are_not_taken_as_done(tmp_path, cli, arguments):
    alone = [*arguments, "--set", "study.wait_for_others=false"]
    with Leases(tmp_path / "study" / ".locks").hold("stages"):
        assert cli(*alone).status == 0
    assert not (tmp_path / "study" / "finished.json").exists()
    assert not list((tmp_path / "study").rglob("*.png"))
    # The other one has died meanwhile.
    assert cli(*alone).status == 0
    assert list((tmp_path / "study").rglob("*.png"))
    assert (tmp_path / "study" / "finished.json").exists()


def test_a_stop_while_a_finished_study_is_looked_at_says_so(cli, arguments, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("resomap.study.finished.finished_study", interrupted)
    stopped = cli(*arguments)
    assert stopped.status == 130
    assert "stopped; everything so far is saved" in stopped.err
