"""Functions that run in threads. A thread can't be ended from outside: it is told to stop, and waited for."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from robeing._worker.outcome import Outcome, Stopped

if TYPE_CHECKING:
    from robeing._worker.definition import Definition
    from robeing.context import Context

# The most threads of a process. They are made as attempts need them, and an agent gives no more than it has slots.
MAX_THREADS = 1024


class Threads:
    """The threads of a process."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="robeing")
        self._running = 0
        self._counting = threading.Lock()
        self._waiting: set[asyncio.Future[Outcome]] = set()

    @property
    def running(self) -> int:
        """The number of functions that run, also those that were stopped and go on."""
        return self._running

    async def run(self, definition: Definition, context: Context, data: bytes) -> Outcome:
        """Runs a function in a thread. If this is cancelled, it tells the function, and waits until it has ended."""
        call = self._pool.submit(self._counted, definition, context, data)
        waiting = asyncio.wrap_future(call)
        self._waiting.add(waiting)
        try:
            while True:
                try:
                    return await asyncio.shield(waiting)
                except asyncio.CancelledError:
                    context._stop()
                    if call.cancel() or waiting.cancelled():
                        return Stopped()
        finally:
            self._waiting.discard(waiting)

    def close(self) -> None:
        """Takes no more functions, and waits for none."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for waiting in self._waiting:
            waiting.cancel()

    def _counted(self, definition: Definition, context: Context, data: bytes) -> Outcome:
        with self._counting:
            self._running += 1
        try:
            return definition.run_blocking(context, data)
        finally:
            with self._counting:
                self._running -= 1
