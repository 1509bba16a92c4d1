"""Ray: a node with as many processors as there are processes."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

# Nothing is sent to anybody, and no token is made for calls within this machine: the others have none, either.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "disabled"

import ray

from peer import FINISH, NUMBERS, Peer, check

if TYPE_CHECKING:
    from ray import ObjectRef

# Bytes of shared memory for objects. Those of these tasks are small, and are not there.
OBJECTS = 256 << 20


@ray.remote
def noop(_: list[int]) -> None:
    """Does nothing."""


class Ray(Peer):
    """Ray keeps tasks and small results in the memory of the process that submits them."""

    name = "ray"
    keeps = "nothing once the submitter ends (in its memory); tasks of a process that dies are run again"

    def start(self) -> None:
        """Starts a node, and connects to it."""
        ended_by = signal.getsignal(signal.SIGTERM)
        ray.init(
            num_cpus=self.load.processes,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            object_store_memory=OBJECTS,
            _temp_dir=str(self.folders.short),
        )
        # Its own one waits for Ray, which may be gone.
        signal.signal(signal.SIGTERM, ended_by)

    def run(self, tasks: int) -> None:
        """Submits tasks one by one, and takes the results of a part of the window together."""
        self.in_parts(tasks, self._submit, self._collect)

    def stop(self) -> None:
        """Ends the node."""
        ray.shutdown()

    @staticmethod
    def _submit(count: int) -> list[ObjectRef[Any]]:
        return [noop.remote(NUMBERS) for _ in range(count)]

    @staticmethod
    def _collect(part: list[ObjectRef[Any]]) -> None:
        check(ray.get(part, timeout=FINISH))
