"""What all peers have in common: processes that are started and ended, and how tasks are kept in flight."""

from __future__ import annotations

import abc
import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Part = TypeVar("Part")

# What each task gets; it returns nothing.
NUMBERS = [1, 2, 3]
# How long a peer may take to start, a process to end, and tasks to be finished, seconds.
START, END, FINISH = 60.0, 20.0, 300.0
# How often it is asked whether a peer has started, seconds.
POLL = 0.05
# The parts of a window: as many tasks as one has are awaited, and then submitted, together.
PARTS = 8


class Load(NamedTuple):
    """How the tasks are run."""

    # Processes that run tasks.
    processes: int
    # Tasks that a process may have got and not answered, where that can be set.
    ahead: int
    # Tasks that are submitted and whose results were not taken.
    window: int


class Folders(NamedTuple):
    """Where a peer may write."""

    # On the disk that is measured.
    data: Path
    # A path that is short enough for sockets.
    short: Path


class Child:
    """A process of a peer, in a process group of its own, which writes what it says to a file."""

    def __init__(self, name: str, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, **environment},
                process_group=0,
            )

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def said(self) -> str:
        """What it has written so far."""
        return f"{self.name}:\n{self._log.read_text(errors='replace')}"

    def stop(self) -> None:
        """Ends it, with all of its group if it does not by itself."""
        if not self.runs:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(END)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Peer(abc.ABC):
    """A system that runs tasks. One is made for each measurement, and nothing else runs meanwhile."""

    name: ClassVar[str]
    # What is left of accepted tasks and of results, whatever ends.
    keeps: ClassVar[str]

    def __init__(self, load: Load, folders: Folders) -> None:
        self.load = load
        self.folders = folders
        self._children: list[Child] = []

    @abc.abstractmethod
    def start(self) -> None:
        """Starts it, until it can run tasks by all of its processes."""

    @abc.abstractmethod
    def run(self, tasks: int) -> None:
        """Submits tasks, a window of them at once, and takes all results.

        Raises:
            Exception: one did not succeed, or not in time.
        """

    def stop(self) -> None:
        """Ends it, as far as it was started."""
        for child in reversed(self._children):
            child.stop()

    def child(self, name: str, command: list[str], **environment: str) -> None:
        """Starts a process, which `stop` ends."""
        self._children.append(Child(name, command, self.folders.data, environment))

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Waits until something holds.

        Raises:
            RuntimeError: it does not in time, or a process has ended.
        """
        ends = time.monotonic() + START
        while time.monotonic() < ends and all(child.runs for child in self._children):
            if holds():
                return
            time.sleep(POLL)
        said = "\n".join(child.said for child in self._children)
        raise RuntimeError(f"{self.name} did not start: {what}\n{said}")

    def in_parts(self, tasks: int, submit: Callable[[int], Part], collect: Callable[[Part], None]) -> None:
        """Keeps a window of tasks in flight: when it is full, the oldest part of it is awaited."""
        size = max(1, self.load.window // PARTS)
        flying: deque[Part] = deque()
        for begun in range(0, tasks, size):
            if len(flying) == PARTS:
                collect(flying.popleft())
            flying.append(submit(min(size, tasks - begun)))
        while flying:
            collect(flying.popleft())


def check(results: list[object]) -> None:
    """Checks what tasks have returned.

    Raises:
        RuntimeError: it is something.
    """
    if any(result is not None for result in results):
        raise RuntimeError("a task that returns nothing has returned something")
