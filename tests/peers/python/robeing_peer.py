"""Robeing: a fleet of `robeing dev`, with a process attached to each of its agents."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any, ClassVar

from robeing import Fleet, FleetError
from robeing.v1 import types_pb2

from peer import NUMBERS, Folders, Load, Peer, check

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MANIFEST = """\
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {{name: python}}
spec:
  coordinators: {{replicas: {coordinators}}}
  pools:
  - {{name: own, replicas: {agents}, slots: {slots}, executor: {{worker: {{}}}}}}
"""


class Robeing(Peer):
    """A fleet without TLS. Tasks are submitted by the SDK."""

    keeps = "every task and result, on the disks of a majority of the coordinators, before it is acknowledged"
    # A module of sdk/python/bench.
    handler: ClassVar[str]

    def __init__(self, load: Load, folders: Folders, program: Path, coordinators: int) -> None:
        super().__init__(load, folders)
        self._program = program
        self._coordinators = coordinators
        # Tasks, results and connections belong to one event loop.
        self._runner = asyncio.Runner()
        self._fleet: Fleet | None = None
        self._why = ""

    def start(self) -> None:
        """Starts the fleet, and then the processes that attach to its agents."""
        manifest = self.folders.data / "fleet.yaml"
        manifest.write_text(
            MANIFEST.format(coordinators=self._coordinators, agents=self.load.processes, slots=self.load.ahead)
        )
        command = [str(self._program), "dev", "-f", str(manifest), "--plaintext", "--plain"]
        # Its entry is found there, and no other fleet's.
        runtime = str(self.folders.data)
        self.child("dev", [*command, "--data", str(self.folders.data / "fleet")], XDG_RUNTIME_DIR=runtime)
        self.wait_until(lambda: bool(self._entries()), "it does not say where it is")
        entry = json.loads(self._entries()[0].read_text())
        for number, agent in enumerate(entry["attachable"]):
            address = agent["address"]
            self.child(f"handler-{number}", [sys.executable, "-m", self.handler], ROBEING_WORKER_ADDRESS=address)
        self._runner.run(self._connect(entry["endpoints"]))
        self.wait_until(lambda: self._runner.run(self._is_attached()), "not all of its agents have a process")

    def run(self, tasks: int) -> None:
        """Submits tasks, and takes their results as they come."""
        self._runner.run(self._run(tasks))

    def stop(self) -> None:
        """Ends the client, the processes and the fleet."""
        try:
            self._runner.run(self._disconnect())
            self._runner.close()
        finally:
            super().stop()

    def _entries(self) -> list[Path]:
        return list((self.folders.data / "robeing").glob("*.json"))

    async def _connect(self, endpoints: list[str]) -> None:
        self._fleet = Fleet.connect(*endpoints)

    async def _disconnect(self) -> None:
        if self._fleet is not None:
            await self._fleet.close()

    async def _is_attached(self) -> bool:
        """Whether all agents take tasks: one without a process has no slots."""
        try:
            agents = await self._client().agents()
        except FleetError:
            # It has no leader yet.
            return False
        live = [agent for agent in agents if agent.state == types_pb2.AGENT_STATE_LIVE]
        return sum(agent.slots == self.load.ahead for agent in live) == self.load.processes

    async def _run(self, tasks: int) -> None:
        room = asyncio.Semaphore(self.load.window)

        async def inputs() -> AsyncIterator[list[int]]:
            for _ in range(tasks):
                await room.acquire()
                yield NUMBERS

        taken = 0
        async for result in self._client().map("noop", inputs()):
            value: Any = result.value
            check([value])
            taken += 1
            room.release()
        if taken != tasks:
            raise RuntimeError(f"{self.name}: {taken} results of {tasks} tasks")

    def _client(self) -> Fleet:
        if self._fleet is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._fleet


class Sdk(Robeing):
    """The handler is written with the SDK."""

    name = "robeing, SDK"
    handler = "bench.sdk"


class Raw(Robeing):
    """The handler is written over the raw stubs."""

    name = "robeing, raw stubs"
    handler = "bench.raw"
