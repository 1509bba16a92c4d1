"""What attempts say while they run: how far they are, and lines for those who follow them.

Reports are gathered for a moment, so that a handler that says much does not keep results from being sent.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from robeing.context import Progress, Report, _current
from robeing.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

# How long reports of an attempt are gathered, seconds.
GATHER_FOR = 0.1
# What agents keep of an attempt: the newest lines, and of each its beginning; and of the text of a progress.
MAX_LINES = 1_000
MAX_LINES_BYTES = 64 * 1024
MAX_LINE_BYTES = 4_096
MAX_TEXT_BYTES = 256


class Reports:
    """The reports of one attempt that were not sent yet."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, key: tuple[str, int], send: Callable[[wire.FromProcess], None]
    ) -> None:
        self._loop = loop
        self._key = key
        self._send = send
        self._progress: Progress | None = None
        self._lines: deque[str] = deque()
        self._bytes = 0
        self._due: asyncio.TimerHandle | None = None

    def take(self, report: Report) -> None:
        """Takes a report."""
        if isinstance(report, Progress):
            self._progress = Progress(report.fraction, cut(report.text, MAX_TEXT_BYTES))
        else:
            for line in report.lines:
                self._add(cut(line, MAX_LINE_BYTES))
        if self._due is None:
            self._due = self._loop.call_later(GATHER_FOR, self.flush)

    def flush(self) -> None:
        """Sends what was gathered."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        task_id, attempt = self._key
        if self._progress is not None:
            progress = wire.Progress(fraction=self._progress.fraction, text=self._progress.text)
            said = wire.TaskProgress(task_id=task_id, attempt=attempt, progress=progress)
            self._send(wire.FromProcess(progress=said))
            self._progress = None
        if self._lines:
            lines = wire.TaskLog(task_id=task_id, attempt=attempt, lines=self._lines)
            self._send(wire.FromProcess(log=lines))
            self._lines.clear()
            self._bytes = 0

    def _add(self, line: str) -> None:
        self._lines.append(line)
        self._bytes += len(line.encode())
        while len(self._lines) > MAX_LINES or self._bytes > MAX_LINES_BYTES:
            self._bytes -= len(self._lines.popleft().encode())


def cut(text: str, most: int) -> str:
    """Returns the beginning of a text, of at most so many bytes."""
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")


class TaskLogHandler(logging.Handler):
    """Passes what a handler logs to those who follow its task: `robeing logs ID -f`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Passes on a record."""
        context = _current.get(None)
        if context is not None:
            try:
                context.log(self.format(record))
            except Exception:
                self.handleError(record)


def pass_on_logs() -> None:
    """Has what handlers log passed on to those who follow their tasks."""
    root = logging.getLogger()
    if not any(isinstance(handler, TaskLogHandler) for handler in root.handlers):
        handler = TaskLogHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)
