"""What waits to be sent to an agent: as few messages as may be, because each costs more than what is in it."""

from __future__ import annotations

from collections import deque

from robeing.worker.v1 import worker_pb2 as wire

# The most messages of a batch, and subtasks that its results ask for, which agents check; and its bytes. What is larger
# is sent by itself.
MAX_BATCH = 256
MAX_BATCH_SUBTASKS = 10_000
MAX_BATCH_BYTES = 1024 * 1024

_BATCHED = ("progress", "log")
# A result, or another message.
_Message = wire.TaskResult | wire.FromProcess


class Outgoing:
    """Messages to an agent, in their order."""

    def __init__(self) -> None:
        # Whether the agent takes batches.
        self.takes_batches = False
        self._messages: deque[_Message] = deque()

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message: _Message) -> None:
        """Adds a message."""
        self._messages.append(message)

    def take(self) -> wire.FromProcess:
        """Takes the first message, with those after it that are sent together with it."""
        waiting = self._messages
        first = waiting.popleft()
        if not self.takes_batches or not waiting or not _is_batched(first):
            return _alone(first)
        batch = [first]
        size, subtasks = first.ByteSize(), _subtasks(first)
        while waiting and len(batch) < MAX_BATCH and _is_batched(waiting[0]):
            size += waiting[0].ByteSize()
            subtasks += _subtasks(waiting[0])
            if size > MAX_BATCH_BYTES or subtasks > MAX_BATCH_SUBTASKS:
                break
            batch.append(waiting.popleft())
        return _alone(first) if len(batch) == 1 else _together(batch)

    def clear(self) -> None:
        """Drops all messages."""
        self._messages.clear()


def _is_batched(message: _Message) -> bool:
    return isinstance(message, wire.TaskResult) or message.WhichOneof("message") in _BATCHED


def _subtasks(message: _Message) -> int:
    """Returns how many subtasks a message asks for."""
    if isinstance(message, wire.TaskResult) and message.HasField("suspend"):
        return len(message.suspend.subtasks)
    return 0


def _alone(message: _Message) -> wire.FromProcess:
    return wire.FromProcess(result=message) if isinstance(message, wire.TaskResult) else message


def _together(messages: list[_Message]) -> wire.FromProcess:
    together = wire.FromProcess()
    batch = together.batch
    results = batch.results
    for message in messages:
        if isinstance(message, wire.TaskResult):
            results.append(message)
        elif message.HasField("log"):
            batch.logs.append(message.log)
        else:
            batch.progress.append(message.progress)
    return together
