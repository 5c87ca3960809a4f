"""The study's door on a Ray cluster: an actor beside the study's own process, through which all traffic of cells goes.

Workers tell events and hear whether to stop; they read what the study shares (decoded images, saved states) and write
what they made, in pieces, into a folder of their attempt. Nothing of a worker lands in the study itself: the study's
process looks at an attempt's files and moves them (ray_files.commit).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from resomap.errors import StudyError
from resomap.printable import printable
from resomap.study.executors.events import Event
from resomap.study.executors.ray_files import Listing, inside, list_files

PIECE_BYTES = 8 * 2**20
STATE = "state:"
"""Begins the names of shared folders whose content changes."""


class Hub:
    """Lives in a process of its own on the study's machine; first of all it is opened."""

    def __init__(self) -> None:
        self._incoming: Path | None = None
        self._shared: dict[str, Path] = {}
        self._listings: dict[str, Listing] = {}
        self._events: list[tuple[str, Event]] = []
        self._given_up: set[str] = set()
        self._stopping = False

    def open(self, incoming: str) -> None:
        """Take what workers write.

        Args:
            incoming: folder for it; one folder an attempt in it.
        """
        self._incoming = Path(incoming)

    def share(self, folders: Mapping[str, str]) -> None:
        """Let workers read these folders, by name."""
        self._shared |= {name: Path(folder) for name, folder in folders.items()}

    def tell(self, attempt: str, events: Sequence[Event]) -> bool:
        """A worker's events; whether it shall stop."""
        self._events += [(attempt, event) for event in events]
        return self._stopping or attempt in self._given_up

    def take(self) -> list[tuple[str, Event]]:
        """What was told since the last call, in order."""
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """Tell every worker to save its state and end."""
        self._stopping = True

    def give_up(self, attempt: str) -> None:
        """Tell one worker to end."""
        self._given_up.add(attempt)

    def listing(self, name: str) -> Listing:
        """Files of a shared folder with size and digest."""
        if name.startswith(STATE):
            return list_files(self._folder(name))
        if name not in self._listings:
            self._listings[name] = list_files(self._folder(name))
        return self._listings[name]

    def read(self, name: str, file: str, offset: int) -> bytes:
        """A piece of a file of a shared folder."""
        with open(inside(self._folder(name), file), "rb") as stream:
            stream.seek(offset)
            return stream.read(PIECE_BYTES)

    def write(self, attempt: str, file: str, offset: int, piece: bytes) -> None:
        """A piece of a file that an attempt made."""
        if self._incoming is None:
            raise StudyError("the study takes no files yet")
        path = inside(self._incoming / attempt, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "r+b" if offset else "wb") as stream:
            stream.seek(offset)
            stream.write(piece)

    def _folder(self, name: str) -> Path:
        if name not in self._shared:
            raise StudyError(f"the study does not share {printable(name)}")
        return self._shared[name]
