"""The registry of running `robeing dev` fleets of this user.

Each fleet has a file that only the user can read, and holds a lock on it while it runs.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Identity:
    """The user's credentials for a fleet, PEM."""

    trust: str
    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class DevFleet:
    """A running fleet of `robeing dev`."""

    name: str
    started_unix_ms: int
    endpoints: tuple[str, ...]
    # `None` if it runs without TLS.
    identity: Identity | None
    # The agents that processes attach to: their names and addresses.
    attachable: tuple[tuple[str, str], ...]


def running(name: str | None = None) -> list[DevFleet]:
    """Returns the running fleets, or those of this name; the newest first."""
    found = [fleet for folder in searched() for fleet in _running_in(folder)]
    fleets = [fleet for fleet in found if name in (None, fleet.name)]
    return sorted(fleets, key=lambda fleet: fleet.started_unix_ms, reverse=True)


def searched() -> list[Path]:
    """Returns the directories that are searched."""
    user = os.geteuid()
    said = os.environ.get("XDG_RUNTIME_DIR", "")
    runtime = Path(said if said.startswith("/") else f"/run/user/{user}")
    try:
        folders = [runtime / "robeing"] if runtime.stat().st_uid == user else []
    except OSError:
        folders = []
    return [*folders, Path(tempfile.gettempdir()) / f"robeing-{user}"]


def _running_in(folder: Path) -> list[DevFleet]:
    if not _is_trusted(folder):
        return []
    read = (_read(path) for path in sorted(folder.glob("*.json")))
    return [fleet for fleet in read if fleet is not None]


def _is_trusted(folder: Path) -> bool:
    """Returns whether a directory is the user's, and nobody else can write to it."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _read(path: Path) -> DevFleet | None:
    """Returns the fleet of an entry, if it runs. One that was killed has left its entry, but no lock."""
    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _parse(json.load(file))
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _parse(entry: dict[str, Any]) -> DevFleet:
    identity = entry.get("identity")
    return DevFleet(
        name=entry["name"],
        started_unix_ms=entry["startedUnixMs"],
        endpoints=tuple(entry["endpoints"]),
        identity=Identity(identity["trust"], identity["certificate"], identity["key"]) if identity else None,
        attachable=tuple((one["agent"], one["address"]) for one in entry.get("attachable", ())),
    )
