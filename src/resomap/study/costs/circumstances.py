"""What a run's time depends on, as far as a plan knows it: a plan stands beside runs of its own circumstances only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resomap.serialize import plain

_OF_PROVENANCE = ("device", "processes", "runs_at_once", "cpu_count")


def circumstances(
    determinants: Mapping[str, Any], *, images: Mapping[str, int], provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings, images and machine of a run; the same for all seeds.

    Args:
        determinants: of study.context. What the images hold is left out: a plan does not read them.
        images: split -> images.
        provenance: of the run's record.
    """
    protocol = {name: value for name, value in determinants["protocol"].items() if name != "images"}
    own = {name: value for name, value in determinants["cell"].items() if name != "seed"}
    machine = {name: provenance.get(name) for name in _OF_PROVENANCE}
    found: dict[str, Any] = plain({**protocol, "run": own, "data.images": images, "machine": machine})
    return found
