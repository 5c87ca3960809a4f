"""requirements.lock and sbom.json say what requirements*.txt ask for. After a change there: make lock."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)


def pins(name: str) -> set[tuple[str, str]]:
    return {(re.sub(r"[-_.]+", "-", n).lower(), v) for n, v in PINNED.findall((ROOT / name).read_text())}


def test_the_lock_file_has_every_requirement_and_a_hash_for_each_package() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    asked = pins("requirements.txt") | pins("requirements-dev.txt")
    assert len(asked) > 25
    assert asked <= pins("requirements.lock"), "run `make lock`"
    blocks = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"(?m)^#.*\n", "", lock).strip())
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    assert len(blocks) == len(PINNED.findall(lock))


def test_the_bill_of_materials_is_that_of_the_lock_file() -> None:
    bill = json.loads((ROOT / "sbom.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert {(c["name"], c["version"]) for c in bill["components"]} == pins("requirements.lock"), "run `make lock`"
    known = {c["bom-ref"] for c in bill["components"]} | {"resomap"}
    assert {d["ref"] for d in bill["dependencies"]} == known
    assert {needed for d in bill["dependencies"] for needed in d["dependsOn"]} <= known


def test_neither_names_a_registry_or_a_path() -> None:
    for name in ("requirements.lock", "sbom.json"):
        assert not re.search(
            r"https?://|file:|--(?:extra-)?index-url|--find-links|(?<![\w.])/\w", (ROOT / name).read_text()
        )
