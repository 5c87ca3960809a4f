"""Whether settings are those that a study's runs were made with, as far as answers under other conditions depend on
them; what the configuration leaves open is as each run has it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from resomap.config.load import differences
from resomap.config.schema import ResoMapConfig
from resomap.errors import StudyError
from resomap.layout import StudyLayout
from resomap.printable import printable
from resomap.records import RunRecord, TunedSettings
from resomap.study import build
from resomap.study.shared_micro_batch import limit_of, micro_batch_of
from resomap.training.ranks import Ranks


def check_settings(config: ResoMapConfig, layout: StudyLayout, runs: Iterable[RunRecord], *, trains: bool) -> None:
    """Nothing where the runs' answers under other conditions would be those of the runs' own settings.

    Args:
        trains: networks are repaired, so that images of an update, and at once, count as well.
    Raises:
        StudyError: a setting is another, which is named: its answers would stand beside the others.
        DeviceError: this machine cannot compute as the runs were.
    """
    for record in runs:
        changed = _changes(config, record, trains=trains)
        if changed:
            raise StudyError(
                f"{printable(layout.root)} holds runs made with other settings (stored -> asked for, first "
                f"{record.cell}): {'; '.join(changed)}. Answers of both would be mixed: undo the change"
            )


def _changes(config: ResoMapConfig, record: RunRecord, *, trains: bool) -> list[str]:
    own, training = config_of_run(config, record), record.determinants.get("protocol", {}).get("training", {})
    stored, now = {"system.mixed_precision": evaluation_precision(record)}, dict[str, Any]()
    now["system.mixed_precision"] = build.device_and_precision(own)[1]
    if trains:
        processes = record.provenance.get("processes")
        ranks = Ranks(world_size=processes if type(processes) is int else 1)
        stored |= {f"training.{name}": training.get(name) for name in ("batch_size", "micro_batch")}
        now["training.batch_size"] = build.training_length(config)[1]
        now["training.micro_batch"] = build.micro_batch(own, ranks)
    known = [name for name, value in stored.items() if value is not None]
    return differences({name: stored[name] for name in known}, {name: now[name] for name in known})


def config_of_run(config: ResoMapConfig, record: RunRecord) -> ResoMapConfig:
    """The configuration, with the run's precision of evaluation and images at once where these are left open."""
    micro, precision = micro_batch_of(record), evaluation_precision(record)
    if type(micro) is not int or micro < 1 or not isinstance(precision, str):
        return config  # its record does not say
    found = TunedSettings(precision=precision, micro_batch=micro, channels_last={}, effort=0)
    return build.with_micro_batch_limit(
        build.with_choice(config, found, record.cell.resolution), limit_of(record).images
    )


def evaluation_precision(record: RunRecord) -> Any:
    """That the run's own answers were computed in; None where its record does not say."""
    system = record.determinants.get("protocol", {}).get("system", {})
    return system.get("evaluation_precision", system.get("mixed_precision"))
