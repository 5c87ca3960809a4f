"""A study killed again and again: does it end as if nothing had happened?

    python benchmarks/faults.py [--kills 100] [--first 0] [--signals KILL,TERM,INT] [--stages a,b] [--work DIR]

A small study (tiny_cnn at 32 and 48 px, two seeds, two epochs; profile, explanations, train x test matrix, figures and
report on) is run once undisturbed. Then others like it are killed with SIGKILL, once in each stage at a moment drawn at
random, and started again after each kill, until they end. Each kill counts as recovered if its study then equals the
undisturbed one: see compare(). After SIGTERM or SIGINT the process must besides have ended with status 130 and no
traceback. Kills are numbered; --first goes on where an earlier call stopped.

The processes are forks of one that has imported everything, so that a start costs little.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

import resomap.cli.main
import resomap.study.sweep
import resomap.training.trainer  # imported before the forks

STAGES = (
    "pyramid", "training", "checkpoint write", "training", "evaluation", "tables", "training", "checkpoint write",
    "evaluation", "profile", "explanation", "figures", "matrix", "analysis", "report",
)  # fmt: skip
"""Where a study is killed, in the order in which it gets there; 'training' is anywhere in an epoch."""

ANNOUNCED = {
    "pyramid": r"decoding",
    "training": r"\[\d+/\d+\] |    epoch 1:",
    "evaluation": r"    epoch 2:",
    "tables": r"    tiny_cnn",
    "profile": r"    (latency|memory and|file to)",
    "explanation": r"    (gradcam|comparing|faithfulness|spectral)",
    "figures": r"    figures",
    "matrix": r"    conditions",
    "analysis": r"    report",
}
"""Stage -> beginning of the lines of progress that announce it."""

MEASURED = re.compile(
    r"seconds|_per_s|_ms|memory|created_utc|latency|throughput|provenance|warmup|drift|bytes|budget|cost|pareto|hypervolume|sentence"
)
"""Names of fields that hold measured time or memory, or where a result comes from; not compared."""


@dataclass
class Attempt:
    """One start of the study, watched through its standard error and its files."""

    study: Path
    pid: int
    stream: int
    text: str = ""
    stage: str = "start"
    done: bool = False

    def look(self, wait_s: float) -> None:
        """Read what was printed and note the stage."""
        if select.select([self.stream], [], [], wait_s)[0]:
            piece = os.read(self.stream, 1 << 16)
            self.done = not piece
            self.text += piece.decode(errors="replace")
        lines = self.text.split("\n")[:-1]
        for stage, words in ANNOUNCED.items():
            if lines and re.match(words, lines[-1]):
                self.stage = stage
        if self.stage == "training" and any(self.study.glob("checkpoints/*/*/*/*/.*.tmp")):
            self.stage = "checkpoint write"
        if self.stage == "analysis" and (self.study / "analysis" / "verdict.json").exists():
            self.stage = "report"

    def end(self, number: int = 0) -> int:
        """Send a signal, or wait; the exit status (negative: killed)."""
        if number:
            os.kill(self.pid, number)
        while not self.done:
            self.look(1.0)
        os.close(self.stream)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def start(study: Path, arguments: list[str]) -> Attempt:
    """Fork a process that runs the command line."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writing, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.close(reading)
        sys.argv = ["resomap", *arguments]
        status = 1
        try:
            resomap.cli.main.main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writing)
    return Attempt(study, pid, reading)


def arguments_for(data: Path, study: Path) -> list[str]:
    settings = {
        "data.cache_dir": f"{study}.cache", "data.cache_gib": 1, "mlflow.enabled": "false", "training.save_every_s": 0,
        "system.profiling.blocks": 5, "system.profiling.max_batch": 2, "system.profiling.end_to_end_images": 2,
        "system.profiling.warmup": 1, "explainability.images": 4, "explainability.bootstrap_draws": 200,
        "explainability.gallery": 1, "analysis.matrix": "true", "system.threads": 1,
    }  # fmt: skip
    return [
        "run", "--data", str(data), "--models", "tiny_cnn", "--resolutions", "32,48", "--seeds", "0,1",
        "--epochs", "2", "--batch-size", "8", "--device", "cpu", "--output", str(study),
        *(part for key, value in settings.items() for part in ("--set", f"{key}={value}")),
    ]  # fmt: skip


