"""Writes sbom.json, a CycloneDX 1.6 bill of what requirements.lock installs.

    python scripts/sbom.py [requirements.lock] [sbom.json]

Names and versions are the lock file's (which holds the hashes of their files); licences and who needs whom come from
the packages installed beside this script's Python. Packages of other systems, which the lock file names too, are listed
without those.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

_PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)(?:\s*;\s*([^\\]*))?")


def main(lock: str = "requirements.lock", out: str = "sbom.json") -> None:
    """Write the bill."""
    pinned = locked(Path(lock).read_text())
    components = [component(*package) for package in pinned]
    by_name: dict[str, list[str]] = {}
    for found in components:
        by_name.setdefault(found["name"], []).append(found["bom-ref"])
    text = "\n".join(found["bom-ref"] for found in components)
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, text)}",
        "version": 1,
        "metadata": {"component": application()},
        "components": components,
        "dependencies": [
            {"ref": "resomap", "dependsOn": needs("resomap", by_name)},
            *({"ref": found["bom-ref"], "dependsOn": needs(found["name"], by_name)} for found in components),
        ],
    }
    Path(out).write_text(json.dumps(bill, indent=1) + "\n")
    print(f"{out}: {len(components)} packages, {sum('licenses' in found for found in components)} with their licence")


def locked(text: str) -> list[tuple[str, str]]:
    """(name, version) in the lock file's order."""
    return [(normal(match[1]), match[2]) for line in text.splitlines() if (match := _PINNED.match(line))]


def normal(name: str) -> str:
    """A distribution's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def application() -> dict[str, Any]:
    """ResoMap itself."""
    licence = [{"license": {"id": "Apache-2.0"}}]
    version = metadata.version("resomap")
    return {"type": "application", "bom-ref": "resomap", "name": "resomap", "version": version, "licenses": licence}


def component(name: str, version: str) -> dict[str, Any]:
    """One package."""
    link = f"pkg:pypi/{name}@{version}"
    found: dict[str, Any] = {"type": "library", "bom-ref": link, "name": name, "version": version, "purl": link}
    if (licence := licence_of(name, version)) is not None:
        found["licenses"] = [licence]
    return found


def licence_of(name: str, version: str) -> dict[str, Any] | None:
    """As the installed package states it: an SPDX expression, else its classifier or its first line."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    if about["Version"] != version:
        return None
    if expression := about["License-Expression"]:
        return {"expression": expression}
    named = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier", []) if line.startswith("License ::")]
    words = named or [line.strip() for line in (about["License"] or "").splitlines() if line.strip()]
    return {"license": {"name": words[0][:100]}} if words else None


def needs(name: str, by_name: dict[str, list[str]]) -> list[str]:
    """References of the packages that an installed one requires, extras left out."""
    try:
        required = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []
    names = {normal(re.split(r"[\s\[<>=!~;(]", line, maxsplit=1)[0]) for line in required if "extra ==" not in line}
    return sorted(reference for needed in names for reference in by_name.get(needed, []))


if __name__ == "__main__":
    main(*sys.argv[1:])
