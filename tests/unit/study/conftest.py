"""A study's context without images: for what is decided before and between runs."""

from __future__ import annotations

import pytest

from resomap.config.schema import ResoMapConfig
from resomap.layout import StudyLayout
from resomap.lease import Leases
from resomap.records import ImageDataset, RunRecord
from resomap.study import build
from resomap.study.budget_reference import stored_reference
from resomap.study.context import StudyContext
from resomap.study.progress import StudyProgress
from resomap.study.ranks import Ranks
from resomap.study.runs import write_run


@pytest.fixture
def make_context(tmp_path):
    """make_context(training={"epochs": 2}, ...): of tiny_cnn at 32 and 64, one seed."""

    def make(*, tuned=None, precision="no", progress=None, stores=None, **sections):
        sections = {"sweep": {"models": ["tiny_cnn"], "resolutions": [32, 64], "seeds": [0]}} | sections
        sections.setdefault("data", {})["cache_dir"] = str(tmp_path / "cache")
        sections.setdefault("system", {}).setdefault("device", "cpu")
        config, layout = ResoMapConfig.model_validate(sections), StudyLayout(tmp_path / "study")
        reference = stored_reference(layout) or build.budget_reference(config)
        reference = reference if build.is_compute_matched(config) else None
        images = ImageDataset("data", tmp_path, ("a", "b"), {})
        return StudyContext(
            config=config, name="study", layout=layout, images=images, stores=stores or {}, fingerprint="f",
            cells=tuple(build.cells(config)), device_type="cpu", precision=precision, ranks=Ranks(),
            budget_reference=reference, leases=Leases(layout.locks_dir),
            progress=progress or StudyProgress(), tuned=tuned or {},
        )  # fmt: skip

    return make


@pytest.fixture
def store_run():
    """store_run(context, cell, status=...): as if the context had run the cell."""

    def store(context, cell, *, status="finished", **fields):
        fields.setdefault("provenance", {"tuned": context.tuned.get(cell.model)})
        record = RunRecord(cell, "cnn", context.key(cell), context.determinants(cell), status, **fields)
        write_run(context.layout.run_record_path(cell, "cnn"), record)
        return record

    return store
