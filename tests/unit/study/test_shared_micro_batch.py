"""How many images at once: what a run tries touches nothing else, what is known to fit holds for all."""

from __future__ import annotations

from pathlib import Path

import pytest

from resomap.config.load import load_config
from resomap.errors import ResoMapError, StudyError
from resomap.layout import StudyLayout
from resomap.lease import Leases
from resomap.records import Cell, ImageDataset
from resomap.study.context import StudyContext
from resomap.study.out_of_memory import Recovery, TrainingMemoryError
from resomap.study.progress import StudyProgress
from resomap.study.shared_micro_batch import Limit, lower_limit, shared_limit
from resomap.training.ranks import Ranks

CELL = Cell("tiny_cnn", 32, 0)


@pytest.fixture
def context(tmp_path: Path) -> StudyContext:
    layout = StudyLayout(tmp_path)
    return StudyContext(
        config=load_config(overrides=["training.batch_size=16"]),
        name="study",
        layout=layout,
        images=ImageDataset("images", tmp_path, ("a", "b"), {}),
        stores={},
        fingerprint="",
        cells=(CELL,),
        device_type="cpu",
        precision="no",
        ranks=Ranks(),
        leases=Leases(layout.locks_dir),
        progress=StudyProgress(),
    )


def lower(context: StudyContext, images: int) -> None:
    """As a run of another process does."""
    lower_limit(context.layout, context.leases, Cell("tiny_cnn", 48, 1), images)


def test_the_limit_is_never_raised_again(context: StudyContext) -> None:
    for images in (8, 4, 8):
        lower(context, images)
    assert shared_limit(context.layout, "tiny_cnn") == 4
    assert shared_limit(context.layout, "simple_cnn") is None


@pytest.mark.parametrize("text", ["", "null", "[8]", "{}", '{"micro_batch": true}', '{"micro_batch": -1}'])
def test_a_damaged_limit_is_named_with_what_to_do(context: StudyContext, text: str) -> None:
    lower(context, 8)
    context.layout.micro_batch_path("tiny_cnn").write_text(text)
    with pytest.raises(StudyError, match=r"tiny_cnn\.json is damaged \(.+\); run the study's `resomap run` again"):
        context.config_of(CELL)


def test_a_run_that_is_out_of_memory_tries_half_for_itself_alone(context: StudyContext) -> None:
    recovery = Recovery(context, CELL)
    assert recovery.begin().limit == Limit()
    for images in (8, 4, 2, 1):
        assert recovery.goes_on(TrainingMemoryError())
        own = recovery.begin()
        assert own.limit == Limit(images, is_proven=False)
        assert own.config_of(CELL).training.micro_batch == images
        assert own.determinants(CELL)["protocol"]["training"]["micro_batch"] == images
    assert context.config_of(CELL).training.micro_batch is None
    with pytest.raises(ResoMapError, match="tiny_cnn @32 seed 0 does not fit: even one image at a time needs"):
        recovery.goes_on(TrainingMemoryError())
    assert shared_limit(context.layout, "tiny_cnn") is None


def test_runs_that_are_out_of_memory_together_halve_what_each_has_used(context: StudyContext) -> None:
    """Four times 16 images are too many: 8 is tried four times, not 8, 4, 2 and 1."""
    recoveries = [Recovery(context, Cell("tiny_cnn", 32, seed)) for seed in range(4)]
    for recovery in recoveries:
        recovery.begin()
    tried = []
    for recovery in recoveries:
        assert recovery.goes_on(TrainingMemoryError())
        own = recovery.begin()
        tried.append(own.limit)
        lower(context, 8)
    assert tried == [Limit(8, is_proven=False), Limit(8), Limit(8), Limit(8)]


def test_a_limit_that_is_lowered_meanwhile_does_not_reach_a_run_that_has_begun(context: StudyContext) -> None:
    recovery = Recovery(context, CELL)
    own = recovery.begin()
    lower(context, 2)
    assert own.determinants(CELL)["protocol"]["training"]["micro_batch"] == 16
    assert recovery.goes_on(TrainingMemoryError())
    assert recovery.begin().limit == Limit(2)  # the others' two are known to fit: eight are not tried


def test_a_run_that_is_out_of_memory_never_tries_an_image_that_batchnorm_cannot_normalise(make_context) -> None:
    # At 32 px resnet18 ends in maps of 1 x 1. 13 images in batches of 10 leave 3, which pairs cut into 2 and 1.
    sweep = {"models": ["resnet18"], "resolutions": [32, 64], "seeds": [0]}
    context = make_context(sweep=sweep, training={"batch_size": 10}, stores={"train": range(13)})
    recovery = Recovery(context, Cell("resnet18", 64, 0))
    recovery.begin()
    assert recovery.goes_on(TrainingMemoryError())
    assert recovery.begin().limit.images == 5
    with pytest.raises(ResoMapError, match="resnet18 @64 seed 0 does not fit"):
        recovery.goes_on(TrainingMemoryError())
