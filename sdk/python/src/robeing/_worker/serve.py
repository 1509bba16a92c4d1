"""Keeps a process attached to agents until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from grpc import aio

from robeing._worker.session import Session, said

if TYPE_CHECKING:
    from collections.abc import Callable

    from robeing._worker.addresses import Agents
    from robeing._worker.runner import Runner
    from robeing.fleet import Fleet

log = logging.getLogger("robeing")

# The pauses before a process attaches again, seconds; each is up to half shorter, so that not all come at once.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
# How often agents are looked for if no address was given, seconds.
LOOK_EVERY = 1.0
# How long the end of a drained session may take, seconds.
FINISH_WITHIN = 1.0


class Server:
    """Attaches to agents, and runs what they give."""

    def __init__(self, runner: Runner, agents: Agents, fleet: Callable[[], Fleet] | None = None) -> None:
        """Prepares sessions with these agents.

        Raises:
            NotStartedError: an address is wrong.
        """
        self._runner = runner
        self._agents = agents
        self._chosen = agents.chosen()
        self._fleet = fleet
        self._name = f"{Path(sys.argv[0]).stem or 'python'}-{os.getpid()}"
        self._kept: dict[str, asyncio.Task[None]] = {}
        self._open: set[Session] = set()
        self._stopping = asyncio.Event()
        self._interrupted = asyncio.Event()

    def stop(self) -> None:
        """Lets what runs come to its end, and starts nothing more. The second call ends what runs."""
        if self._stopping.is_set():
            self._interrupted.set()
        self._runner.draining = True
        self._stopping.set()

    async def serve(self, drain: float) -> None:
        """Runs tasks until `stop`, and then those that run for `drain` seconds at most."""
        looking = asyncio.create_task(self._look())
        try:
            await self._stopping.wait()
            await self._drain(drain)
        finally:
            looking.cancel()
            for kept in self._kept.values():
                kept.cancel()
            await asyncio.gather(looking, *self._kept.values(), return_exceptions=True)
            self._runner.close()

    async def _drain(self, seconds: float) -> None:
        if self._runner.running:
            log.info("stopping; %d tasks that run have %g s", self._runner.running, seconds)
        idle = asyncio.ensure_future(self._runner.idle())
        interrupted = asyncio.ensure_future(self._interrupted.wait())
        await asyncio.wait([idle, interrupted], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (idle, interrupted):
            waiting.cancel()
        if not self._runner.running:
            finishing = asyncio.gather(*(session.finish() for session in self._open))
            await asyncio.wait([asyncio.ensure_future(finishing)], timeout=FINISH_WITHIN)

    async def _look(self) -> None:
        """Attaches to the agents that there are, and to those that come."""
        while True:
            there = self._chosen
            if there is None:
                there = await asyncio.to_thread(self._agents.found)
            for address in there:
                if address not in self._kept:
                    self._kept[address] = asyncio.create_task(self._keep(address))
            for address in self._kept.keys() - set(there):
                # It goes on as long as the agent is there.
                if self._kept[address].done():
                    del self._kept[address]
            if self._chosen:
                return
            await asyncio.sleep(LOOK_EVERY)

    async def _keep(self, address: str) -> None:
        """Stays attached to the agent at an address, or ends once it is gone and not to be found any more."""
        pause = FIRST_PAUSE
        told: str | None = None
        while True:
            session = Session(self._runner, address, self._name, self._fleet)
            self._open.add(session)
            try:
                await session.attach()
                why = "the agent ended the session"
            except aio.AioRpcError as error:
                why = "the agent is gone" if session.was_welcome else said(error)
            except Exception:
                log.exception("the session with %s failed", address)
                why = "the session failed"
            finally:
                self._open.discard(session)
            if self._stopping.is_set():
                return
            if session.was_welcome:
                pause, told = FIRST_PAUSE, None
            if why != told:
                log.warning("not attached to %s: %s; trying again", address, why)
                told = why
            if not self._chosen and address not in await asyncio.to_thread(self._agents.found):
                return
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            pause = min(2 * pause, LONGEST_PAUSE)
