"""What a process does that runs attempts of one handler, one at a time, for the process that started it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from robeing._worker.definition import definition_of
from robeing._worker.outcome import Failed, Outcome, Stopped
from robeing._worker.reports import pass_on_logs
from robeing.context import Context
from robeing.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from robeing.context import Report

Message = tuple[str, int, str, float | None, bytes, list[bytes], bytes]


class _Running:
    """The attempt that runs now, for the handler of the signal that ends it."""

    def __init__(self) -> None:
        self.context: Context | None = None
        signal.signal(signal.SIGTERM, self._stop)
        # Ctrl-C in a terminal reaches all its processes; the one that started this one decides.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _stop(self, _signal: int, _frame: object) -> None:
        context = self.context
        if context is not None and not context.cancelled:
            context._stop()
            raise asyncio.CancelledError(f"attempt {context.fence} was stopped")


def main(connection: Connection[Any, Any], function: Callable[..., Any]) -> None:
    """Runs attempts until the other side of the connection is gone."""
    running = _Running()
    definition = definition_of(function)
    if definition is None:
        raise RuntimeError(f"{function!r} is no handler when it is imported by another process")
    messages: SimpleQueue[Message] = SimpleQueue()
    pass_on_logs()
    threading.Thread(target=_listen, args=(connection, messages), daemon=True).start()
    sending = threading.Lock()

    def send(message: Outcome | Report) -> None:
        with sending:
            connection.send(message)

    while True:
        task_id, attempt, kind, remaining, carried, given, data = messages.get()
        ends = None if remaining is None else time.monotonic() + remaining
        context = Context(task_id, attempt, kind, ends=ends, report=lambda _, report: send(report))
        context._given = (carried, [wire.GivenResult.FromString(result) for result in given])
        outcome: Outcome = Failed("it was not run")
        try:
            running.context = context
            outcome = definition.run_blocking(context, data)
            running.context = None
        except asyncio.CancelledError:
            running.context = None
            outcome = Stopped()
        send(outcome)


def _listen(connection: Connection[Any, Any], messages: SimpleQueue[Message]) -> None:
    """Passes on what the other side sends. Without it, nobody wants what this process does."""
    try:
        while True:
            messages.put(connection.recv())
    except (EOFError, OSError):
        os._exit(1)
