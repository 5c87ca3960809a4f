"""Feeds hostile bytes to everything that ResoMap reads, and counts: nothing but a ResoMapError may come out.

    python benchmarks/fuzz.py                                  every target, 10 s each
    python benchmarks/fuzz.py yaml metadata --seconds 300      these only
    python benchmarks/fuzz.py --engine atheris --seconds 60    guided by coverage (needs atheris; torch-free targets)
    python benchmarks/fuzz.py --tally fuzz.json                adds to what earlier calls counted there
    python benchmarks/fuzz.py --tally fuzz.json --show         prints it

Inputs are valid files and texts (see fuzz_targets.py) with bytes flipped, cut, repeated, replaced by awkward ones, or
spliced together. An input that takes more than 5 s of processor time is a finding too; one that ends the process stays
in the folder that was printed first.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from fuzz_targets import TARGETS, Target, awkward

SLOW_S = 5.0
MEMORY_BYTES = 8 * 2**30
LONGEST = 4096
WITH_TORCH = ("metadata", "checkpoint", "weights", "state")
"""Atheris and torch's libraries do not load into one process."""
Tally = dict[str, dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each target")
    parser.add_argument("--engine", choices=("mutation", "atheris"), default="mutation")
    parser.add_argument("--seed", type=int, default=None, help="default: another one in each call")
    parser.add_argument("--tally", type=Path, default=None)
    parser.add_argument("--show", action="store_true", help="print the tally only")
    parser.add_argument("--one", choices=TARGETS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        fuzz_one(given.one, seconds=given.seconds, engine=given.engine, seed=given.seed, out=given.tally)
        return
    tally: Tally = json.loads(given.tally.read_text()) if given.tally and given.tally.exists() else {}
    for name in () if given.show else given.targets or TARGETS:
        if given.engine == "atheris" and name in WITH_TORCH:
            print(f"{name}: left out, atheris and torch do not load into one process")
            continue
        seed = given.seed if given.seed is not None else random.randrange(2**32)
        add(tally, name, in_a_process(name, seconds=given.seconds, engine=given.engine, seed=seed))
        if given.tally is not None:
            given.tally.write_text(json.dumps(tally, indent=1))
    show(tally)


def in_a_process(name: str, *, seconds: float, engine: str, seed: int) -> dict[str, Any]:
    """One target in a process of its own, so that a crash is a finding and not the end."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "tally.json"
        command = [sys.executable, __file__, "--one", name, "--seconds", str(seconds), "--engine", engine]
        done = subprocess.run([*command, "--seed", str(seed), "--tally", str(out)], capture_output=True, text=True)
        counted: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"executions": 0, "seconds": 0.0}
    if done.returncode != 0:
        counted.setdefault("findings", {})[f"process ended with {done.returncode}"] = (done.stdout + done.stderr)[-600:]
    return counted


def add(tally: Tally, name: str, counted: dict[str, Any]) -> None:
    """Put one call's counts to those of the calls before it."""
    row = tally.setdefault(name, {"executions": 0, "refused": 0, "seconds": 0.0, "findings": {}})
    for key in ("executions", "refused", "seconds"):
        row[key] += counted.get(key, 0)
    row["findings"] |= counted.get("findings", {})


def show(tally: Tally) -> None:
    """A line for each target, the sum, and every finding."""
    print(f"{'target':<12} {'executions':>12} {'refused':>12} {'seconds':>8} {'a second':>9} {'findings':>8}")
    for name, row in tally.items():
        rate = row["executions"] / max(row["seconds"], 1e-9)
        figures = f"{row['executions']:>12,} {row['refused']:>12,} {row['seconds']:>8,.0f} {rate:>9,.0f}"
        print(f"{name:<12} {figures} {len(row['findings']):>8}")
    total, seconds = (sum(row[key] for row in tally.values()) for key in ("executions", "seconds"))
    found = sum(len(row["findings"]) for row in tally.values())
    print(f"{'together':<12} {total:>12,} {'':>12} {seconds:>8,.0f} {'':>9} {found:>8}")
    for name, row in tally.items():
        for what, example in row["findings"].items():
            print(f"\n{name}: {what}\n{example}")


class Counter:
    """Runs inputs through a target and writes down what happened."""

    def __init__(self, target: Target, out: Path, *, seconds: float) -> None:
        self.target, self.out, self.seconds = target, out, seconds
        self.started = time.perf_counter()
        self.executions = self.refused = 0
        self.findings: dict[str, str] = {}

    def run(self, data: bytes) -> None:
        before = time.process_time()
        try:
            self.target.check(data)
        except self.target.allowed:
            self.refused += 1
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}"
            self.findings.setdefault(what, f"{str(error)[:200]!r} from {data[:400]!r}")
        self.executions += 1
        took_s = time.process_time() - before
        if took_s > SLOW_S:
            self.findings.setdefault("slow", f"{took_s:.1f} s for {data[:400]!r}")

    @property
    def over(self) -> bool:
        return time.perf_counter() - self.started >= self.seconds

    def write(self) -> None:
        seconds = time.perf_counter() - self.started
        counts = {"executions": self.executions, "refused": self.refused, "seconds": seconds}
        self.out.write_text(json.dumps(counts | {"findings": self.findings}))


def fuzz_one(name: str, *, seconds: float, engine: str, seed: int, out: Path) -> None:
    """Fuzz one target in this process."""
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    root = "/dev/shm" if os.path.isdir("/dev/shm") else None
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-", dir=root))
    print(folder, flush=True)
    if engine == "atheris":
        with_atheris(name, folder, out, seconds=seconds, seed=seed)
    target = TARGETS[name](folder)
    counter, randomness = Counter(target, out, seconds=seconds), random.Random(seed)
    for data in target.seeds:
        counter.run(data)
    while not counter.over:
        for _ in range(100):
            counter.run(mutated(target.seeds, target.words, randomness))
        counter.write()
    subprocess.run(["rm", "-r", str(folder)], check=True)


def with_atheris(name: str, folder: Path, out: Path, *, seconds: float, seed: int) -> None:
    """Guided by coverage of resomap and yaml. libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["resomap", "yaml"]):
        target = TARGETS[name](folder)
    corpus = folder / "corpus"
    corpus.mkdir()
    for i, data in enumerate(target.seeds):
        (corpus / f"seed{i}").write_bytes(data)
    counter = Counter(target, out, seconds=seconds)

    def once(data: bytes) -> None:
        counter.run(data)
        if counter.executions % 50 == 0:
            counter.write()

    limits = [f"-max_total_time={int(seconds)}", f"-max_len={LONGEST}", f"-seed={seed % 2**31}", "-rss_limit_mb=8000"]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], once)
    atheris.Fuzz()


def mutated(seeds: list[bytes], words: list[bytes], randomness: random.Random) -> bytes:
    """A seed after one to eight small accidents."""
    pick, below = randomness.choice, randomness.randrange
    data = bytearray(pick(seeds))
    for _ in range(1 << below(4)):
        place, span = below(len(data) + 1), 1 << below(7)
        kind = below(8)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << below(8)
        elif kind == 1 and place < len(data):
            data[place] = below(256)
        elif kind == 2:
            del data[place : place + span]
        elif kind == 3:
            data[place:place] = data[place : place + span] * (1 + below(4))
        elif kind == 4:
            data[place:place] = pick(words)
        elif kind == 5:
            data[place : place + span] = pick(words)
        elif kind == 6:
            other = pick(seeds)
            start = below(len(other) + 1)
            data[place:] = other[start:]
        else:
            data[place : place + 4] = awkward(randomness)
    return bytes(data[: 16 * LONGEST])


if __name__ == "__main__":
    main()
