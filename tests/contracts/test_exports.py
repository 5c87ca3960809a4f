"""The curated public API and `import resomap` itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

import resomap


@pytest.mark.parametrize("name", resomap.__all__)
def test_exports_every_public_name_can_be_had(name: str) -> None:
    assert getattr(resomap, name) is not None


def test_exports_all_and_dir_agree() -> None:
    assert dir(resomap) == sorted(resomap.__all__)


def test_exports_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        resomap.nonsense  # noqa: B018


def test_import_resomap_loads_no_heavy_library() -> None:
    code = "import resomap, sys; print(*sorted({'torch', 'pandas', 'mlflow', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
