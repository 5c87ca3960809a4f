"""What is profiled, how, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from resomap.profiling.complexity import Complexity
from resomap.profiling.end_to_end import EndToEnd
from resomap.profiling.latency import BATCH_1, SATURATED, LatencyRecord
from resomap.profiling.memory import MemoryRecord, OptimizerFactory

LARGEST_BATCH = 512
"""Of those that are tried for the throughput."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """How many rounds of blocks are timed."""

    least: int = 25
    """Rounds of each protocol; undisturbed ones where `precision` is given."""
    precision: float | None = None
    """Go on until the 95 % interval of every ratio between two resolutions of a model is narrower than this share of
    it; None: `least` rounds, however they agree."""
    budget_s: float | None = None
    """Seconds after which a mode is left as it is; None: no limit."""


@dataclass(frozen=True, slots=True)
class ProfileRecord:
    """Cost of one model at one resolution on one device."""

    model: str
    resolution: int
    device: str
    device_name: str
    threads: int
    keeps_freed_memory: bool
    """Whether the C library was told to (resomap.allocator): it changes latency on a CPU."""
    latency: tuple[LatencyRecord, ...]
    """One for each mode and protocol."""
    rounds: Rounds
    """As asked for."""
    complexity: Complexity
    """For one image."""
    inference_memory: MemoryRecord
    """One image; measured."""
    training_memory: MemoryRecord
    """One update of `training_memory.batch` images; measured."""
    predicted_inference_mib: float
    predicted_training_mib: float
    unavailable: dict[str, str] = field(default_factory=dict)
    """mode -> why it could not be measured."""
    end_to_end: EndToEnd | None = None
    """None: no files were timed."""

    def at(self, protocol: str, mode: str | None = None) -> LatencyRecord:
        """The latency under a protocol; None: the first mode."""
        for record in self.latency:
            if record.protocol == protocol and mode in (None, record.mode):
                return record
        raise KeyError(f"no latency for {protocol}, {mode}; there are {[(r.protocol, r.mode) for r in self.latency]}")


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """One model at one resolution, to be profiled."""

    model: str
    network: nn.Module
    resolution: int


@dataclass(frozen=True, slots=True)
class ProfilingPlan:
    """How subjects are profiled."""

    device: str = "cpu"
    modes: tuple[str, ...] = ("eager",)
    protocols: tuple[str, ...] = (BATCH_1, SATURATED)
    warmup: int = 5
    rounds: Rounds = field(default_factory=Rounds)
    max_batch: int = LARGEST_BATCH
    training_batch: int = 1
    """Images of the training step; 2 at least where a subject cannot be trained on one (maps of 1 x 1)."""
    precision: str = "no"
    """Of the training step whose memory is measured."""
    optimizer: OptimizerFactory | None = None
