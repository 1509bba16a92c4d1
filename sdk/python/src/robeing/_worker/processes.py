"""Functions that run in processes of their own: they use other processors, and can be ended at any time.

Each child runs one attempt at a time. It gets `asyncio.CancelledError` when its attempt is stopped, and is killed when
it has answered, or if it does not do so soon. A child that dies takes only its own attempt with it. Another one is
started when needed.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import time
from typing import TYPE_CHECKING, Any

from robeing._worker.child import main
from robeing._worker.outcome import Failed, Outcome, Stopped
from robeing.context import Lines, Progress

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    from robeing._worker.definition import Definition
    from robeing.context import Context

# How long a child has to end an attempt after it was told to, seconds: an agent waits for two.
KILL_AFTER = 1.5

_SPAWN = multiprocessing.get_context("spawn")


class Children:
    """The processes in which one handler runs."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()

    async def run(self, context: Context, data: bytes) -> Outcome:
        """Runs the function in a process that is idle, or in a new one. If this is cancelled, the process is told."""
        child = self._idle.pop() if self._idle else self._start()
        outcome = await child.run(context, data)
        if child.is_usable:
            self._idle.append(child)
        else:
            self._all.discard(child)
        return outcome

    def close(self) -> None:
        """Kills all processes."""
        for child in self._all:
            child.kill()
        self._all.clear()
        self._idle.clear()

    def _start(self) -> _Child:
        child = _Child(self._definition)
        self._all.add(child)
        return child


class _Child:
    """One process, which runs one attempt at a time."""

    def __init__(self, definition: Definition) -> None:
        self._connection: Connection[Any, Any]
        self._connection, theirs = _SPAWN.Pipe()
        self._process: SpawnProcess = _SPAWN.Process(
            target=main, args=(theirs, definition.function), name=f"robeing-{definition.kind}", daemon=True
        )
        self._process.start()
        theirs.close()
        self.is_usable = True

    async def run(self, context: Context, data: bytes) -> Outcome:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Outcome] = loop.create_future()
        descriptor = self._connection.fileno()
        loop.add_reader(descriptor, self._read, context, answered)
        try:
            self._send(context, data)
            return await self._answer(context, answered)
        finally:
            loop.remove_reader(descriptor)
            if not self.is_usable:
                self.kill()

    def kill(self) -> None:
        self.is_usable = False
        self._process.kill()
        self._process.join()
        self._connection.close()

    async def _answer(self, context: Context, answered: asyncio.Future[Outcome]) -> Outcome:
        try:
            return await asyncio.shield(answered)
        except asyncio.CancelledError:
            context._stop()
            # It runs nothing else after this: the signal must not reach another attempt.
            self.is_usable = False
            self._process.terminate()
        ends = time.monotonic() + KILL_AFTER
        while not answered.done():
            try:
                await asyncio.wait([answered], timeout=ends - time.monotonic())
            except asyncio.CancelledError:
                # It was stopped once more.
                continue
            if not answered.done():
                return Stopped()
        return answered.result()

    def _send(self, context: Context, data: bytes) -> None:
        carried, results = context._given
        given = [result.SerializeToString() for result in results]
        try:
            self._connection.send(
                (context.task_id, context.attempt, context.kind, context.remaining, carried, given, data)
            )
        except OSError:
            # It is gone, which reading notices.
            self.is_usable = False

    def _read(self, context: Context, answered: asyncio.Future[Outcome]) -> None:
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            self.is_usable = False
            outcome: Outcome = self._gone()
        else:
            if isinstance(message, (Progress, Lines)):
                context._tell(message)
                return
            outcome = message
        if not answered.done():
            answered.set_result(outcome)

    def _gone(self) -> Failed:
        self._process.join(KILL_AFTER)
        code = self._process.exitcode
        if code is not None and code < 0:
            try:
                how = f"was killed by {signal.Signals(-code).name}"
            except ValueError:
                how = f"was killed by signal {-code}"
        else:
            how = f"ended with status {code}"
        return Failed(f"the process that ran it {how}", code=code)
