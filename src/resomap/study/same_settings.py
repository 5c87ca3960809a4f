"""Whether settings are those that a study's runs were made with, as far as answers under other conditions depend on
them; what the configuration leaves open is as each run has it."""

from __future__ import annotations

from typing import Any

from resomap.config.schema import ResoMapConfig
from resomap.records import RunRecord, TunedSettings
from resomap.study import build
from resomap.study.shared_micro_batch import limit_of, micro_batch_of


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
