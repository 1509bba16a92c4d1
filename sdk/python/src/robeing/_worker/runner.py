"""Runs attempts by the handlers of an app, wherever they come from."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

from robeing._worker.definition import ANY_KIND, Definition
from robeing._worker.outcome import Failed, Outcome
from robeing._worker.processes import Children
from robeing._worker.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from robeing.context import Context

    # Returns why the process can't run tasks now; `None` or nothing if it can.
    HealthCheck = Callable[[], str | Awaitable[str | None] | None]

log = logging.getLogger("robeing")

# At most this much of the reason why a process can't run tasks is kept by agents, bytes.
MAX_UNHEALTHY_BYTES = 256


class Runner:
    """Runs attempts by handlers, each in its place."""

    def __init__(self, definitions: Mapping[str, Definition], health: HealthCheck | None = None) -> None:
        """Prepares the handlers.

        Raises:
            NotStartedError: one of them can't run.
        """
        for definition in definitions.values():
            definition.check()
        self._definitions = dict(definitions)
        self._health = health
        self._limits = {kind: asyncio.Semaphore(n) for kind in definitions if (n := _at_once(definitions[kind]))}
        self._children = {kind: Children(one) for kind, one in definitions.items() if one.where == "process"}
        self.threads = Threads()
        # Set while the process is stopping: it starts no more attempts.
        self.draining = False
        # The number of attempts that run.
        self.running = 0
        self._idle = asyncio.Event()

    def run(self, context: Context, data: bytes) -> Coroutine[Any, Any, Outcome]:
        """Runs an attempt to its end. If this is cancelled, the handler is told to stop, and waited for."""
        definition = self._definitions.get(context.kind) or self._definitions.get(ANY_KIND)
        if definition is None:
            return self._unknown(context)
        limit = self._limits.get(definition.kind)
        running = self._place(definition, context, data)
        return running if limit is None else _within(limit, running)

    def _place(self, definition: Definition, context: Context, data: bytes) -> Coroutine[Any, Any, Outcome]:
        if definition.where == "loop":
            return definition.run_here(context, data)
        if definition.where == "thread":
            return self.threads.run(definition, context, data)
        return self._children[definition.kind].run(context, data)

    async def _unknown(self, context: Context) -> Outcome:
        known = ", ".join(self._definitions) or "none"
        return Failed(f"this process has no handler for tasks of the kind {context.kind!r}; it has {known}")

    def began(self) -> None:
        """Counts an attempt."""
        self.running += 1

    def ended(self) -> None:
        """Counts the end of an attempt."""
        self.running -= 1
        if self.draining and self.running == 0:
            self._idle.set()

    async def idle(self) -> None:
        """Waits, while the process is stopping, until no attempt runs."""
        if self.running:
            await self._idle.wait()

    async def unhealthy(self) -> str:
        """Returns why the process can't run tasks now; nothing if it can."""
        if self.draining:
            return "the process is stopping"
        if self._health is None:
            return ""
        try:
            said = self._health()
            if not isinstance(said, str | None):
                said = await said
        except Exception as error:
            log.exception("the health check failed")
            said = f"its health check failed: {type(error).__qualname__}: {error}"
        return (said or "").encode()[:MAX_UNHEALTHY_BYTES].decode("utf-8", "ignore")

    def close(self) -> None:
        """Ends the processes and threads of handlers; threads only when their functions return."""
        for children in self._children.values():
            children.close()
        self.threads.close()


async def _within(limit: asyncio.Semaphore, running: Coroutine[Any, Any, Outcome]) -> Outcome:
    try:
        async with limit:
            return await running
    finally:
        # If it was stopped before it began.
        running.close()


def _at_once(definition: Definition) -> int | None:
    """Returns how many attempts of a handler run at once; `None`: any number."""
    if definition.slots is not None:
        return definition.slots
    return os.cpu_count() or 1 if definition.where == "process" else None
