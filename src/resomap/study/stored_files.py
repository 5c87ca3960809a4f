"""What the stages of a study store as JSON, read back: what is relied on is looked at first.

A file of another version, or one that somebody has edited, may be JSON and hold something else. Each shape below names
what is relied on anywhere, and no more: other values may stand beside.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from resomap.layout import StudyLayout
from resomap.printable import printable
from resomap.serialize import read_record

Figure = float | None
"""NaN and infinity are stored as null."""


class _Shape(BaseModel):
    """Looked at, then let go: what is handed on is what the file holds."""

    model_config = ConfigDict(strict=True, protected_namespaces=())


class _Interval(_Shape):
    value: Figure
    low: Figure = None
    high: Figure = None


class _Latency(_Shape):
    protocol: str
    mode: str
    batch_size: int
    calls: int
    median_ms: float
    median_low_ms: float
    median_high_ms: float
    p95_ms: float
    p99_ms: float
    images_per_s: float
    block_medians_ms: list[float]
    at_least: bool = False


class _Rounds(_Shape):
    budget_s: Figure


class _Complexity(_Shape):
    macs: int
    parameters: int


class _Memory(_Shape):
    peak_mib: float


class _TrainingMemory(_Memory):
    batch: int
    method: str
    precision: str


class _EndToEnd(_Shape):
    images: int
    decode_ms: float
    resize_ms: float
    model_ms: float
    total_ms: float
    mode: str = "eager"


class Profile(_Shape):
    """profiles/{model}/{resolution}.json: profiling.records.ProfileRecord, of an earlier version too."""

    model: str
    resolution: int
    device: str | None = None
    device_name: str | None = None
    threads: int = 0
    latency: list[_Latency]
    rounds: _Rounds | None = None
    complexity: _Complexity
    inference_memory: _Memory
    training_memory: _TrainingMemory
    predicted_inference_mib: float
    predicted_training_mib: float
    unavailable: dict[str, str] = {}
    end_to_end: _EndToEnd | None


class _PlannedCell(_Shape):
    model: str
    resolution: int
    seconds_per_run: Figure
    circumstances: dict[str, Any] = {}


class Plan(_Shape):
    """analysis/plan.json: study.costs.forecast.StudyForecast."""

    cells: list[_PlannedCell]


class _Agreement(_Shape):
    model: str
    method: str
    subset: str
    similarity: str
    low_resolution: int
    high_resolution: int
    images: int
    seeds: int
    verdict: str
    cross: _Interval
    floor: _Interval
    ceiling: _Interval
    consistency: _Interval
    chance: Figure = None


class _Spread(_Shape):
    model: str
    method: str
    resolution: int
    entropy: _Interval
    gini: _Interval
    energy_in_mask: _Interval | None = None
    pointing_game: _Interval | None = None
    energy_in_other_masks: _Interval | None = None


class _Faithfulness(_Shape):
    model: str
    method: str
    resolution: int
    insertion_auc: _Interval
    deletion_auc: _Interval
    max_sensitivity: Figure
    receptive_field_px: Figure
    receptive_field_share: Figure
    random_weights_spearman: _Interval | None = None
    random_weights_energy_in_mask: _Interval | None = None
    energy_over_random_weights: _Interval | None = None


class _Octave(_Shape):
    model: str
    resolution: int
    low_cycles: float
    accuracy_drop: float


class Explanations(_Shape):
    """analysis/explanations.json: study.explaining.explanations."""

    images: int
    split: str
    similarity: str
    methods: list[str] = Field(min_length=1)
    has_masks: bool
    consistency: list[_Agreement]
    spread: list[_Spread]
    faithfulness: list[_Faithfulness]
    spectral: list[_Octave]

    @model_validator(mode="after")
    def _masks_are_measured(self) -> Explanations:
        if self.has_masks and any(None in (row.energy_in_mask, row.pointing_game) for row in self.spread):
            raise ValueError("spread: expected energy_in_mask and pointing_game in each row, since has_masks")
        return self


class _Recommendation(_Shape):
    sentence: str
    model: str | None
    resolution: int | None


class Verdict(_Shape):
    """analysis/verdict.json: study.verdict.verdict. The report makes it anew; only the answer is read back."""

    recommendation: _Recommendation


class _BadFile(_Shape):
    path: str


class About(_Shape):
    """results.json: what it says about the study as a whole."""

    name: str = ""
    data: str = ""
    class_names: list[str]
    images: dict[str, int]
    notes: list[str] = []
    bad_files: dict[str, list[_BadFile]] = {}
    information_resolution: int | None = None


class _Provenance(_Shape):
    cells: list[list[str | int]]


class StudyFile(_Shape):
    """study.yaml, besides the configuration."""

    provenance: _Provenance


class _Cell(_Shape):
    model: str
    resolution: int
    seed: int


class _Epoch(_Shape):
    epoch: int
    seconds: float
    images_per_s: float
    val: dict[str, Any]


class _Training(_Shape):
    micro_batch: int = 0
    budget_reference: int | None = None


class _Protocol(_Shape):
    training: _Training | None = None


class _Determinants(_Shape):
    protocol: _Protocol | None = None
    cell: dict[str, Any] = {}


class _Condition(_Shape):
    split: str


class Run(_Shape):
    """run.json: records.RunRecord."""

    cell: _Cell
    family: str
    key: str
    determinants: _Determinants
    status: Literal["running", "finished", "failed"]
    error: str | None
    epochs: list[_Epoch]
    best_epoch: int | None
    metrics: dict[str, _Condition]
    parameters: int | None
    seconds: Figure
    provenance: dict[str, Any]
    stopped: str | None = None


def checked(value: Any, shape: type[_Shape]) -> Any:
    """`value` itself, where it has the shape (numbers as numbers: "3" is none).

    Raises:
        ValueError: it has not; names the first place, what was expected there and what came.
    """
    try:
        shape.model_validate(value)
    except ValidationError as bad:
        raise ValueError(_in_words(bad)) from None
    return value


def _in_words(error: ValidationError) -> str:
    """'latency.0.median_ms: expected a valid number, got null'"""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    if first["type"] == "missing":
        return f"expected a value of {place}, got none"
    wanted = first["msg"].removeprefix("Input should be ")
    came = repr(first["input"])
    return f"{place or 'the whole'}: expected {wanted}, got {came if len(came) < 40 else f'{came[:40]}...'}"


def _checker(shape: type[_Shape]) -> Callable[[Any], dict[str, Any]]:
    def parse(value: Any) -> dict[str, Any]:
        return dict(checked(value, shape))

    return parse


def read_profiles(layout: StudyLayout) -> list[dict[str, Any]]:
    """Every profile, see Profile.

    Raises:
        StudyError: one is damaged.
    """
    again = f"`resomap profile --config {printable(layout.config_path)}`"
    return [_read(path, Profile, again) for path in layout.profiles_dir.glob("*/*.json")]


def read_profile(layout: StudyLayout, path: Path) -> dict[str, Any]:
    """One profile, see Profile.

    Raises:
        StudyError: missing or damaged.
    """
    return _read(path, Profile, f"`resomap profile --config {printable(layout.config_path)}`")


def read_plan(layout: StudyLayout) -> dict[str, Any] | None:
    """See Plan; None where nothing was planned.

    Raises:
        StudyError: it is damaged.
    """
    again = f"`resomap plan --config {printable(layout.config_path)}`"
    return _read(layout.plan_path, Plan, again) if layout.plan_path.exists() else None


def read_explanations(layout: StudyLayout) -> dict[str, Any] | None:
    """See Explanations; None where nothing was explained.

    Raises:
        StudyError: it is damaged.
    """
    path, again = layout.explanations_path, f"`resomap explain {printable(layout.root)}`"
    return _read(path, Explanations, again) if path.exists() else None


def read_answer(layout: StudyLayout) -> dict[str, Any] | None:
    """The recommendation of verdict.json: sentence, model and resolution; None where there is no verdict.

    Raises:
        StudyError: it is damaged.
    """
    path, again = layout.verdict_path, f"`resomap report {printable(layout.root)}`"
    return dict(_read(path, Verdict, again)["recommendation"]) if path.exists() else None


def read_about(layout: StudyLayout) -> dict[str, Any]:
    """See About.

    Raises:
        StudyError: results.json is missing or damaged.
    """
    again = f"the same `resomap run` again, or --config {printable(layout.config_path)}, writes it anew"
    return read_record(layout.results_json_path, _about_of, mend=again)


def _about_of(stored: Any) -> dict[str, Any]:
    told = stored.get("study") if isinstance(stored, dict) else None
    if not isinstance(told, dict):
        raise ValueError("it says nothing about the study as a whole")
    return dict(checked(told, About))


def _read(path: Path, shape: type[_Shape], command: str) -> dict[str, Any]:
    return read_record(path, _checker(shape), mend=f"delete it and run {command}")
