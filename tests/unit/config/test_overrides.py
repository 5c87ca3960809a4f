"""--set section.key=value, and the flags of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resomap.config import ResoMapConfig, dump_config, flatten, load_config
from resomap.errors import ConfigError

KEYS = sorted(flatten(ResoMapConfig()))


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def setting(key: str, text: str) -> Any:
    """What `key` becomes with --set key=text."""
    return flatten(load_config(overrides=[f"{key}={text}"]))[key]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("training.learning_rate", "3e-4", 3e-4),
        ("training.learning_rate", "1", 1.0),
        ("training.epochs", " 7 ", 7),
        ("training.micro_batch", "4", 4),
        ("training.micro_batch", "null", None),
        ("training.micro_batch", "", None),
        ("system.channels_last", "false", False),
        ("system.mixed_precision", "no", "no"),
        ("sweep.resolutions", "[64, 96]", [64, 96]),
        ("sweep.resolutions", "64,96", [64, 96]),
        ("sweep.resolutions", "64", [64]),
        ("sweep.models", "tiny_cnn, resnet18", ["tiny_cnn", "resnet18"]),
        ("sweep.models", "[tiny_cnn]", ["tiny_cnn"]),
        ("sweep.models", "package.module:Net", ["package.module:Net"]),
        ("data.mean", "0.5,.5,1", [0.5, 0.5, 1.0]),
        ("data.mean", "null", None),
        ("data.augmentation.scale", "0.2,1", [0.2, 1.0]),
        ("models.families.vit", "a,b", ["a", "b"]),
        ("study.name", "null", None),
    ],
)
def test_override_takes_numbers_lists_and_null(key: str, text: str, value: object) -> None:
    result = setting(key, text)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024", "2024"),  # a folder of that name
        ("{data}-x", "{data}-x"),
        ("[new] photos #2", "[new] photos #2"),
        ("~", "~"),
        ("C:\\photos: old", "C:\\photos: old"),
        ("a=b", "a=b"),
        ("@x", "@x"),
        ("*", "*"),
        ("'quoted '", "quoted "),
        ('"2024"', "2024"),
        ("été 鳥", "été 鳥"),
    ],
)
def test_override_takes_text_as_it_stands(text: str, value: str) -> None:
    assert setting("data.source", text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("false", False), ('"true"', "true"), ("my weights.pth", "my weights.pth")]
)
def test_override_tells_truth_values_from_paths(text: str, value: object) -> None:
    assert setting("models.pretrained", text) == value


def test_override_takes_keys_of_a_whole_section() -> None:
    config = load_config(overrides=["data.acuity={size: 99, seed: 5}"])
    assert config.data.acuity == ResoMapConfig().data.acuity.model_copy(update={"size": 99, "seed": 5})


def test_override_adds_a_family_and_a_file_replaces_them(tmp_path: Path) -> None:
    default = ResoMapConfig().models.families
    assert load_config(overrides=["models.families.vit=[a]"]).models.families == {**default, "vit": ["a"]}
    (tmp_path / "models.yaml").write_text("families: {own: [b]}")
    assert load_config(tmp_path, ["models.families.vit=[a]"]).models.families == {"own": ["b"], "vit": ["a"]}


def test_overrides_may_be_one_text() -> None:
    assert load_config(None, "training.epochs=7").training.epochs == 7


def test_flags_take_python_values() -> None:
    flags = {"sweep.resolutions": (64, 96), "sweep.models": "tiny_cnn, vgg11", "data.source": Path("a") / "b"}
    config = load_config(flags=flags)
    assert config.sweep.resolutions == [64, 96]
    assert config.sweep.models == ["tiny_cnn", "vgg11"]
    assert config.data.source == str(Path("a/b"))


def test_flags_take_text_as_it_stands() -> None:
    assert load_config(flags={"data.source": "2024"}).data.source == "2024"


texts = st.text() | st.text("0123456789.,eE+-[]{}:'\" nultrefas=&*!#")


def attempt(**given: Any) -> ResoMapConfig | list[str]:
    try:
        return load_config(**given)
    except ConfigError as error:
        return error.problems


@settings(deadline=None)
@given(st.lists(st.builds("{}={}".format, st.sampled_from(KEYS) | texts, texts) | texts, max_size=4))
def test_overrides_give_a_configuration_or_a_config_error(overrides: list[str]) -> None:
    result = attempt(overrides=overrides)
    if isinstance(result, ResoMapConfig):
        assert dump_config(result)
    else:
        assert result
        assert all(problem.isprintable() and problem.startswith("--set: ") for problem in result)


@settings(deadline=None)
@example("training.save_every_s", 2**53 + 1)
@given(st.sampled_from(KEYS), st.none() | st.booleans() | st.integers() | st.floats() | texts | st.lists(st.integers()))
def test_flags_change_nothing_silently(key: str, value: object) -> None:
    result = attempt(flags={key: value})
    if not isinstance(result, ResoMapConfig):
        assert all(problem.startswith("command line: ") for problem in result)
        return
    taken = flatten(result)[key]
    if isinstance(value, str) and isinstance(taken, list):
        return  # a comma-separated list
    assert taken == value
    assert type(taken) is type(value) or (type(value), type(taken)) == (int, float)
