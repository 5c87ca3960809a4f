"""Freed memory that stays: counted in page faults, in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from resomap import allocator

SCRIPT = """
import ctypes, json, resource
from resomap.allocator import keep_freed_memory, keeps_freed_memory, release_freed_memory

c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
c.malloc.argtypes = [ctypes.c_size_t]
c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
c.free.argtypes = [ctypes.c_void_p]
SIZE = 64 * 2**20

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        block = c.malloc(SIZE)
        c.memset(block, 1, SIZE)
        c.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident_mib():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize() / 2**20

found = {"default": faults(5), "at_first": keeps_freed_memory(), "taken": keep_freed_memory()}
faults(1)
found |= {"kept": faults(5), "held_mib": resident_mib(), "says": keeps_freed_memory()}
release_freed_memory()
found |= {"left_mib": resident_mib(), "after": faults(5), "at_last": keeps_freed_memory()}
print(json.dumps(found))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_memory_is_kept_and_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["at_first"], found["taken"], found["says"], found["at_last"]) == (False, True, True, False)
    assert found["default"] > 100  # at least one a huge page of 2 MiB: 5 x 32
    assert found["kept"] < 20
    assert found["after"] > 100
    assert found["held_mib"] - found["left_mib"] > 60


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_state", {"keeping": False, "asked_for_huge_pages": False})
    monkeypatch.setattr("sys.platform", "darwin")
    before = dict(os.environ)
    assert not allocator.keep_freed_memory()
    assert not allocator.keeps_freed_memory()
    allocator.release_freed_memory()
    allocator.trim()
    assert dict(os.environ) == before


def test_a_choice_of_the_users_own_is_not_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_state", {"keeping": False, "asked_for_huge_pages": False})
    monkeypatch.setattr(allocator, "_apply", lambda _settings: True)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    assert allocator.keep_freed_memory()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
    allocator.release_freed_memory()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    allocator.keep_freed_memory()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"
    allocator.release_freed_memory()
    assert "THP_MEM_ALLOC_ENABLE" not in os.environ
