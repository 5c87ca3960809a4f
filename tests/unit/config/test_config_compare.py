"""dump_config, flatten, differences."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from resomap.config import ResoMapConfig, differences, dump_config, flatten, load_config

texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1) | st.sampled_from(["3e-4", "no", "1:30", "null"])


@st.composite
def configurations(draw: st.DrawFn) -> ResoMapConfig:
    """Configurations with values that are hard to write down."""
    rates = st.floats(1e-300, 1e300)
    return ResoMapConfig.model_validate(
        {
            "study": {"name": draw(st.none() | texts), "output": draw(texts)},
            "sweep": {"models": draw(st.lists(texts, min_size=1, unique_by=str.lower)), "seeds": [3, 1]},
            "training": {"learning_rate": draw(rates), "clip_grad_norm": draw(st.none() | rates)},
            "data": {"mean": draw(st.none() | st.tuples(rates, rates, rates)), "source": draw(texts)},
            "models": {
                "pretrained": draw(st.booleans() | texts),
                "families": draw(st.dictionaries(texts, st.lists(texts), max_size=3)),
            },
        }
    )


@settings(deadline=None)
@given(configurations())
def test_dump_config_loads_back_to_an_equal_configuration(
    tmp_path_factory: pytest.TempPathFactory, config: ResoMapConfig
) -> None:
    path = tmp_path_factory.mktemp("dump") / "dumped.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    again = load_config(path)
    assert again == config
    assert differences(flatten(config), flatten(again)) == []


def test_dump_config_is_plain_yaml_in_the_order_of_the_schema() -> None:
    dumped = yaml.safe_load(dump_config(ResoMapConfig()))
    assert dumped == ResoMapConfig().model_dump(mode="json")
    assert list(dumped) == list(ResoMapConfig.model_fields)


def test_defaults_and_loaded_defaults_are_written_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not only equal: 24 and 24.0 would give two hashes of the same settings.
    monkeypatch.chdir(tmp_path)
    assert dump_config(load_config()) == dump_config(ResoMapConfig())


def test_flatten_gives_dotted_keys() -> None:
    nested = {"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": (1, 2), "g": {}}
    assert flatten(nested) == {"a.b.c": 1, "a.d": [1, {"e": 2}], "f": [1, 2], "g": {}}


def test_flatten_of_a_configuration_reaches_every_setting() -> None:
    flat = flatten(load_config(overrides=["data.augmentation.hue=0.25"]))
    assert flat["data.augmentation.hue"] == 0.25
    assert flat["sweep.models"] == ResoMapConfig().sweep.models


def test_differences_names_what_changed() -> None:
    old = {"training": {"learning_rate": 0.001, "epochs": 3, "gone": 1}, "name": "a"}
    new = {"training": {"learning_rate": 0.003, "epochs": 3}, "name": "b", "more": [1, 2]}
    assert differences(old, new) == [
        "training.learning_rate: 0.001 -> 0.003",
        "training.gone: 1 -> (not set)",
        'name: "a" -> "b"',
        "more: (not set) -> [1, 2]",
    ]


def test_differences_takes_flat_and_nested_and_lists_and_tuples_as_equal() -> None:
    assert differences({"a": {"b": (1, 2)}}, {"a.b": [1, 2]}) == []


def test_differences_in_a_long_list_are_still_to_be_seen() -> None:
    old, new = list(range(100)), [*range(99), 7]
    (line,) = differences({"a": old}, {"a": new})
    assert line.endswith("97, 98, 7]")
