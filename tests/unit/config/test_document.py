"""configs/ is what the schema says."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from resomap.config import FILES, ResoMapConfig, flatten, load_config
from resomap.config.document import documents, write_documents
from resomap.config.yaml_text import parse

CONFIGS = Path(__file__).parents[3] / "configs"
DEFAULTS = ResoMapConfig().model_dump(mode="json")


@pytest.mark.parametrize("name", [*FILES.values(), "README.md"])
def test_configs_are_up_to_date(name: str) -> None:
    written = (CONFIGS / name).read_text("utf-8")
    assert written == documents()[name], "run `make configs`"


@pytest.mark.parametrize(("section", "name"), FILES.items())
def test_yaml_files_hold_exactly_the_defaults(section: str, name: str) -> None:
    content = parse((CONFIGS / name).read_text("utf-8")) or {}
    assert (content["study"] if section == "study" else content) == DEFAULTS[section]


@pytest.mark.parametrize("name", FILES.values())
def test_yaml_files_mean_the_same_to_other_readers(name: str) -> None:
    text = (CONFIGS / name).read_text("utf-8")
    assert yaml.safe_load(text) == parse(text)


def test_configs_load_to_the_defaults() -> None:
    assert load_config(CONFIGS) == ResoMapConfig()


def test_demo_is_a_configuration() -> None:
    assert load_config(CONFIGS / "demo.yaml") != ResoMapConfig()


def test_readme_has_a_row_for_every_setting() -> None:
    rows = {line.split("`")[1] for line in documents()["README.md"].splitlines() if line.startswith("| `")}
    # A family is a value, not a setting.
    settings = {"models.families" if key.startswith("models.families.") else key for key in flatten(DEFAULTS)}
    assert rows == settings - {"explainability"}


def test_readme_examples_are_true(tmp_path: Path) -> None:
    blocks = documents()["README.md"].split("```")
    mine = next(block.removeprefix("yaml\n") for block in blocks if block.startswith("yaml"))
    (tmp_path / "mine.yaml").write_text(mine)
    config = load_config(tmp_path / "mine.yaml", overrides=["training.epochs=10"])
    assert (config.training.learning_rate, config.training.epochs) == (3e-4, 10)
    assert config.data.augmentation.horizontal_flip == 0
    words = next(block for block in blocks if block.startswith("sh")).split()
    overrides = [after for word, after in itertools.pairwise(words) if word == "--set"]
    assert len(overrides) == 3
    load_config(overrides=overrides)


def test_document_writes_into_the_folder_it_is_given(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "resomap.config.document", str(tmp_path / "a")], check=True)
    write_documents(tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted([*FILES.values(), "README.md"])
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
