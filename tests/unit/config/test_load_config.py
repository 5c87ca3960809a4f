"""Where settings are found, and which of them wins. Defaults are never spelled out: they may be tuned."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from resomap.config import FILES, ResoMapConfig, dump_config, load_config
from resomap.errors import ConfigError

DEFAULTS = ResoMapConfig()
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write files into a folder and go to an empty one: write("configs", {"training.yaml": "epochs: 3"})."""
    monkeypatch.chdir(tmp_path)

    def files(folder: str, contents: dict[str, str]) -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        for name, text in contents.items():
            (tmp_path / folder / name).write_text(text)
        return tmp_path / folder

    return files


def test_load_config_without_files_gives_the_defaults(write: Write) -> None:
    assert load_config() == DEFAULTS


def test_load_config_finds_configs_in_the_current_folder(write: Write) -> None:
    write("configs", {"config.yaml": "", "training.yaml": "epochs: 3"})
    assert load_config().training.epochs == 3


def test_load_config_takes_configs_only_with_a_config_yaml(write: Write) -> None:
    write("configs", {"training.yaml": "epochs: 3"})  # may be another project's folder
    assert load_config() == DEFAULTS


def test_load_config_folder_keeps_defaults_for_what_is_not_said(write: Write) -> None:
    config = load_config(write("mine", {"training.yaml": "learning_rate: 3e-4", "data.yaml": "acuity: {size: 99}"}))
    assert config.training.learning_rate == 3e-4
    assert config.data.acuity.size == 99
    assert config.training.model_copy(update={"learning_rate": DEFAULTS.training.learning_rate}) == DEFAULTS.training
    assert config.data.augmentation == DEFAULTS.data.augmentation
    assert config.sweep == DEFAULTS.sweep


def test_load_config_one_key_of_a_network_keeps_the_others(write: Write) -> None:
    # simple_cnn's defaults are those of this network, not those of the class it shares with tiny_cnn.
    config = load_config(write("mine", {"models.yaml": "simple_cnn: {kernel_size: 5}"}))
    assert config.models.simple_cnn == DEFAULTS.models.simple_cnn.model_copy(update={"kernel_size": 5})


def test_load_config_precedence_rises_from_files_to_flags(write: Write) -> None:
    folder = write(
        "mine",
        {
            "training.yaml": "{epochs: 11, batch_size: 112, top_k: 13, micro_batch: 14}",
            "config.yaml": "training: {batch_size: 122, top_k: 23, micro_batch: 24}",
        },
    )
    overrides = ["training.top_k=33", "training.micro_batch=1", "training.micro_batch=34"]
    training = load_config(folder, overrides, flags={"training.micro_batch": 44}).training
    assert (training.epochs, training.batch_size, training.top_k, training.micro_batch) == (11, 122, 33, 44)
    assert load_config(folder, overrides).training.micro_batch == 34  # the last of several


def test_load_config_single_file_has_sections_by_name(write: Write) -> None:
    folder = write("mine", {"any.yml": "sweep: {seeds: [7]}\nstudy:\n  name: one\ndata:\n  acuity:\n    size: 99\n"})
    config = load_config(folder / "any.yml")
    assert (config.sweep.seeds, config.study.name, config.data.acuity.size) == ([7], "one", 99)


def test_the_study_yaml_of_a_study_that_was_moved_means_the_study_where_it_lies(write: Write) -> None:
    text = "study: {output: 'studies/{data}', lease_seconds: 7}\n"
    moved = write("moved", {"study.yaml": text})
    assert load_config(moved / "study.yaml").study.output == "studies/{data}"  # a copy of the settings, no study
    (moved / "checkpoints").mkdir()
    found = load_config(moved / "study.yaml").study
    assert (found.output, found.lease_seconds) == (str(moved), 7)
    assert load_config(moved / "study.yaml", ["study.output=other"]).study.output == "other"
    assert load_config(moved / "study.yaml", flags={"study.output": "third"}).study.output == "third"


def test_load_config_study_yaml_is_read_without_its_provenance(write: Write) -> None:
    config = load_config(overrides=["training.epochs=3"])
    folder = write("study", {"study.yaml": f'{dump_config(config)}provenance: {{"versions": {{"torch": "2"}}}}\n'})
    assert load_config(str(folder / "study.yaml")) == config


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null", "training:\n", "data:\n  acuity:\n", "{}"])
def test_load_config_empty_files_and_sections_change_nothing(text: str, write: Write) -> None:
    assert load_config(write("mine", {"config.yaml": text})) == DEFAULTS


def test_load_config_reads_utf8_with_a_mark_and_windows_line_ends(write: Write) -> None:
    folder = write("mine", {})
    (folder / "config.yaml").write_bytes("\ufeffstudy:\r\n  name: étude 鳥\r\n".encode())
    assert load_config(folder).study.name == "étude 鳥"


@pytest.mark.parametrize("name", ["demo.yaml", "sweep-2.yaml", "data_old.yaml", "notes.txt", "training.yaml.bak"])
def test_load_config_ignores_other_files_of_the_folder(name: str, write: Write) -> None:
    assert load_config(write("mine", {"config.yaml": "", name: "{nonsense"})) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("trainning.yaml", "training.yaml"),
        ("training.yml", "training.yaml"),
        ("Training.yaml", "training.yaml"),
        ("model.yaml", "models.yaml"),
        ("configs.yaml", "config.yaml"),
        ("analyses.yaml", "analysis.yaml"),
    ],
)
def test_load_config_names_the_file_that_was_meant(name: str, meant: str, write: Write) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: is not read; .*rename it to {meant}$"):
        load_config(write("mine", {name: ""}))


def test_load_config_folder_without_any_file_says_so(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "resomap"):
        assert load_config(write("photos", {})) == DEFAULTS
    assert "photos holds none of config.yaml, sweep.yaml" in caplog.text


def test_load_config_folder_of_a_study_names_the_file_to_give(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"studied: is a study; .* the file study\.yaml in it$"):
        load_config(write("studied", {"study.yaml": "{}", "results.csv": ""}))


def test_load_config_missing_path_is_an_error(write: Write) -> None:
    with pytest.raises(ConfigError, match="missing: cannot be read"):
        load_config("missing")


def test_load_config_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config().training.epochs = 3  # type: ignore[misc]


def test_load_config_layers_do_not_share_values_between_calls() -> None:
    load_config(overrides=["models.families.vit=[a]"])
    assert load_config() == DEFAULTS


def test_every_section_has_a_file() -> None:
    assert list(FILES) == list(ResoMapConfig.model_fields)
