"""A study on a real file system that is too small for it, and read-only in between (as root, on Linux).

    python benchmarks/small_disk.py [--first-kib 200] [--growth 1.3]

The study of benchmarks/faults.py and its cache of decoded images lie on a tmpfs. Started, it runs into the full disk;
the file system is made a bit larger and read-only, and the study started; made writable, and started again; and so on
until it ends. Each time: exit status 2, one line that names the file and the reason, no traceback, no temporary file.
In the end it must equal the undisturbed study (faults.compare).
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from faults import arguments_for, compare, make_images, start, undisturbed


def attempt(data: Path, study: Path) -> tuple[int, str]:
    """Exit status, and the errors printed; fails on what must never happen."""
    running = start(study, arguments_for(data, study))
    status = running.end()
    errors = [line for line in running.text.splitlines() if line.startswith(("error:", "not done:"))]
    left = [str(path) for path in study.parent.rglob("*.tmp")]
    if "Traceback" in running.text or left or status not in (0, 2) or (status == 2 and len(errors) != 1):
        raise SystemExit(f"status {status}, left {left}:\n{running.text}")
    return status, errors[0].replace(str(study.parent), "") if errors else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first-kib", type=int, default=200)
    parser.add_argument("--growth", type=float, default=1.3)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="small-disk-"))
    data, disk = make_images(work / "data"), work / "disk"
    undisturbed(data, work / "reference")
    disk.mkdir()
    size_kib, starts = float(given.first_kib), 0
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(size_kib)}k", "tmpfs", disk], check=True)
    try:
        while True:
            status, error = attempt(data, disk / "study")
            starts += 1
            print(f"{int(size_kib):6d} KiB: {error or 'ended'}", flush=True)
            if status == 0:
                break
            size_kib *= given.growth
            subprocess.run(["mount", "-o", f"remount,ro,size={int(size_kib)}k", disk], check=True)
            _, error = attempt(data, disk / "study")
            starts += 1
            print(f"    read-only: {error}", flush=True)
            subprocess.run(["mount", "-o", f"remount,rw,size={int(size_kib)}k", disk], check=True)
        problems = compare(disk / "study", work / "reference")
        print(f"{starts} starts; then {'; '.join(problems[:4]) or 'equal to the undisturbed study'}")
    finally:
        subprocess.run(["umount", disk], check=True)


if __name__ == "__main__":
    main()
