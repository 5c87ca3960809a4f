"""Fixtures that several test files share."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Networks this small gain nothing from a second thread, and processes started by a test would fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


@pytest.fixture
def without_privileges(tmp_path: Path) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """A context in which file permissions hold: the superuser becomes `nobody`, anybody else stays who they are."""

    @contextlib.contextmanager
    def become() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        for folder in (tmp_path, *tmp_path.parents):
            if Path(tempfile.gettempdir()) in folder.parents:
                folder.chmod(folder.stat().st_mode | 0o055)
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return become


@pytest.fixture
def make_images() -> Callable[..., Path]:
    """Write a folder of small PNG photographs that two classes can be told apart on: make(root, train=8)."""

    def make(
        root: Path,
        *,
        classes: tuple[str, ...] = ("dark", "light"),
        splits: Mapping[str, int] | None = None,
        size: tuple[int, int] = (48, 40),
        seed: int = 0,
    ) -> Path:
        for split, count in (splits or {"train": 12, "val": 6, "test": 6}).items():
            for k, name in enumerate(classes):
                folder = root / split / name
                folder.mkdir(parents=True, exist_ok=True)
                for i in range(count):
                    rng = np.random.default_rng([seed, k, i, len(split), ord(split[0])])
                    mean = 60 + 120 * k / max(1, len(classes) - 1)
                    pixels = rng.normal(mean, 40, (size[1], size[0], 3)).clip(0, 255).astype(np.uint8)
                    Image.fromarray(pixels).save(folder / f"{name}{i:03d}.png")
        return root

    return make


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command line in this process, in an empty folder, with a cache of its own."""
    work = tmp_path / "cwd"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*arguments: object) -> Outcome:
        import torch

        from resomap.cli.main import main

        monkeypatch.setattr(sys, "argv", ["resomap", *map(str, arguments)])
        capfd.readouterr()
        status: int | str | None = 0
        library = logging.getLogger("resomap")
        level, threads = library.level, torch.get_num_threads()
        try:
            main()
        except SystemExit as stop:
            status = stop.code
        finally:  # what a command chooses for its process must not outlive it in this one
            library.setLevel(level)
            torch.set_num_threads(threads)  # system.threads: sums in another order give other last bits
        out, err = capfd.readouterr()
        return Outcome(int(status or 0), out, err)

    return run


@pytest.fixture
def small_run(tmp_path: Path) -> Callable[..., list[str]]:
    """Arguments of a run that takes a second: tiny_cnn at 32 on `data`, tracking off."""

    def arguments(data: Path | str, *extra: str, output: str = "study") -> list[str]:
        return [
            "run", "--data", str(data), "--models", "tiny_cnn", "--resolutions", "32", "--seeds", "0",
            "--epochs", "2", "--batch-size", "8", "--device", "cpu", "--output", str(tmp_path / output),
            "--set", f"data.cache_dir={tmp_path / 'cache'}", "--set", "mlflow.enabled=false",
            "--set", "system.profiling.enabled=false", "--set", "system.profiling.precision=null",
            "--set", "explainability.enabled=false", *extra,
        ]  # fmt: skip

    return arguments


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Passes on the CPU are captured as graphs (imitated); the graphs as they are made."""
    from .imitated_graphs import imitate

    return imitate(monkeypatch)


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """Start the command line as a process of its own (to be killed); output is kept."""
    started: list[subprocess.Popen[str]] = []

    def popen(*arguments: object, **options: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "resomap", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,  # type: ignore[call-overload]
        )
        started.append(process)
        return process

    yield popen
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def real_photographs() -> Path:
    """The folder that RESOMAP_REAL_DATA names: train/val of two classes of photographs."""
    folder = os.environ.get("RESOMAP_REAL_DATA")
    if not folder:
        pytest.skip("RESOMAP_REAL_DATA does not name a folder of photographs")
    return Path(folder)
