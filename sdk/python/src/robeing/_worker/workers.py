"""Several copies of a program that run tasks, so that they use several processors."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time

from robeing.errors import NotStartedError

log = logging.getLogger("robeing")

# The variable that tells a copy the process id of the one that watches over it.
_WATCHED_BY = "ROBEING_PROCESS_OF"
# The most copies: an agent takes no more processes.
MAX_COPIES = 64
# The pauses before a copy that ended is started again, seconds.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
# A copy that ran for so long was well, seconds: the next pause is the first one again.
WELL_AFTER = 10.0
# How long copies have to end besides the time for tasks that run, seconds.
END_WITHIN = 10.0
# How often copies are looked at, seconds.
LOOK_EVERY = 0.2


def watcher() -> int | None:
    """Returns the id of the process that watches over this copy; `None` if it is no copy."""
    said = os.environ.get(_WATCHED_BY, "")
    return int(said) if said.isdigit() else None


def supervise(count: int, drain: float) -> int:
    """Runs copies of this program until it gets SIGTERM or SIGINT, and returns its exit status.

    Raises:
        NotStartedError: there are to be too many.
    """
    if count > MAX_COPIES:
        raise NotStartedError(f"{count} processes are too many: an agent takes {MAX_COPIES}")
    signals = _Signals()
    copies = [_Copy() for _ in range(count)]
    try:
        while not signals.came.wait(LOOK_EVERY):
            for copy in copies:
                copy.look()
        return _end(copies, signals, drain)
    finally:
        for copy in copies:
            copy.kill()


class _Signals:
    """The signals that end the program."""

    def __init__(self) -> None:
        self.count = 0
        self.came = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take)

    def _take(self, _number: int, _frame: object) -> None:
        self.count += 1
        self.came.set()


class _Copy:
    """One copy, which is started again when it ends."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._pause = FIRST_PAUSE
        self._due = 0.0

    def look(self) -> None:
        """Starts it if it does not run and its pause is over."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._due:
                self._start(now)
            return
        status = self._process.poll()
        if status is None:
            return
        self._pause = FIRST_PAUSE if now - self._began >= WELL_AFTER else min(2 * self._pause, LONGEST_PAUSE)
        log.warning("process %d ended with status %d; another follows in %g s", self._process.pid, status, self._pause)
        self._process, self._due = None, now + self._pause

    def _start(self, now: float) -> None:
        environment = {**os.environ, _WATCHED_BY: str(os.getpid())}
        # In a session of its own, so that Ctrl-C in the terminal reaches it through this process alone.
        self._process = subprocess.Popen(sys.orig_argv, env=environment, start_new_session=True)  # noqa: S603
        self._began = now

    @property
    def runs(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Asks it to end."""
        if self._process is not None and self.runs:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it, if it runs."""
        if self._process is not None and self.runs:
            self._process.kill()
            self._process.wait()


def _end(copies: list[_Copy], signals: _Signals, drain: float) -> int:
    """Asks all copies to end, once for each signal, and waits for them; returns 0 if they do."""
    told = 0
    ends = time.monotonic() + drain + END_WITHIN
    while any(copy.runs for copy in copies):
        if told < signals.count:
            told += 1
            for copy in copies:
                copy.stop()
        if time.monotonic() >= ends:
            log.warning("killing processes that do not end")
            return 1
        signals.came.clear()
        signals.came.wait(LOOK_EVERY)
    return 0
