"""Apps: the handlers of a program, and how it runs them for a fleet."""

from __future__ import annotations

import asyncio
import inspect
import logging
import multiprocessing
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from robeing._worker import workers
from robeing._worker.addresses import Agents
from robeing._worker.definition import ATTRIBUTE, Definition, Where
from robeing._worker.reports import pass_on_logs
from robeing._worker.runner import Runner
from robeing._worker.serve import Server
from robeing.errors import NotStartedError
from robeing.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["App"]

log = logging.getLogger("robeing")

_F = TypeVar("_F", bound="Callable[..., Any]")
_H = TypeVar("_H", bound="Callable[[], str | Awaitable[str | None] | None]")

# How often a copy looks whether the process is there that watches over it, seconds.
_WATCHER_EVERY = 1.0
# The most bytes of the name of a kind.
MAX_KIND_BYTES = 253


class App:
    """The handlers of a program.

    `fleet` connects the client that handlers share, for subtasks; by default `Fleet.connect`.
    """

    def __init__(self, *, fleet: Callable[[], Fleet] = Fleet.connect) -> None:
        self._definitions: dict[str, Definition] = {}
        self._health: Callable[[], str | Awaitable[str | None] | None] | None = None
        self._connect = fleet
        self._fleet: Fleet | None = None

    def task(
        self,
        kind: str | None = None,
        *,
        slots: int | None = None,
        run_in: Where | None = None,
        permanent: tuple[type[BaseException], ...] = (),
    ) -> Callable[[_F], _F]:
        """Makes a function the handler of tasks of a kind.

        The function stays as it is, and can be called. Its parameter takes the task's input, and it returns the output:
        JSON by its annotations, or `bytes` as they are, or `robeing.Text`. With several parameters, the input is a JSON
        object with their names. A parameter annotated with `robeing.Context` gets the attempt.

        Args:
            kind: the kind of the tasks; without it, the function's name. `"*"` is every kind without a handler.
            slots: how many of them run at once in this process. Further ones that an agent gives wait here.
            run_in: where: a coroutine runs in the event loop (`"loop"`), a function in a `"thread"`, or in a
                `"process"` of its own, of which there are as many as processors unless `slots` is given.
            permanent: exceptions after which another attempt would fail in the same way, as after `PermanentError`.

        Raises:
            ValueError: the kind has a handler, or an option is out of its bounds.
            TypeError: a coroutine can't run in a thread or process, nor a function in the event loop.
        """

        def register(function: _F) -> _F:
            name = function.__name__ if kind is None else kind
            if not 1 <= len(name.encode()) <= MAX_KIND_BYTES:
                raise ValueError(f"the kind {name[:64]!r} must have 1 to {MAX_KIND_BYTES} bytes")
            if name in self._definitions:
                raise ValueError(f"tasks of the kind {name!r} have a handler already")
            if slots is not None and slots < 1:
                raise ValueError(f"the handler of {name!r} needs at least one slot, not {slots}")
            where = _where(function, run_in)
            definition = Definition(name, function, where, slots, permanent)
            self._definitions[name] = definition
            setattr(function, ATTRIBUTE, definition)
            return function

        return register

    def health(self, check: _H) -> _H:
        """Makes a function the health check: it returns why the process can't run tasks now, or `None` if it can.

        Agents ask periodically. It must answer within seconds, also while tasks run.
        """
        self._health = check
        return check

    @property
    def kinds(self) -> list[str]:
        """The kinds of tasks that have a handler."""
        return sorted(self._definitions)

    def run(
        self,
        *addresses: str,
        fleet: str | None = None,
        pool: str | None = None,
        processes: int = 1,
        drain: float = 20.0,
    ) -> None:
        """Runs tasks until the process gets SIGTERM or SIGINT.

        It attaches to the agents at `addresses`, or else to those in the environment variable ROBEING_WORKER_ADDRESS
        (separated by commas), or else to those of the newest fleet of `robeing dev`, or else to 127.0.0.1:8081. With
        `fleet` and `pool`, it attaches to the agents of the fleet of `robeing dev` that is called so, or of a pool of
        it. If an agent is not there, it waits for it.

        The first signal lets tasks that run end within `drain` seconds; the second one ends them.

        With `processes`, so many copies of this program run the tasks. The program must do nothing but call this when
        it is started again with the same command line.

        Raises:
            NotStartedError: a handler or an address can't be used.
        """
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            # This is a process for handlers that run in processes, which imports the program.
            return
        if not logging.getLogger().handlers:
            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        pass_on_logs()
        if processes > 1 and workers.watcher() is None:
            sys.exit(workers.supervise(processes, drain))
        asyncio.run(self._run(Agents(addresses, fleet, pool), drain))
        stuck = self._runner.threads.running
        if stuck:
            log.warning("ending, though %d functions in threads go on", stuck)
            logging.shutdown()
            os._exit(1)

    async def _run(self, agents: Agents, drain: float) -> None:
        server = self._server(agents)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        watching = loop.create_task(_stop_without(workers.watcher(), server))
        try:
            await self._serve(server, drain)
        finally:
            watching.cancel()

    async def serve(
        self, *addresses: str, fleet: str | None = None, pool: str | None = None, drain: float = 0.0
    ) -> None:
        """Runs tasks until this is cancelled, as `run` does, in a program that has its own event loop and signals."""
        server = self._server(Agents(addresses, fleet, pool))
        serving = asyncio.ensure_future(self._serve(server, drain))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            server.stop()
            await serving
            raise

    def _server(self, agents: Agents) -> Server:
        if not self._definitions:
            raise NotStartedError("the app has no handlers; decorate one with @app.task(kind)")
        self._runner = Runner(self._definitions, self._health)
        return Server(self._runner, agents, self._client)

    async def _serve(self, server: Server, drain: float) -> None:
        try:
            await server.serve(drain)
        finally:
            if self._fleet is not None:
                await self._fleet.close()
                self._fleet = None

    def _client(self) -> Fleet:
        if self._fleet is None:
            self._fleet = self._connect()
        return self._fleet


async def _stop_without(watcher: int | None, server: Server) -> None:
    """Stops a copy when the process is gone that watches over it."""
    while watcher is not None:
        if os.getppid() != watcher:
            log.warning("stopping, because the process %d is gone, which started this one", watcher)
            server.stop()
            return
        await asyncio.sleep(_WATCHER_EVERY)


def _where(function: Callable[..., Any], run_in: Where | None) -> Where:
    is_coroutine = inspect.iscoroutinefunction(function)
    if is_coroutine and run_in in ("thread", "process"):
        raise TypeError(f"{function.__qualname__} is a coroutine, which runs in the event loop, not in a {run_in}")
    if not is_coroutine and run_in == "loop":
        raise TypeError(f"{function.__qualname__} is no coroutine: it would block the event loop; write `async def`")
    return run_in or ("loop" if is_coroutine else "thread")
