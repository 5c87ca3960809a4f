"""Places in memory that loading processes write batches into, and an accelerator reads them from.

torch's DataLoader moves each batch through a new piece of shared memory, which one thread then copies to page-locked
memory: about 1 GB/s, less than a fast card takes. Here the processes write where the card reads.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections import deque
from multiprocessing import get_all_start_methods, get_start_method

import numpy as np
import psutil
import torch
from torch import Tensor

_LARGEST_SHARE = 0.25
"""Share of the free memory that a ring may take."""
SPARE = 3
"""Places beyond those that are being filled: what the device may still be reading, or is about to."""


class Ring:
    """`places` batches of up to `images` uint8 images (side, side, 3), in memory shared with forked processes.

    The n-th batch since restart() lies in place n mod places. Before batch n is asked for, advance() waits until the
    device has read the one that lay there.
    """

    def __init__(self, places: int, images: int, side: int) -> None:
        self.places = places
        self._memory = mmap.mmap(-1, places * images * side * side * 3)
        flat = torch.frombuffer(self._memory, dtype=torch.uint8)
        self._pixels = flat.view(places, images, side, side, 3)
        self._owner = os.getpid()
        self._is_locked = _lock_pages(flat)
        self._pending: deque[torch.Event] = deque()

    def __del__(self) -> None:
        if not getattr(self, "_is_locked", False) or os.getpid() != self._owner:
            return
        with contextlib.suppress(Exception):  # at the interpreter's end CUDA may be gone
            self._wait(0)
            torch.cuda.cudart().cudaHostUnregister(self._pixels.data_ptr())

    def write(self, number: int, pixels_BHWC: np.ndarray) -> None:
        """Put a batch's (count, side, side, 3) uint8 pixels at its place; called in a loading process."""
        self._pixels[number % self.places, : len(pixels_BHWC)].copy_(torch.from_numpy(pixels_BHWC))

    def read(self, number: int, count: int) -> Tensor:
        """(count, side, side, 3) uint8: valid until batch number + SPARE is asked for."""
        return self._pixels[number % self.places, :count]

    def restart(self) -> None:
        """Batches are counted from 0 again."""
        self._wait(0)

    def advance(self) -> None:
        """What the device does with the latest batch has been launched; the next will be asked for."""
        if self._is_locked:
            event = torch.Event()
            event.record()
            self._pending.append(event)
            self._wait(SPARE - 1)

    def _wait(self, left: int) -> None:
        while len(self._pending) > left:
            self._pending.popleft().synchronize()


def ring_for(*, workers: int, prefetch_factor: int, images: int, side: int) -> Ring | None:
    """A ring for that many loading processes, to be read by the current CUDA device; None where there can be none.

    Processes must be forked to share its memory, and without CUDA there is nobody to read it.
    """
    may_fork = "fork" in get_all_start_methods() and get_start_method(allow_none=True) in (None, "fork")
    if not workers or not may_fork or not torch.cuda.is_available():
        return None
    places = workers * prefetch_factor + SPARE
    if places * images * side**2 * 3 > _LARGEST_SHARE * psutil.virtual_memory().available:
        return None
    return Ring(places, images, side)


def _lock_pages(flat: Tensor) -> bool:
    """Let CUDA copy from there without the help of the CPU."""
    if not torch.cuda.is_available():
        return False
    if int(torch.cuda.cudart().cudaHostRegister(flat.data_ptr(), flat.numel(), 0)) == 0:
        return True
    with contextlib.suppress(RuntimeError):  # the error stays until somebody asks for it: better now than in training
        torch.zeros(1, device="cuda")
    return False