def make_images(root: Path) -> Path:
    """Two classes of noise, dark and light."""
    for split, count in {"train": 24, "val": 8, "test": 8}.items():
        for k, name in enumerate(("dark", "light")):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                rng = np.random.default_rng([k, i, len(split), ord(split[0])])
                pixels = rng.normal(60 + 120 * k, 40, (40, 48, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{name}{i:03d}.png")
    return root


def undisturbed(data: Path, study: Path) -> dict[str, float]:
    """Run a study to its end; how long each of its stages took, in seconds (a stage seen twice: the mean)."""
    attempt = start(study, arguments_for(data, study))
    spent: dict[str, list[float]] = {}
    since, stage = time.monotonic(), attempt.stage
    while not attempt.done:
        attempt.look(0.001)
        if attempt.stage != stage or attempt.done:
            spent.setdefault(stage, []).append(time.monotonic() - since)
            since, stage = time.monotonic(), attempt.stage
    status = attempt.end()
    if status:
        raise SystemExit(f"the undisturbed study ended with status {status}:\n{attempt.text}")
    return {name: sum(values) / len(values) for name, values in spent.items()}


def kill_in(stage: str, data: Path, study: Path, *, wait_s: float, number: int = signal.SIGKILL) -> tuple[str, str]:
    """Start the study, wait until it gets to `stage` and `wait_s` longer, send the signal.

    Returns:
        The stage that was hit, or 'ended' (a stage that was over before lets the study end); and what went wrong.
    """
    attempt = start(study, arguments_for(data, study))
    reached: float | None = None
    while not attempt.done:
        attempt.look(0.0005 if stage == "checkpoint write" else 0.002)
        if reached is None and attempt.stage == stage:
            reached = time.monotonic()
        if reached is not None and time.monotonic() - reached >= wait_s and not attempt.done:
            hit = attempt.stage
            status = attempt.end(number)
            is_clean = status == -number if number == signal.SIGKILL else status == 130
            if status == 0:
                return "ended", ""
            return hit, "" if is_clean and "Traceback" not in attempt.text else f"status {status}: {attempt.text}"
    status = attempt.end()
    return "ended", "" if status == 0 else f"status {status}: {attempt.text}"


def chain(
    data: Path, study: Path, typical_s: dict[str, float], stages: list[str], *, seed: int, numbers: list[int]
) -> tuple[list[str], list[str]]:
    """Kill one study in stage after stage, then let it end: the stages hit, and what went wrong."""
    rng = random.Random(seed)
    hits, problems = [], []
    for i, stage in enumerate(stages):
        wait_s = 0.0 if stage == "checkpoint write" else rng.uniform(0.0, 0.9) * typical_s.get(stage, 0.0)
        hit, problem = kill_in(stage, data, study, wait_s=wait_s, number=numbers[i % len(numbers)])
        hits += [hit] if hit != "ended" else []
        problems += [problem] if problem else []
    attempt = start(study, arguments_for(data, study))
    status = attempt.end()
    return hits, problems + ([f"status {status}: {attempt.text}"] if status else [])


def compare(study: Path, reference: Path) -> list[str]:
    """What differs. Byte for byte: weights, their metadata, predictions of every condition, explanation maps (arrays).

    Field by field, but for the names that MEASURED matches: run records, results.csv, results.json, audit, model
    summaries, profiles, explanations.json, verdict.json. And the same files must be there: no temporary, no training
    state, nothing missing.
    """
    found = []
    ours, theirs = files_of(study), files_of(reference)
    found += [f"{name}: only in the {'killed' if name in ours else 'undisturbed'} study" for name in ours ^ theirs]
    for name in sorted(ours & theirs):
        found += different(study / name, reference / name, name)
    return found


def files_of(study: Path) -> set[str]:
    """Files that matter: no leases, whose numbers count starts."""
    return {
        str(path.relative_to(study))
        for path in study.rglob("*")
        if path.is_file() and ".locks" not in path.parts and path.name != "study.yaml"
    }


def different(path: Path, reference: Path, name: str) -> Iterator[str]:
    if path.suffix in (".safetensors", ".parquet") or path.name == "metadata.json":
        if path.read_bytes() != reference.read_bytes():
            yield f"{name}: bytes differ"
    elif path.suffix == ".npz":
        with np.load(path) as one, np.load(reference) as other:
            if set(one) != set(other) or any(one[k].tobytes() != other[k].tobytes() for k in one if k != "header"):
                yield f"{name}: arrays differ"
    elif path.suffix == ".json" and name != "finished.json":  # that one holds the times of files
        one, other = (dict(leaves(json.loads(p.read_text()))) for p in (path, reference))
        names = [k for k in one.keys() | other.keys() if one.get(k) != other.get(k)]
        yield from (f"{name}: {k}: {one.get(k)!r}, undisturbed {other.get(k)!r}" for k in sorted(names)[:3])
    elif path.suffix == ".csv":
        one, other = (pd.read_csv(p) for p in (path, reference))
        kept = [c for c in other.columns if not MEASURED.search(c)]
        if list(one.columns) != list(other.columns) or not one[kept].equals(other[kept]):
            yield f"{name}: rows differ"


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name -> value of everything in a JSON file that is not measured."""
    if MEASURED.search(name.rpartition(".")[2]):
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{name}.{i}")
    else:
        yield name, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="kills done by earlier calls; also picks the moments")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--signals", default="KILL", help="one for each kill in turn")
    parser.add_argument("--stages", help="only these, comma-separated")
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="faults-"))
    numbers = [signal.Signals[f"SIG{name}"] for name in given.signals.split(",")]
    stages = given.stages.split(",") if given.stages else list(STAGES)
    data, reference = make_images(work / "data"), work / "reference"
    typical_s = undisturbed(data, reference)
    print("undisturbed:", ", ".join(f"{name} {seconds:.2f} s" for name, seconds in typical_s.items()), flush=True)
    hits: Counter[str] = Counter()
    done = recovered = 0
    while done < given.kills:
        seed = given.first + done
        study = work / f"killed{seed}"
        hit, problems = chain(data, study, typical_s, stages[: given.kills - done], seed=seed, numbers=numbers)
        problems += compare(study, reference)
        hits.update(hit)
        done += len(hit)
        recovered += 0 if problems else len(hit)
        print(f"{seed}: killed in {', '.join(hit)}: {'; '.join(problems[:4]) or 'equal'}", flush=True)
    print(f"{recovered}/{done} kills recovered bit for bit; by stage: {', '.join(f'{k} {n}' for k, n in hits.items())}")
    sys.exit(recovered != done)


if __name__ == "__main__":
    main()
