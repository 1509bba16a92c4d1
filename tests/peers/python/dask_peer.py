"""Dask distributed: a scheduler and single-threaded workers, each a process."""

from __future__ import annotations

import sys
from typing import Any

from distributed import Client, wait

from peer import FINISH, NUMBERS, START, Folders, Load, Peer, check


def noop(_: list[int]) -> None:
    """Does nothing."""


class Dask(Peer):
    """Dask keeps tasks in the memory of its scheduler, and results in that of its workers."""

    name = "dask distributed"
    keeps = "nothing once the scheduler or the client ends (memory); tasks of a worker that dies are run again"

    def __init__(self, load: Load, folders: Folders) -> None:
        super().__init__(load, folders)
        self._client: Any = None

    def start(self) -> None:
        """Starts the scheduler and the workers."""
        file = self.folders.data / "scheduler.json"
        where = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
        # By default, a worker has two tasks at most, and each is fetched from the scheduler only then.
        ahead = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": str(self.load.ahead)}
        dask = [sys.executable, "-m", "dask"]
        self.child("scheduler", [*dask, "scheduler", "--port", "0", *where], **ahead)
        self.wait_until(file.exists, "the scheduler does not say where it is")
        of_one = ["--nthreads", "1", "--no-nanny", "--local-directory", str(self.folders.data)]
        for number in range(self.load.processes):
            self.child(f"worker-{number}", [*dask, "worker", *where, *of_one])
        self._client = Client(scheduler_file=str(file), timeout=START)  # type: ignore[no-untyped-call]
        self._client.wait_for_workers(self.load.processes, timeout=START)

    def run(self, tasks: int) -> None:
        """Submits tasks in parts of the window, and takes the results of a part together."""
        self.in_parts(tasks, self._submit, self._collect)

    def stop(self) -> None:
        """Ends the client, the workers and the scheduler."""
        try:
            if self._client is not None:
                self._client.close()
        finally:
            super().stop()

    def _submit(self, count: int) -> list[Any]:
        futures: list[Any] = self._client.map(noop, [NUMBERS] * count, pure=False)
        return futures

    def _collect(self, part: list[Any]) -> None:
        # A gather has no limit of its own.
        wait(part, timeout=FINISH)  # type: ignore[no-untyped-call]
        check(self._client.gather(part))
