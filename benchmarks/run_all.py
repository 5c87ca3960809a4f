"""Runs every benchmark and puts what it printed into RESULTS.md, under its command.

    python benchmarks/run_all.py [--photographs DIR] [--only peers.py,matrix.py]

The sentences around the figures are people's: read them again afterwards. Hours on a small machine.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
COMMANDS = (
    "peers.py",
    "study_vs_parts.py",
    "matrix.py --rounds 3 --images 400 --models mobilenet_v3_small",
    "start_up.py",
    "start_up.py --models tiny_cnn,mobilenet_v3_small",
    "autotune.py choice --rounds 3",
    "autotune.py accuracy",
    "runs_at_once.py",
    "scaling.py --study",
    "data_share.py --rounds 5",
    "data_share.py --rounds 3 --images 96 --precision bf16 --models tiny_cnn,resnet18,mobilenet_v2 "
    "--resolutions 224,512",
    "data_share.py --rounds 3 --images 96 --models mobilenet_v3_small --resolutions 224,512",
    "keep_memory.py --repetitions 6",
    "latency_repeat.py command",
    "latency_repeat.py planted",
    "memory_prediction.py",
    "acuity_attention.py --dprime 20",
    "acuity_attention.py",
    "consistency_real.py",
    "known_answers.py",
    "calibration.py --replicates 2000",
    "large_study.py",
    "schedule.py",
    "faults.py --kills 100",
    "soak.py",
    "sharing.py",
    "ray_overhead.py --epochs 45",
)
ON_PHOTOGRAPHS = ("explanations.py --rounds 2 --photographs DIR", "fixres.py --photographs DIR")


def with_output(text: str, command: str, output: str) -> str:
    """RESULTS.md with this output in the first fenced block after the command, or in a section of its own."""
    block = f"```\n{output.strip()}\n```\n"
    named = f"`python benchmarks/{command}`"
    if named not in text:
        return f"{text.rstrip()}\n\n## {command}\n\n{named}\n\n{block}"
    before, after = text.split(named, 1)
    return before + named + re.sub(r"```\n.*?\n```\n", lambda _: block, after, count=1, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--photographs", type=Path, help="A folder of folders, one a class; without it two are left out."
    )
    parser.add_argument("--only", help="Comma-separated scripts.")
    given = parser.parse_args()
    commands = COMMANDS + (ON_PHOTOGRAPHS if given.photographs else ())
    chosen = given.only.split(",") if given.only else [command.split()[0] for command in commands]
    failed = []
    for command in commands:
        script, *words = command.split()
        if script not in chosen:
            continue
        words = [str(given.photographs) if word == "DIR" else word for word in words]
        print(f"{command} ...", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, str(HERE / script), *words], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            failed.append(command)
            continue
        RESULTS.write_text(with_output(RESULTS.read_text(), command, done.stdout))
    if failed:
        raise SystemExit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
