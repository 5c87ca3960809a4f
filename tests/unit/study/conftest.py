"""A study's context without images: for what is decided before and between runs."""

from __future__ import annotations

import pytest

from resomap.config.schema import ResoMapConfig
from resomap.layout import StudyLayout
from resomap.lease import Leases
from resomap.records import ImageDataset, RunRecord
from resomap.serialize import write_json
from resomap.study import build
from resomap.study.budget_reference import stored_reference
from resomap.study.context import StudyContext
from resomap.study.progress import StudyProgress
from resomap.study.runs import write_run
from resomap.training.ranks import Ranks


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


@pytest.fixture
def write_profile():
    """write_profile(layout, model, side, latency, **fields): as if it had been profiled."""
    timed = {"batch_size": 1, "calls": 100, "images_per_s": 1000.0}
    timed |= dict.fromkeys(("median_low_ms", "median_high_ms", "p95_ms", "p99_ms"), 1.0)

    def write(layout, model, side, latency, **fields):
        profile = {
            "model": model, "resolution": side, "device": "cpu", "device_name": "cpu", "threads": 1,
            "latency": [timed | one for one in latency], "rounds": {"budget_s": None},
            "complexity": {"macs": 10**6, "parameters": 10**6}, "inference_memory": {"peak_mib": 1.0},
            "training_memory": {"peak_mib": 1.0, "batch": 1, "method": "measured live tensor bytes", "precision": "no"},
            "predicted_inference_mib": 1.0, "predicted_training_mib": 1.0, "end_to_end": None,
        }  # fmt: skip
        write_json(layout.profile_path(model, side), profile | fields)

    return write
