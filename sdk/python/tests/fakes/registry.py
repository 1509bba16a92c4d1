"""The registry of fleets of `robeing dev`."""

from __future__ import annotations

import fcntl
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class Registry:
    """The registry of fleets of `robeing dev`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "robeing"
        self.folder.mkdir(mode=0o700)
        self.folder.chmod(0o700)
        self._locked: list[Any] = []

    def add(self, name: str, *endpoints: str, started: int = 1, runs: bool = True, **fields: object) -> None:
        """Adds a fleet."""
        entry = {"name": name, "pid": 7, "startedUnixMs": started, "endpoints": endpoints, "data": "/data", **fields}
        path = self.folder / f"{name}-{started}.json"
        path.write_text(json.dumps(entry))
        if runs:
            file = path.open("rb")
            fcntl.flock(file, fcntl.LOCK_EX)
            self._locked.append(file)

    def close(self) -> None:
        """Ends all fleets."""
        for file in self._locked:
            file.close()
