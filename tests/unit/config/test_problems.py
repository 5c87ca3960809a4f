"""What a wrong setting is told: which file, which key, what was expected, what came; all problems together."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resomap.config import FILES, ResoMapConfig, dump_config, flatten, load_config
from resomap.errors import ConfigError

Problems = Callable[..., list[str]]

SIDES = "whole numbers >= 16 and <= 4096"
FAMILIES = "'key: value' lines (values: lists of texts)"
KERNELS = "expected one of 1, 3, 5, 7"
AS_TEXT = "as text it is written"


@pytest.fixture
def problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Problems:
    """The problems of a folder of files: problems({"training.yaml": "epochs: many"}, "sweep.seeds=x")."""
    monkeypatch.chdir(tmp_path)

    def of(files: dict[str, str | bytes], *overrides: str, **flags: object) -> list[str]:
        for name, content in files.items():
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ConfigError) as caught:
            load_config(
                tmp_path if files else None, overrides, flags={k.replace("__", "."): v for k, v in flags.items()}
            )
        return caught.value.problems

    return of


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("training.yaml", "learning_rte: 0.1", "training.learning_rte: unknown key; nearest: learning_rate"),
        ("training.yaml", "Learning-Rate: 0.1", "training.Learning-Rate: unknown key; nearest: learning_rate"),
        ("training.yaml", "hue: 0.1", "training.hue: unknown key; nearest: data.augmentation.hue"),
        ("data.yaml", "resolutions: [64]", "data.resolutions: unknown key; nearest: sweep.resolutions"),
        ("data.yaml", "acuity: {sise: 99}", "data.acuity.sise: unknown key; nearest: size"),
        ("mlflow.yaml", "xyzzy: 1", "mlflow.xyzzy: unknown key; known: enabled, tracking_uri, log_artifacts"),
        ("explainability.yaml", "method: cam", "explainability.method: unknown key; nearest: methods"),
        ("config.yaml", "trainng: {epochs: 3}", "trainng: unknown section; nearest: training"),
        ("config.yaml", "name: x", "name: unknown section; nearest: study.name"),
        ("training.yaml", "training: {}",
         "training.training: unknown key; in training.yaml keys stand at the top, without 'training:'"),
        ("training.yaml", "epochs: many", 'training.epochs: expected a whole number >= 1, got "many"'),
        ("training.yaml", "epochs: 0", "training.epochs: expected a whole number >= 1, got 0"),
        ("training.yaml", "epochs: 3.0", "training.epochs: expected a whole number >= 1, got 3.0"),
        ("training.yaml", "epochs: true", "training.epochs: expected a whole number >= 1, got true"),
        ("training.yaml", 'epochs: "3"', 'training.epochs: expected a whole number >= 1, got "3"'),
        ("training.yaml", "epochs:", "training.epochs: expected a whole number >= 1, got null"),
        ("training.yaml", "epochs: {a: 1}", "training.epochs: expected a whole number >= 1, got {a: 1}"),
        ("training.yaml", "gamma: 1.5", "training.gamma: expected a number > 0 and < 1, got 1.5"),
        ("training.yaml", "momentum: 1", "training.momentum: expected a number >= 0 and < 1, got 1"),
        ("training.yaml", "gamma: true", "training.gamma: expected a number > 0 and < 1, got true"),
        ("training.yaml", "weight_decay: .nan", "training.weight_decay: expected a finite number, got .nan"),
        ("training.yaml", "weight_decay: 1e999", "training.weight_decay: expected a finite number, got .inf"),
        ("training.yaml", "micro_batch: x", 'training.micro_batch: expected a whole number >= 1, or null, got "x"'),
        ("training.yaml", "optimizer: adamww",
         'training.optimizer: expected one of sgd, adam, adamw, got "adamww"; nearest: adamw'),
        ("sweep.yaml", "resolutions: [64, big]",
         'sweep.resolutions[1]: expected a whole number >= 16 and <= 4096, got "big"'),
        ("sweep.yaml", "resolutions: 64", f"sweep.resolutions: expected a list of 1 or more {SIDES}, got 64"),
        ("sweep.yaml", "resolutions: []", f"sweep.resolutions: expected a list of 1 or more {SIDES}, got []"),
        ("sweep.yaml", "models: [7]", f'sweep.models[0]: expected text, got 7; {AS_TEXT} "7"'),
        ("sweep.yaml", "resolutions: [64, 64]", "sweep: resolutions lists 64 more than once; list each once"),
        ("system.yaml", "channels_last: yes", 'system.channels_last: expected true or false, or null, got "yes"'),
        ("system.yaml", "channels_last: 1", "system.channels_last: expected true or false, or null, got 1"),
        ("data.yaml", "mean: [1, 2]", "data.mean: expected a list of 3 numbers, or null, got [1, 2]"),
        ("data.yaml", "mean: [1, 2, 3, 4]", "data.mean: expected a list of 3 numbers, or null, got [1, 2, 3, 4]"),
        ("data.yaml", "mean: [1, 2, .inf]", "data.mean[2]: expected a finite number, got .inf"),
        ("data.yaml", "std: [1, 2, 0]", "data.std[2]: expected a number > 0, got 0"),
        ("data.yaml", "acuity: 3", "data.acuity: expected 'key: value' lines, got 3"),
        ("data.yaml", "acuity: {variant: null}",
         f'data.acuity.variant: expected one of standard, null, shortcut, got null; {AS_TEXT} "null"'),
        ("models.yaml", "pretrained: 3",
         f'models.pretrained: expected true or false, or text, got 3; {AS_TEXT} "3"'),
        ("models.yaml", "families: [a]", f"models.families: expected {FAMILIES}, got [a]"),
        ("models.yaml", "families: {a: b}", 'models.families.a: expected a list of texts, got "b"'),
        ("models.yaml", "simple_cnn: {kernel_size: true}", f"models.simple_cnn.kernel_size: {KERNELS}, got true"),
        ("models.yaml", "simple_cnn: {kernel_size: 3.0}", f"models.simple_cnn.kernel_size: {KERNELS}, got 3.0"),
        ("config.yaml", "- a\n- b", "expected 'key: value' lines, got [a, b]"),
        ("config.yaml", "just text", "expected 'key: value' lines, got \"just text\""),
        ("config.yaml", "training: [1]", "training: expected 'key: value' lines, got [1]"),
        ("config.yaml", "study: {name: 2024}", f'study.name: expected text, or null, got 2024; {AS_TEXT} "2024"'),
        ("training.yaml", "epochs: 3\nepochs: 4", 'line 2, column 1: found "epochs" a second time; keep one'),
        ("training.yaml", "epochs: 3\n\tgamma: 1", "line 2, column 1: found a tab; indent with spaces"),
        ("training.yaml", b"# \xe9\n", "line 1: is not UTF-8; save the file as UTF-8"),
        ("training.yaml", b"\xff\xfee\0p\0", "line 1: is not UTF-8; save the file as UTF-8"),
        ("training.yaml", b"#" * (2**20 + 1), "is larger than 1,048,576 bytes; that is no configuration"),
        ("training.yaml", "seed: 1", "training.seed: unknown key; nearest: data.acuity.seed"),
    ],
)  # fmt: skip
def test_problem_names_file_key_and_what_to_do(file: str, text: str | bytes, problem: str, problems: Problems) -> None:
    assert problems({file: text}) == [f"{file}: {problem}"]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("training.epochs", 'expected section.key=value, got "training.epochs"'),
        ("=3", 'expected section.key=value, got "=3"'),
        ("", 'expected section.key=value, got ""'),
        ("training=3", "training: is a section; name a key of it, such as training.epochs=10"),
        ("data.acuity=", "data.acuity: is a section; name a key of it, such as training.epochs=10"),
        ("epochs=3", "epochs: unknown section; nearest: training.epochs"),
        ("training.epochs.x=3", "training.epochs.x: training.epochs is one setting; give it a whole number >= 1"),
        ("training.epochs=[3", "training.epochs: line 1, column 3: expected ',' or ']', but got '<stream end>'"),
        ("training.epochs=3,4", 'training.epochs: expected a whole number >= 1, got "3,4"'),
        ("data.source=", "data.source: expected text, got null"),
        ("sweep.resolutions=64,big", 'sweep.resolutions[1]: expected a whole number >= 16 and <= 4096, got "big"'),
        ("sweep.seeds=18446744073709551616", "sweep.seeds[0]: expected a number below 2^63, got 18446744073709551616"),
        ("data.source=\udcff", 'expected section.key=value, got "data.source=\\udcff"'),
    ],
)
def test_problem_of_an_override(override: str, problem: str, problems: Problems) -> None:
    assert problems({}, override) == [f"--set: {problem}"]


def test_problem_of_a_flag(problems: Problems) -> None:
    lines = problems({}, training__epochs="many", data__source="\udcff", study__output=object(), sweep__seeds=[2**40])
    assert sorted(lines) == [
        'command line: data.source: expected Unicode text, got "\\udcff"; rename the file or folder',
        "command line: study.output: expected text, a number, true or false, or a list, got object",
        f"command line: sweep.seeds[0]: expected a whole number >= 0 and <= {2**31 - 1}, got {2**40}",
        'command line: training.epochs: expected a whole number >= 1, got "many"',
    ]


def test_problems_are_reported_together_each_with_its_source(problems: Problems) -> None:
    lines = problems(
        {
            "training.yaml": "epochs: many\nlearning_rte: 1",
            "sweep.yaml": "seeds: [",
            "config.yaml": "data: {kernel: cubic}\ntraining: {gamma: 7}",
            "trainning.yaml": "",
        },
        "system.threads=0",
        "sytem.device=cpu",
        models__pretrained=3,
    )
    places = {": ".join(line.split(": ")[:2]) for line in lines}
    assert places == {
        "trainning.yaml: is not read; if it is meant to be, rename it to training.yaml",
        "training.yaml: training.learning_rte",
        "training.yaml: training.epochs",
        "sweep.yaml: line 1, column 9",
        "config.yaml: data.kernel",
        "config.yaml: training.gamma",
        "--set: system.threads",
        "--set: sytem",
        "command line: models.pretrained",
    }
    assert len(lines) == len(places)


def test_problem_is_of_the_layer_that_won(problems: Problems) -> None:
    assert problems({"training.yaml": "epochs: 3"}, "training.epochs=0")[0].startswith("--set: training.epochs")
    assert problems({"training.yaml": "epochs: 0"}, "training.gamma=0.5")[0].startswith(
        "training.yaml: training.epochs"
    )


def test_problem_that_a_later_layer_mends_is_none(tmp_path: Path) -> None:
    (tmp_path / "training.yaml").write_text("epochs: many")
    assert load_config(tmp_path, ["training.epochs=3"]).training.epochs == 3


def test_problem_between_two_settings_names_where_they_came_from(problems: Problems) -> None:
    assert problems({"training.yaml": "monitor: loss\nmonitor_mode: max"}, "training.epochs=3") == [
        "training.yaml: training: monitor_mode max with monitor loss: set it to min"
    ]
    assert problems({"training.yaml": "epochs: 3"}, "training.monitor=accuracy", training__monitor_mode="min") == [
        "--set, command line: training: monitor_mode min with monitor accuracy: set it to max"
    ]


def test_a_warm_up_longer_than_the_training_is_refused(problems: Problems) -> None:
    assert problems({"training.yaml": "warmup_epochs: 10"}, training__epochs=4) == [
        "training.yaml, command line: training: warmup_epochs 10 is above epochs 4, so learning_rate would never be "
        "reached; lower warmup_epochs"
    ]


def test_a_micro_batch_larger_than_the_batch_is_refused(problems: Problems) -> None:
    assert problems({"training.yaml": "batch_size: 50"}, "training.micro_batch=100") == [
        "training.yaml, --set: training: micro_batch 100 is above batch_size 50, of which it is a part; lower "
        "micro_batch, or raise batch_size"
    ]


@pytest.mark.parametrize("override", ["training.warmup_epochs=4", "training.micro_batch=50"])
def test_a_warm_up_of_all_epochs_and_a_micro_batch_of_all_images_are_taken(override: str) -> None:
    assert load_config(None, ["training.epochs=4", "training.batch_size=50", override])


def test_problems_stay_readable(problems: Problems) -> None:
    many = "\n".join(f"key{i}: 1" for i in range(1000))
    lines = problems({"training.yaml": many})
    assert len(lines) == 51
    assert lines[-1] == "... and 950 more"


def test_problem_is_one_printable_line(problems: Problems) -> None:
    key = '"' + "k" * 500 + '\\n\\e[31m"'
    (line,) = problems({"training.yaml": f'{key}: "a\\nb"\n'})
    assert line.isprintable()
    assert len(line) < 500
    (line,) = problems({"training.yaml": 'optimizer: "a\\nb\\e[31m"'})
    assert line.endswith(r'got "a\nb\x1b[31m"')


def test_unreadable_paths_are_named(tmp_path: Path) -> None:
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    (tmp_path / "folder" / "training.yaml").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        for path, words in [
            (tmp_path / "absent.yaml", "No such file"),
            (loop, "symbolic links"),
            (tmp_path / "folder", r"training.yaml: cannot be read \(Is a directory"),
            (tmp_path / "s", "cannot be read"),
            (tmp_path / ("x" * 300), "File name too long"),
            ("nul\0l", "null"),
        ]:
            with pytest.raises(ConfigError, match=words) as caught:
                load_config(path)
            assert len(caught.value.problems) == 1


def test_endless_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="zero: is larger than"):
        load_config("/dev/zero")


def test_file_without_permission_is_named(
    tmp_path: Path, without_privileges: Callable[[], AbstractContextManager[None]]
) -> None:
    locked = tmp_path / "locked.yaml"
    locked.write_text("")
    locked.chmod(0)
    with without_privileges(), pytest.raises(ConfigError, match=r"cannot be read \(Permission denied\)"):
        load_config(locked)


sections = [*FILES, "provenance", "trainng", "x"]
keys = sorted({part for key in flatten(ResoMapConfig()) for part in key.split(".")})
leaves = (
    st.sampled_from(
        ["3", "0", "-1", "1.5", "3e-4", "true", "null", "auto", "no", "[1, 2]", "[]", "{}", ".nan", "*a", "!x 1"]
    )
    | st.text("abc019:[]{}-,'\"#&*!|>%@`\t\n ", max_size=8)
    | st.text(max_size=4)
)


@st.composite
def yaml_like(draw: st.DrawFn) -> str:
    """Lines that are nearly a configuration file."""
    line = st.builds(
        lambda indent, key, value: f"{indent}{key}: {value}",
        st.sampled_from(["", "", "  ", "    ", "\t"]),
        st.sampled_from(sections) | st.sampled_from(keys),
        leaves,
    )
    return "\n".join(draw(st.lists(line, max_size=6)))


@settings(deadline=None)
@given(st.sampled_from(list(FILES.values())), yaml_like() | st.text() | st.binary())
def test_any_file_gives_a_configuration_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, file: str, content: str | bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    (folder / file).write_bytes(data)
    for path in (folder, folder / file):
        result = attempt(path)
        if isinstance(result, ResoMapConfig):
            (folder / "again.yml").write_text(dump_config(result), encoding="utf-8")
            assert load_config(folder / "again.yml") == result
        else:
            assert result
            assert all(problem.isprintable() for problem in result)


def attempt(path: Path) -> ResoMapConfig | list[str]:
    try:
        return load_config(path)
    except ConfigError as error:
        return error.problems
