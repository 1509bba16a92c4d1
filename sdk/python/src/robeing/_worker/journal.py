"""What a task has asked others for in earlier attempts, and what came of it.

A handler that asks for subtasks ends its attempt, so that it holds no slot while it waits. The next attempt begins it
anew with this journal: what it asks for again is answered from it, until it asks for something new.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from robeing._worker.outcome import Suspended
from robeing.errors import PermanentError
from robeing.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Sequence

# The most subtasks of one request, and the most bytes of their inputs and of what is carried, together.
MAX_SUBTASKS = 1_000
MAX_BYTES = 1024 * 1024
# The first byte of what is carried, which says how it is written.
_VERSION = b"\x01"
_LENGTH = struct.Struct(">I")


class Suspend(BaseException):
    """Ends an attempt whose task waits for subtasks. No `except Exception` of a handler gets in its way."""

    def __init__(self, outcome: Suspended) -> None:
        super().__init__("the task waits for subtasks")
        self.outcome = outcome


class Journal:
    """The requests of a task for subtasks so far, in their order."""

    def __init__(self, carried: bytes, results: Sequence[wire.GivenResult]) -> None:
        """Reads what the attempt was given.

        Raises:
            PermanentError: it was not left by this SDK.
        """
        self._entries = _read(carried)
        asked = self._entries[-1].attempt if self._entries else 0
        split = len(results) - asked
        if split < 0:
            raise PermanentError(f"the task was given {len(results)} results, but has asked for {asked} subtasks")
        # The results of the tasks on which the task depends.
        self.dependencies = list(results[:split])
        if self._entries:
            del self._entries[-1].results[:]
            self._entries[-1].results.extend(results[split:])
        self._next = 0

    def ask(self, subtasks: Sequence[wire.Subtask]) -> Sequence[wire.GivenResult]:
        """Returns the results of subtasks that an earlier attempt has asked for.

        Raises:
            Suspend: none has, so this attempt does, and ends.
            PermanentError: an earlier one has asked for others, or there are too many.
        """
        if not subtasks:
            # There is nothing to wait for, and an agent takes no request without subtasks.
            return ()
        digest = _digest(subtasks)
        if self._next < len(self._entries):
            entry = self._entries[self._next]
            self._next += 1
            if entry.task_id != digest:
                raise PermanentError(
                    f"request {self._next} for subtasks is not that of an earlier attempt: a handler must ask for the "
                    "same subtasks in the same order whenever it is run"
                )
            return entry.results
        if len(subtasks) > MAX_SUBTASKS:
            raise PermanentError(f"{len(subtasks):,} subtasks are more than {MAX_SUBTASKS:,}; use context.gather")
        entry = wire.Task(task_id=digest, attempt=len(subtasks))
        carried = _written([*self._entries, entry])
        size = len(carried) + sum(len(one.input) for one in subtasks)
        if size > MAX_BYTES:
            raise PermanentError(
                f"the inputs of subtasks, and the results of earlier ones, have {size:,} bytes of {MAX_BYTES:,}; pass "
                "references, or use context.gather"
            )
        raise Suspend(Suspended(tuple(subtasks), carried))


def _digest(subtasks: Sequence[wire.Subtask]) -> str:
    digest = hashlib.sha256()
    for one in subtasks:
        for part in (one.kind.encode(), one.input):
            digest.update(_LENGTH.pack(len(part)))
            digest.update(part)
    return digest.hexdigest()


def _written(entries: Sequence[wire.Task]) -> bytes:
    parts = [_VERSION]
    for entry in entries:
        encoded = entry.SerializeToString()
        parts += (_LENGTH.pack(len(encoded)), encoded)
    return b"".join(parts)


def _read(carried: bytes) -> list[wire.Task]:
    if not carried:
        return []
    if not carried.startswith(_VERSION):
        raise PermanentError("an earlier attempt has left something that this version of the SDK can't read")
    entries = []
    start = len(_VERSION)
    while start < len(carried):
        (length,) = _LENGTH.unpack_from(carried, start)
        start += _LENGTH.size
        entries.append(wire.Task.FromString(carried[start : start + length]))
        start += length
    return entries
